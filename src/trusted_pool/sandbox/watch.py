"""Watching a running program: the limits that no kernel mechanism ends it at."""

import asyncio
import time

import msgspec

from trusted_pool.core.job import Usage
from trusted_pool.core.words import Reason
from trusted_pool.sandbox import disk, held, memory_disks, proc
from trusted_pool.sandbox.cgroups import Group, Reading
from trusted_pool.sandbox.owner import Owner
from trusted_pool.sandbox.policy import Limits
from trusted_pool.sandbox.program import Program, settled
from trusted_pool.sandbox.room import Account, Room

#: The first look comes soon, so that short jobs are still measured where no kernel counter remembers them.
FIRST_LOOK_S = 0.05
LOOK_EVERY_S = 0.25
#: The disk is looked at at most this often, and never takes more than a tenth of the time.
DISK_EVERY_S = 1.0
_HIDDEN = "it made a directory unreadable, so that its files could not be counted"


class Breach(msgspec.Struct, frozen=True, kw_only=True):
    """The limit that ended a program, and what was seen. `words`: why, when it is not the plain limit."""

    reason: Reason
    seen: float = 0.0
    words: str = ""
    limit: str = ""  #: its name, where the reason alone does not tell it


class _Seen(msgspec.Struct, frozen=True):
    """What one look at the disk found."""

    use: disk.DiskUse
    held: held.Held
    memory: memory_disks.MemoryDisks
    free: int  #: bytes of the whole file system

    @property
    def bytes(self) -> int:
        """What the program takes, as far as it can be counted."""
        return self.use.bytes + self.held.bytes


class Watch:
    """Looks at one program until its end. The first breach is the reason; it kills."""

    def __init__(self, program: Program, group: Group | None, limits: Limits, room: Room, directory: int) -> None:
        """`directory`: an open descriptor of the attempt's directory; `room`: the file system it is on."""
        self._program = program
        self._group = group
        self._limits = limits
        self._directory = directory
        self._room = room
        self._account: Account | None = None
        self._devices: frozenset[int] = frozenset()
        self._peak = 0
        self._cpu = 0.0
        self._began = 0.0
        self._ended = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.breach: Breach | None = None
        self.open_files = 0  #: the most that a process was seen to have open
        self.processes = 0  #: the most that were seen, where no kernel counts those that were refused
        self.largest = 0  #: the longest file that was left, in bytes

    def ending_for(self, reason: Reason, seen: float = 0.0, words: str = "", limit: str = "") -> None:
        """Note why the program is to end; the first reason stands."""
        if self.breach is None:
            self.breach = Breach(reason=reason, seen=seen, words=words, limit=limit)

    def end_for(self, reason: Reason, seen: float = 0.0, words: str = "", limit: str = "") -> None:
        """Kill the program for a reason."""
        self.ending_for(reason, seen, words, limit)
        self._program.kill()

    def begin(self) -> None:
        """Let the wall clock run. It is a timer of its own: no look that fails can stop it."""
        self._began = time.monotonic()
        self._account = self._room.enter(self, self._limits.disk_bytes)
        self._timer = asyncio.get_running_loop().call_later(self._limits.timeout_s, self._timeout)

    def end(self) -> None:
        """Stop the clock: no process is left."""
        self._ended = time.monotonic()
        if self._timer is not None:
            self._timer.cancel()
        if self._account is not None:
            self._room.leave(self._account)
            self._account = None

    def over_room(self, seen: int, words: str) -> None:
        """Kill the program: the disk is nearly full, and not by what can be counted."""
        self.end_for(Reason.DISK_LIMIT, seen, words, "disk_mb")

    async def look_on(self) -> None:
        """Look until cancelled. A program that cannot be looked at any more is ended; this raises nothing else."""
        try:
            await self._look_on()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody would hold the limits from here on
            words = f"the worker could not measure it any more, so it was killed: {error or type(error).__name__}"
            self.end_for(Reason.SANDBOX_FAILED, words=words)

    async def _look_on(self) -> None:
        disk_due = self._began + LOOK_EVERY_S
        pause = FIRST_LOOK_S
        while True:
            await asyncio.sleep(pause)
            pause = LOOK_EVERY_S
            self._look()
            now = time.monotonic()
            if now >= disk_due:
                self._judge_disk(await settled(asyncio.to_thread(self._count_disk)))
                disk_due = time.monotonic() + max(DISK_EVERY_S, 10 * (time.monotonic() - now))

    def _timeout(self) -> None:
        self.end_for(Reason.TIMEOUT, self._limits.timeout_s)

    def _look(self) -> None:
        reading = self.reading()
        limits = self._limits
        if limits.cpu_seconds is not None and reading.cpu_seconds > limits.cpu_seconds:
            self.end_for(Reason.CPU_LIMIT, reading.cpu_seconds)
        if reading.oom_kills or (self._group is None and reading.memory_bytes > limits.memory_bytes):
            self.end_for(Reason.OUT_OF_MEMORY, reading.memory_peak_bytes)

    def reading(self) -> Reading:
        """What the tree used so far."""
        if self._group is not None:
            return self._group.read()
        init = self._program.init
        if init is not None:
            use = proc.use_of(proc.tree(init))
            self.processes = max(self.processes, use.processes)
            now = use.memory_bytes + memory_disks.use_of(init).bytes
            self._peak, self._cpu = max(self._peak, now), max(self._cpu, use.cpu_seconds)
            return Reading(cpu_seconds=self._cpu, memory_bytes=now, memory_peak_bytes=self._peak, approximate=True)
        return Reading(cpu_seconds=self._cpu, memory_peak_bytes=self._peak, approximate=True)

    def _count_disk(self) -> _Seen:
        """Count, in another thread: numbers alone. They are judged where the program's end is known."""
        limits = self._limits
        init = self._program.init

        def going() -> bool:
            return self._program.init is not None

        use = disk.use_of(self._directory, stop_bytes=limits.disk_bytes, stop_files=limits.files, going=going)
        self._devices = self._devices or held.devices(self._directory)
        if init is None:
            return _Seen(use, held.Held(), memory_disks.MemoryDisks(), self._room.free())
        found = held.held_by(proc.tree(init), self._devices, going)
        memory = memory_disks.use_of(init)
        if not going():  # its number may be another process's by now
            memory = memory_disks.MemoryDisks()
        return _Seen(use, found, memory, self._room.free())

    def _judge_disk(self, seen: _Seen) -> None:
        self.open_files = max(self.open_files, seen.held.open_files)
        breach = self._over(seen.use, seen.held.bytes, seen.memory.files)
        if breach is not None:
            self.end_for(breach.reason, breach.seen, breach.words, breach.limit)
        elif seen.use.hidden:
            self.end_for(Reason.DISK_LIMIT, seen.bytes, _HIDDEN, "disk_mb")
        elif self._account is not None:
            self._account.explained, self._account.unseen = seen.bytes, seen.held.unseen
            self._room.judge(seen.free)

    def _over(self, use: disk.DiskUse, held: int = 0, more_files: int = 0) -> Breach | None:
        """Say which limit of files was passed."""
        limits = self._limits
        if use.bytes + held > limits.disk_bytes:
            return Breach(reason=Reason.DISK_LIMIT, seen=use.bytes + held, limit="disk_mb")
        if use.files + more_files > limits.files:
            return Breach(reason=Reason.DISK_LIMIT, seen=use.files + more_files, limit="files")
        if use.too_deep:
            return Breach(reason=Reason.DISK_LIMIT, seen=disk.MAX_DEPTH, limit="directory_depth")
        return None

    async def last_look(self, owner: Owner) -> None:
        """After the end: a short program may have gone beyond a limit between two looks.

        `owner` reads the directory: it may make readable what the program hid.
        """
        reading = self.reading()
        limits = self._limits
        use = await owner.call(
            disk.use_of, self._directory, stop_bytes=limits.disk_bytes, stop_files=limits.files, permit=True
        )
        self.largest = use.largest
        if self.breach is not None:
            return
        over = self._over(use)
        if reading.oom_kills:
            self.breach = Breach(reason=Reason.OUT_OF_MEMORY, seen=reading.memory_peak_bytes)
        elif over is not None:
            self.breach = over
        elif limits.cpu_seconds is not None and reading.cpu_seconds > limits.cpu_seconds:
            self.breach = Breach(reason=Reason.CPU_LIMIT, seen=reading.cpu_seconds)

    def usage(self, reading: Reading) -> Usage:
        """What is reported."""
        return Usage(
            cpu_seconds=round(reading.cpu_seconds, 6),
            memory_peak_bytes=reading.memory_peak_bytes,
            wall_time_ms=round((self._ended - self._began) * 1000, 3) if self._began else 0.0,
            approximate=reading.approximate,
        )
