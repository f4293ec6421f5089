"""Control groups of version 2: one hierarchy, one fresh group for each task."""

import contextlib
import os
from pathlib import Path

from trusted_pool.sandbox.cgroups import (
    PERIOD_US,
    GroupLimits,
    Reader,
    Reading,
    kill_all,
    kill_members,
    processes,
    remove,
    write,
)

CONTROLLERS = ("memory", "pids", "cpu")
_ALL = f"max {PERIOD_US}"
_MAY_LACK = (FileNotFoundError,)  #: a kernel without swap accounting


def settings(limits: GroupLimits) -> dict[str, str]:
    """Return what is written into a task's group, file by file."""
    return {
        "memory.max": str(limits.memory_bytes),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": str(limits.pids),
        "cpu.max": f"{'max' if limits.quota_us is None else limits.quota_us} {PERIOD_US}",
    }


class V2Cgroups:
    """The worker's own directory. Controllers are handed down from `parent`, which must hold no processes then.

    The kernel allows processes in leaves only (its root is the one exception), so the worker moves itself out of
    `parent` into a leaf of its own.
    """

    version = 2

    def __init__(self, parent: Path, name: str, *, move_self: bool) -> None:
        """Make the directories. Raises OSError when the kernel says no."""
        self._root = parent / name
        self._leaf = parent / f"{name}-worker"
        if move_self:
            self._leaf.mkdir(exist_ok=True)
            write(self._leaf / "cgroup.procs", str(os.getpid()))
        enable(parent)
        self._root.mkdir(exist_ok=True)
        enable(self._root)

    def group(self, name: str) -> "V2Group":
        """Name the group of a slot; its directories are made for each task."""
        return V2Group(self._root / name)

    def places(self) -> list[Path]:
        """Return the directory that all groups are below."""
        return [self._root]

    def close(self) -> None:
        """Remove it. The worker's own leaf stays while the worker is in it."""
        remove(self._root)


def enable(directory: Path) -> None:
    """Hand the controllers down. Raises OSError."""
    now = (directory / "cgroup.subtree_control").read_text().split()
    missing = [name for name in CONTROLLERS if name not in now]
    if missing:
        write(directory / "cgroup.subtree_control", " ".join(f"+{name}" for name in missing))


class V2Group:
    """The group of one slot: a directory that exists while a task runs."""

    joins = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._share = _ALL
        self._files: dict[str, Reader] = {}
        self._peak = 0

    def enter_thread(self) -> None:
        """Nothing: threads cannot be apart from their process."""

    def quick(self, limits: GroupLimits) -> bool:  # noqa: ARG002 - the contract's
        """A fresh group holds nothing; removing the last one may have to wait."""
        return not self._path.exists()

    def begin(self, limits: GroupLimits) -> None:
        """Make a fresh group with limits."""
        self._forget()
        remove(self._path)
        self._path.mkdir()
        values = settings(limits)
        self._share, self._peak = values.pop("cpu.max"), 0  # the share begins with `throttle`
        for name, value in values.items():
            with contextlib.suppress(*(_MAY_LACK if name == "memory.swap.max" else ())):
                write(self._path / name, value)
        self._files = {
            "usage": Reader(self._path / "memory.current"),
            "events": Reader(self._path / "memory.events"),
            "cpu": Reader(self._path / "cpu.stat"),
            "pids": Reader(self._path / "pids.events"),
        }
        with contextlib.suppress(FileNotFoundError):  # since Linux 5.19; before, the polled maximum stands for it
            self._files["peak"] = Reader(self._path / "memory.peak")

    def join(self, pid: int) -> None:
        """Move it in."""
        write(self._path / "cgroup.procs", str(pid))

    def throttle(self) -> None:
        """Set the task's share of the processors."""
        if self._share != _ALL:
            write(self._path / "cpu.max", self._share)

    def unthrottle(self) -> None:
        """Lift it: hundreds of killed processes would take seconds to die at half a processor."""
        if self._share != _ALL and self._path.is_dir():
            write(self._path / "cpu.max", _ALL)

    def read(self) -> Reading:
        """Read what the task used so far."""
        files = self._files
        if not files:
            return Reading()
        usage = files["usage"].number()
        self._peak = max(self._peak, usage, files["peak"].number() if "peak" in files else 0)
        return Reading(
            cpu_seconds=files["cpu"].field("usage_usec") / 1e6,
            memory_bytes=usage,
            memory_peak_bytes=self._peak,
            oom_kills=files["events"].field("oom_kill"),
            forks_refused=files["pids"].field("max"),
            approximate="peak" not in files,
        )

    def pids(self) -> list[int]:
        """Return the processes."""
        return processes(self._path)

    def kill(self, spare: int) -> None:
        """Kill every process that is there now, but `spare`. What dies needs little of the processors, and at once."""
        with contextlib.suppress(FileNotFoundError):  # gone
            write(self._path / "cpu.weight", "10000")
        kill_members(lambda: processes(self._path), {spare})

    def end(self) -> None:
        """Kill what is left."""
        self.unthrottle()
        kill_all([self._path])

    def clear(self) -> None:
        """Remove the task's group; what keeps it from going now does so no more when the next task begins."""
        self._forget()
        with contextlib.suppress(OSError):
            self._path.rmdir()

    def _forget(self) -> None:
        for reader in self._files.values():
            reader.close()
        self._files = {}

    def close(self) -> None:
        """Remove the group."""
        self._forget()
        remove(self._path)
