"""Control groups: limits of a whole tree of processes, and what it used.

One `Group` holds one running task at a time. The two kernels' ways differ in how a task gets in:

- version 1: the slot's thread lives in the slot's group, so that what it starts is born there. (Moving a process costs
  5 to 15 ms on an idle machine, because the kernel waits for a grace period; being born there costs nothing.)
- version 2: a thread cannot be apart from its process, so each task gets a fresh group and its first process is moved
  in before it may go on.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from trusted_pool.ports.sandbox import SandboxError

PERIOD_US = 100_000
#: How long the processes of a killed group may take to go. They are gone in milliseconds.
GONE_WITHIN_S = 10.0
_AT_ONCE = 256  #: descriptors of processes that are held at a time


class GroupLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the whole tree may use. `cpus` None: all there are."""

    memory_bytes: int
    pids: int
    cpus: float | None

    @property
    def quota_us(self) -> int | None:
        """Processor time in each period of `PERIOD_US`; None: all there is."""
        return None if self.cpus is None else max(1000, round(self.cpus * PERIOD_US))


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What the tree used since `begin`."""

    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    oom_kills: int = 0
    forks_refused: int = 0
    approximate: bool = False  #: some of it was polled


class Group(Protocol):
    """The group of one slot. Contract: begin, enter what is started, throttle, read; then end, read again, clear."""

    joins: bool  #: whether `join` does anything

    def enter_thread(self) -> None:
        """Called once in the slot's thread, before anything is started from it."""

    def quick(self, limits: GroupLimits) -> bool:
        """Whether `begin` with these limits takes no longer than a few small writes."""

    def begin(self, limits: GroupLimits) -> None:
        """Make ready for a task: limits set, counters at zero. Raises OSError."""

    def join(self, pid: int) -> None:
        """Take a process in that waits to go on; its descendants follow. May block for milliseconds."""

    def throttle(self) -> None:
        """Begin to hold the task to its share of the processors."""

    def unthrottle(self) -> None:
        """Let the task have all processors: what is killed needs them to die."""

    def read(self) -> Reading:
        """Read what the task used so far."""

    def pids(self) -> list[int]:
        """Return the processes of the task and bubblewrap's."""

    def kill(self, spare: int) -> None:
        """Kill every process that is there now, but `spare`. Waits for nothing."""

    def end(self) -> None:
        """Kill what is left and wait until it is gone."""

    def clear(self) -> None:
        """Let go of what was made for the ended task; nothing of it is read any more."""

    def close(self) -> None:
        """Remove the group. Called when the slot's thread has ended."""


class Cgroups(Protocol):
    """What this machine's kernel offers."""

    version: int

    def group(self, name: str) -> Group:
        """Make the group of a slot."""

    def places(self) -> list[Path]:
        """Return the directories that all groups of this worker are below; noted for a later sweep."""

    def close(self) -> None:
        """Remove the worker's own directories."""


def write(path: Path | str, text: str) -> None:
    """Write a control file in one write, as the kernel wants it. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


class Reader:
    """A control file kept open: one system call a reading."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises OSError."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def text(self) -> str:
        """Read it from its start."""
        return os.pread(self._fd, 4096, 0).decode()

    def number(self) -> int:
        """Read it as one number; "max" is 0."""
        text = self.text().strip()
        return int(text) if text.isdigit() else 0

    def field(self, name: str) -> int:
        """Read the number behind a name, 0 when the name is not there."""
        for line in self.text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
        return 0

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


def processes(directory: Path) -> list[int]:
    """Return the process ids of a group; empty when it is gone."""
    try:
        return [int(line) for line in (directory / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def kill_all(directories: Iterable[Path], *, spare: int = 0) -> None:
    """Kill every process of the groups, but `spare`, and wait until they are gone.

    Raises:
        SandboxError: something would not die.
    """
    deadline = time.monotonic() + GONE_WITHIN_S
    for directory in directories:
        while left := [pid for pid in processes(directory) if pid != spare]:
            if time.monotonic() > deadline:
                raise SandboxError(f"processes {left[:10]} in {directory} cannot be killed")
            if (directory / "cgroup.kill").exists():
                write(directory / "cgroup.kill", "1")
            kill_members(lambda directory=directory: processes(directory), {spare})  # type: ignore[misc]
            time.sleep(0.002)


def kill_members(members: Callable[[], Iterable[int]], spare: Collection[int]) -> None:
    """Kill processes. A number may be another process's by now: what is held on to is looked up again."""
    found = [pid for pid in members() if pid not in spare]
    for start in range(0, len(found), _AT_ONCE):
        with contextlib.ExitStack() as stack:
            held = {}
            for pid in found[start : start + _AT_ONCE]:
                with contextlib.suppress(ProcessLookupError):
                    held[pid] = os.pidfd_open(pid)
                    stack.callback(os.close, held[pid])
            for pid in held.keys() & set(members()):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(held[pid], signal.SIGKILL)


def remove(directory: Path) -> None:
    """Remove a group and those below it, killing what is inside. What is not there is no error. Raises SandboxError."""
    if not directory.is_dir():
        return
    below = [path for path, _, _ in os.walk(directory, topdown=False)]
    for path in below:
        kill_all([Path(path)], spare=os.getpid())
        with contextlib.suppress(FileNotFoundError):
            _rmdir(Path(path))


def _rmdir(path: Path) -> None:
    """Remove an empty group; the kernel may need a moment after its last process ended."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while True:
        try:
            path.rmdir()
        except FileNotFoundError:
            raise
        except OSError as error:
            if time.monotonic() > deadline:
                raise SandboxError(f"the control group {path} cannot be removed: {error}") from None
            time.sleep(0.002)
        else:
            return
