"""Control groups of version 1: one hierarchy for each controller, counters reset by writing to them."""

import contextlib
import os
import threading
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

CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
#: A quota no machine reaches. Taking the quota away and putting it back makes the kernel patch its own code each time.
_UNTHROTTLED_US = PERIOD_US * 4096
_WEIGHT, _WEIGHT_OF_THE_DYING = 1024, 65536
_NEAR = 0.95  #: of the limit: from here on the kernel has begun to take cached pages back


def settings(limits: GroupLimits) -> dict[str, str]:
    """Return what is written into a task's groups, file by file."""
    memory, quota = str(limits.memory_bytes), limits.quota_us
    return {
        "memory.limit_in_bytes": memory,
        "memory.memsw.limit_in_bytes": memory,  # where the kernel counts swap
        "memory.swappiness": "0",
        "pids.max": str(limits.pids),
        "cpu.cfs_quota_us": str(_UNTHROTTLED_US if quota is None else quota),
    }


class V1Cgroups:
    """The worker's own directories, one below its present group in each hierarchy."""

    version = 1

    def __init__(self, own: dict[str, Path], name: str) -> None:
        """`own`: the worker's present group by controller. Raises OSError when it may not make groups there."""
        self._roots = {controller: path / name for controller, path in own.items()}
        for root in self.places():
            root.mkdir(exist_ok=True)

    def group(self, name: str) -> "V1Group":
        """Make the group of a slot."""
        paths = {controller: root / name for controller, root in self._roots.items()}
        for path in dict.fromkeys(paths.values()):
            path.mkdir(exist_ok=True)
        return V1Group(paths)

    def places(self) -> list[Path]:
        """Return the directories that all groups are below."""
        return list(dict.fromkeys(self._roots.values()))

    def close(self) -> None:
        """Remove them."""
        for place in self.places():
            remove(place)


class V1Group:
    """The group of one slot, used for one task after the other."""

    joins = False

    def __init__(self, paths: dict[str, Path]) -> None:
        """`paths`: existing directories by controller."""
        self._paths = paths
        self._memory_bytes = self._pids = 0
        self._memsw = (paths["memory"] / "memory.memsw.limit_in_bytes").exists()
        self._quota_us = 0
        self._weight = _WEIGHT
        self._task_quota_us = _UNTHROTTLED_US
        self._files = {
            "usage": Reader(paths["memory"] / "memory.usage_in_bytes"),
            "peak": Reader(paths["memory"] / "memory.max_usage_in_bytes"),
            "oom": Reader(paths["memory"] / "memory.oom_control"),
            "pids": Reader(paths["pids"] / "pids.events"),
            "cpu": Reader(paths["cpuacct"] / "cpuacct.usage"),
        }
        self._base: tuple[int, int, int] = (0, 0, 0)
        self._residue = 0
        with contextlib.suppress(OSError):  # an old kernel; the oom counter still tells
            write(paths["memory"] / "memory.swappiness", "0")

    def enter_thread(self) -> None:
        """Put the calling thread in, so that what it starts is born here."""
        for path in dict.fromkeys(self._paths.values()):
            write(path / "tasks", str(threading.get_native_id()))

    def quick(self, limits: GroupLimits) -> bool:
        """Lowering the limit may make the kernel take cached pages back, which takes long."""
        return limits.memory_bytes == self._memory_bytes

    def begin(self, limits: GroupLimits) -> None:
        """Set limits, reset the peak, remember the counters that only grow."""
        # A thread of ours lives here; it must never be the one that waits for the next period.
        self._set_quota(_UNTHROTTLED_US)
        self._set_weight(_WEIGHT)
        values = settings(limits)
        self._task_quota_us = int(values["cpu.cfs_quota_us"])
        if self._memory_bytes != limits.memory_bytes:
            self._set_memory(values)
            self._memory_bytes = limits.memory_bytes
        if self._pids != limits.pids:
            write(self._paths["pids"] / "pids.max", values["pids.max"])
            self._pids = limits.pids
        write(self._paths["memory"] / "memory.max_usage_in_bytes", "0")
        self._base = self._counters()
        self._residue = self._files["usage"].number()

    def _set_memory(self, values: dict[str, str]) -> None:
        memory = self._paths["memory"]
        if self._memsw:  # it may never be below the other one
            write(memory / "memory.memsw.limit_in_bytes", "-1")
        write(memory / "memory.limit_in_bytes", values["memory.limit_in_bytes"])
        if self._memsw:
            write(memory / "memory.memsw.limit_in_bytes", values["memory.memsw.limit_in_bytes"])

    def _set_quota(self, quota_us: int) -> None:
        if quota_us != self._quota_us:
            write(self._paths["cpu"] / "cpu.cfs_quota_us", str(quota_us))
            self._quota_us = quota_us

    def _set_weight(self, weight: int) -> None:
        """Set how much of the processors it gets beside others: what dies needs little, and at once."""
        if weight != self._weight:
            write(self._paths["cpu"] / "cpu.shares", str(weight))
            self._weight = weight

    def _counters(self) -> tuple[int, int, int]:
        files = self._files
        return files["cpu"].number(), files["oom"].field("oom_kill"), files["pids"].field("max")

    def join(self, pid: int) -> None:
        """Nothing: it was born here."""

    def throttle(self) -> None:
        """Set the task's share of the processors."""
        self._set_quota(self._task_quota_us)

    def unthrottle(self) -> None:
        """Lift it: hundreds of killed processes would take seconds to die at half a processor."""
        self._set_quota(_UNTHROTTLED_US)

    def read(self) -> Reading:
        """Read what the task used so far."""
        # What the slot's earlier tasks read from disk is cached on the slot's account. The kernel takes it back when
        # the limit is near; until then it is no use of this task.
        peak = self._files["peak"].number()
        if peak < self._memory_bytes * _NEAR:
            peak = max(0, peak - self._residue)
        cpu, oom, refused = (now - base for now, base in zip(self._counters(), self._base, strict=True))
        return Reading(
            cpu_seconds=cpu / 1e9,
            memory_bytes=self._files["usage"].number(),
            memory_peak_bytes=peak,
            oom_kills=oom,
            forks_refused=refused,
        )

    def pids(self) -> list[int]:
        """Return the processes; never our own."""
        return [pid for pid in processes(self._paths["pids"]) if pid != os.getpid()]

    def kill(self, spare: int) -> None:
        """Kill every process that is there now, but `spare`, and never our own."""
        self._set_weight(_WEIGHT_OF_THE_DYING)
        kill_members(lambda: processes(self._paths["pids"]), {spare, os.getpid()})

    def end(self) -> None:
        """Kill what is left."""
        self.unthrottle()
        kill_all([self._paths["pids"]], spare=os.getpid())

    def clear(self) -> None:
        """Nothing: the group is the slot's, and its thread lives in it."""

    def close(self) -> None:
        """Remove the group."""
        for reader in self._files.values():
            reader.close()
        for path in dict.fromkeys(self._paths.values()):
            remove(path)
