"""Control groups of version 2: one hierarchy, one fresh group for each task."""

import contextlib
import os
from pathlib import Path

from trusted_pool.sandbox.cgroups import PERIOD_US, GroupLimits, Reader, Reading, kill_all, processes, remove, write

CONTROLLERS = ("memory", "pids", "cpu")


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
        self._cpus: float | None = None
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
        self._cpus, self._peak = limits.cpus, 0
        write(self._path / "memory.max", str(limits.memory_bytes))
        with contextlib.suppress(FileNotFoundError):  # a kernel without swap accounting
            write(self._path / "memory.swap.max", "0")
        write(self._path / "memory.oom.group", "1")
        write(self._path / "pids.max", str(limits.pids))
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
        if self._cpus is not None:
            write(self._path / "cpu.max", f"{max(1000, round(self._cpus * PERIOD_US))} {PERIOD_US}")

    def unthrottle(self) -> None:
        """Lift it: hundreds of killed processes would take seconds to die at half a processor."""
        if self._cpus is not None and self._path.is_dir():
            write(self._path / "cpu.max", f"max {PERIOD_US}")

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
        )

    def pids(self) -> list[int]:
        """Return the processes."""
        return processes(self._path)

    def end(self) -> None:
        """Kill what is left."""
        self.unthrottle()
        kill_all([self._path])

    def _forget(self) -> None:
        for reader in self._files.values():
            reader.close()
        self._files = {}

    def close(self) -> None:
        """Remove the group."""
        self._forget()
        remove(self._path)
