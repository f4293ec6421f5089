"""The event loop of the simulation, and the processes that live on it.

Time jumps to the next timer as soon as nothing is left to do. What is ready runs in an order that the seed decides, one
step at a time. Each task belongs to a process (or to the world); a killed process takes no further step: its tasks are
not cancelled, so that no `finally` does what a dead process cannot.
"""

import asyncio
import contextlib
import contextvars
import heapq
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

from simulation.engine.chance import Chance

EPOCH_S = 1_000_000.0
MAX_STEPS = 3_000_000  #: a run that needs more turns in circles

_process: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("process", default=None)


class LivelockError(Exception):
    """The run does not come to an end."""


class Process:
    """One life of a coordinator or a worker, from its start to its crash."""

    def __init__(self, loop: "SeededLoop", name: str) -> None:
        self.name = name
        self.dead = False
        self.steps = 0
        self._loop = loop
        self._context = contextvars.copy_context()
        self._context.run(_process.set, self)
        self._parked: list[asyncio.Handle] | None = None
        self._armed: tuple[int, Callable[[], None]] | None = None

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "") -> "asyncio.Task[Any]":
        """Run something in this process."""
        return self._loop.create_task(work, name=name or None, context=self._context.copy())

    def call(self, function: Callable[..., None], *args: object) -> None:
        """Have something called in this process, as soon as it comes to it."""
        self._loop.call_soon(function, *args, context=self._context)

    def after_steps(self, steps: int, then: Callable[[], None]) -> None:
        """Have the world act after so many more steps of this process."""
        self._armed = (self.steps + steps, then)

    def freeze(self) -> None:
        """Take no step until `thaw`, as after SIGSTOP."""
        if self._parked is None:
            self._parked = []

    @property
    def frozen(self) -> bool:
        """Whether it takes no steps."""
        return self._parked is not None and not self.dead

    def thaw(self) -> None:
        """Go on."""
        if not self.dead:
            self._loop.resume(self.take_parked())

    def take_parked(self) -> list[asyncio.Handle]:
        """Return the steps that were put aside, and put none aside any more."""
        parked, self._parked = self._parked or [], None
        return parked

    def stops(self, handle: asyncio.Handle) -> bool:
        """Whether a step may not be taken now; it is kept when the process is only frozen."""
        if self.dead or self._parked is not None:
            self._parked = self._parked if self._parked is not None else []
            self._parked.append(handle)  # of a dead one: until `bury`
            return True
        self.steps += 1
        if self._armed is not None and self.steps > self._armed[0]:
            then, self._armed = self._armed[1], None
            then()
            return self.stops(handle)
        return False


def process_here() -> Process | None:
    """Return the process whose step this is."""
    return _process.get()


class _Numbered:
    """Hashes by the order of making, so that sets of it are gone through alike in every run."""

    _number: int

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class _Future(_Numbered, asyncio.Future):  # type: ignore[type-arg]
    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        super().__init__(loop=loop)


class _Task(_Numbered, asyncio.Task):  # type: ignore[type-arg]
    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)


class SeededLoop(asyncio.BaseEventLoop):
    """No threads, no sockets, no time of its own: what runs next is drawn."""

    def __init__(self, chance: Chance) -> None:
        super().__init__()
        self._now = EPOCH_S
        self._draw = chance.random
        self._ready: list[asyncio.Handle] = []
        self._numbers = itertools.count(1)
        #: Held, so that nothing of a dead process is ever closed by the collector.
        self._all: dict[int, tuple[_Task, contextvars.Context]] = {}
        self.steps = 0
        self.after_step: Callable[[], None] = lambda: None
        self.when_quiet: Callable[[], None] = lambda: None  #: nothing is under way but what waits for time

    def time(self) -> float:
        """Seconds that never pass by themselves."""
        return self._now

    def create_future(self) -> Any:
        """Return a numbered future."""
        return _Future(next(self._numbers), self)

    def create_task(self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None) -> Any:
        """Return a numbered task."""
        number = next(self._numbers)
        context = context if context is not None else contextvars.copy_context()
        task = _Task(number, coro, loop=self, name=name or f"task {number}", context=context)
        self._all[number] = task, context
        task.add_done_callback(lambda _: self._all.pop(number, None), context=contextvars.Context())
        return task

    def run_in_executor(self, _executor: Any, func: Callable[..., Any], *_args: Any) -> Any:
        """Refuse: a simulation has no threads."""
        raise AssertionError(f"a thread was asked for: {func!r}")

    def _write_to_self(self) -> None:
        """Nobody sleeps here who could be woken."""

    def tasks_of(self, process: Process | None) -> list[str]:
        """Return the names of a process's tasks that have not ended."""
        return [task.get_name() for task, context in self._all.values() if context.get(_process) is process]

    def resume(self, handles: list[asyncio.Handle]) -> None:
        """Take up steps that were put aside."""
        self._ready.extend(handles)

    def _run_once(self) -> None:
        self._to_next_moment()
        ready = self._ready
        if not ready:
            raise LivelockError("everything waits for something that never comes")
        # A step drawn from all that are ready: the last takes its place.
        at = int(self._draw() * len(ready))
        handle = ready[at]
        last = ready.pop()
        if at < len(ready):
            ready[at] = last
        if handle._cancelled:
            return
        process = handle._context.get(_process)
        if process is not None and process.stops(handle):
            return
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise LivelockError(f"no end after {MAX_STEPS} steps")
        handle._run()
        self.after_step()

    def _to_next_moment(self) -> None:
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
            self._timer_cancelled_count -= 1
        if not self._ready and scheduled and not self._stopping:
            self.when_quiet()
            self._now = max(self._now, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self._now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            self._ready.append(handle)

    def bury(self) -> None:
        """End all tasks that are left, once the run is over and nothing that they do matters."""
        for _ in range(50):
            for task, context in list(self._all.values()):
                process = context.get(_process)
                if process is not None:
                    process.dead = False
                    process.after_steps(MAX_STEPS, lambda: None)
                    self._ready.extend(process.take_parked())
                task.cancel()
            if not self._all:
                return
            with contextlib.suppress(Exception):  # whatever was left of the run
                self.run_until_complete(asyncio.sleep(1.0))
