"""An event loop whose time jumps to the next timer as soon as nothing is left to do."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: a timeout is added to the clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise AssertionError("everything waits for something that never comes")
            self.now += max(timeout, 0.0)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop with its own time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds that never pass by themselves."""
        return self._jumping.now


class LoopClock:
    """The running loop's time as a Clock."""

    def now(self) -> float:
        """Seconds of the loop."""
        return asyncio.get_running_loop().time()

    monotonic = now


class CountingDice:
    """Randomness that is none: tokens count up."""

    def __init__(self) -> None:
        self._count = 0

    def token(self, n_bytes: int) -> str:
        """Return the next number as hex of that length."""
        self._count += 1
        return f"{self._count:0{2 * n_bytes}x}"

    def jitter(self) -> float:
        """Return no jitter."""
        return 0.0


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a test in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


async def elapse(seconds: float) -> None:
    """Let so much of the loop's time go by; none of anybody else's."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    loop.call_later(seconds, over.set_result, None)
    await over


async def until(holds: Callable[[], object], within_s: float = 3600.0) -> None:
    """Let time go by until something holds. Raises TimeoutError."""
    end = asyncio.get_running_loop().time() + within_s
    while not holds():
        if asyncio.get_running_loop().time() > end:
            raise TimeoutError("it never came to hold")
        await elapse(0.1)
