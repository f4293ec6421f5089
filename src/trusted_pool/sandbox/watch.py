"""Watching a running program: the limits that no kernel mechanism ends it at."""

import asyncio
import time
from collections.abc import Awaitable

from trusted_pool.core.job import Usage
from trusted_pool.core.words import Reason
from trusted_pool.sandbox import memory_disks, proc
from trusted_pool.sandbox.breach import Breach
from trusted_pool.sandbox.cgroups import Group, Reading
from trusted_pool.sandbox.disk_watch import DiskWatch
from trusted_pool.sandbox.owner import Owner
from trusted_pool.sandbox.policy import Limits
from trusted_pool.sandbox.program import Program
from trusted_pool.sandbox.room import Room

#: The first look comes soon, so that short jobs are still measured where no kernel counter remembers them.
FIRST_LOOK_S = 0.05
LOOK_EVERY_S = 0.25


class Watch:
    """Looks at one program until its end. The first breach is the reason; it kills."""

    def __init__(self, program: Program, group: Group | None, limits: Limits, room: Room, directory: int) -> None:
        """`directory`: an open descriptor of the attempt's directory; `room`: the file system it is on."""
        self._program = program
        self._group = group
        self._limits = limits
        self._peak = 0
        self._cpu = 0.0
        self._began = 0.0
        self._ended = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.disk = DiskWatch(program, limits, room, directory, self._passed)
        self.breach: Breach | None = None
        self.processes = 0  #: the most that were seen, where no kernel counts those that were refused

    def ending_for(self, reason: Reason, seen: float = 0.0, words: str = "") -> None:
        """Note why the program is to end; the first reason stands."""
        if self.breach is None:
            self.breach = Breach(reason=reason, seen=seen, words=words)

    def end_for(self, reason: Reason, seen: float = 0.0, words: str = "") -> None:
        """Kill the program for a reason."""
        self._passed(Breach(reason=reason, seen=seen, words=words))

    def _passed(self, breach: Breach) -> None:
        if self.breach is None:
            self.breach = breach
        self._program.kill()

    def begin(self) -> None:
        """Let the wall clock run. It is a timer of its own: no look that fails can stop it."""
        self._began = time.monotonic()
        self.disk.begin()
        self._timer = asyncio.get_running_loop().call_later(self._limits.timeout_s, self._timeout)

    def end(self) -> None:
        """Stop the clock: no process is left."""
        self._ended = time.monotonic()
        if self._timer is not None:
            self._timer.cancel()
        self.disk.end()

    def loops(self) -> list[Awaitable[None]]:
        """Return what looks at the program until cancelled, each by itself: none has to wait for another."""
        return [self._guarded(each) for each in (self._look_on(), self.disk.count_on(), self.disk.hold_on())]

    async def _guarded(self, loop: Awaitable[None]) -> None:
        """A program that cannot be looked at any more is ended; this raises nothing else than a cancel."""
        try:
            await loop
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody would hold the limits from here on
            words = f"the worker could not measure it any more, so it was killed: {error or type(error).__name__}"
            self.end_for(Reason.SANDBOX_FAILED, words=words)

    async def _look_on(self) -> None:
        pause = FIRST_LOOK_S
        while True:
            await asyncio.sleep(pause)
            pause = LOOK_EVERY_S
            self._look()

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

    async def last_look(self, owner: Owner) -> None:
        """After the end: a short program may have gone beyond a limit between two looks."""
        reading = self.reading()
        limits = self._limits
        over = await self.disk.last_look(owner)
        if self.breach is not None:
            return
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
