"""What both daemons are given: clock, randomness, event loop, data directory."""

import asyncio
import gc
import os
import random  # noqa: TID251 - the one place
import secrets  # noqa: TID251 - the one place
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import uvloop

_T = TypeVar("_T")


class StartError(Exception):
    """A daemon cannot start; the message is one line and says what to type."""

    def __init__(self, message: str, *, usage: bool = False) -> None:
        """`usage`: what was typed or written is wrong, not the machine."""
        super().__init__(message)
        self.usage = usage


class SystemClock:
    """The machine's time."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()  # noqa: TID251 - the one place

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()


class SystemDice:
    """The machine's randomness."""

    def token(self, n_bytes: int) -> str:
        """Return unguessable hex."""
        return secrets.token_hex(n_bytes)

    def jitter(self) -> float:
        """Return a number in [0, 1)."""
        return random.random()  # noqa: S311 - spreads retries, keeps no secret


def settle() -> None:
    """Fit the interpreter to a daemon; docs/decisions/0005 has the measurements.

    What was imported is never garbage; a daemon makes many short-lived objects and few cycles; and the writer thread
    must not wait 5 ms for its turn while the event loop is busy.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    sys.setswitchinterval(0.001)


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a daemon on uvloop."""
    settle()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def make_directory(path: Path, what: str) -> None:
    """Make a data directory, mode 0700. Raises StartError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        raise StartError(f"the {what} {path} cannot be used: {error.strerror}; choose another with --data") from None
