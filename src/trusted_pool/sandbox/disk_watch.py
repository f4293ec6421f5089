"""Watching what a running program takes of the disk: its files, and what it holds without a name.

Two loops on two threads of the slot's own. Files are counted by looking at the directory, which nothing a program does
can hold up. Mapped files are read from /proc, where each line may have to wait for a process that is only now and then
given the processor: with hundreds of them, for minutes. So the second loop is never waited for, and what it has not
seen for long counts as unseen.
"""

import asyncio
import time
from collections.abc import Callable

from trusted_pool.core.words import Reason
from trusted_pool.sandbox import disk, held, memory_disks, proc
from trusted_pool.sandbox.breach import Breach
from trusted_pool.sandbox.owner import Owner
from trusted_pool.sandbox.policy import Limits
from trusted_pool.sandbox.program import Program, settled
from trusted_pool.sandbox.room import Account, Room

FIRST_LOOK_S = 0.25
#: The disk is looked at at most this often, and never takes more than a tenth of the time.
LOOK_EVERY_S = 1.0
#: A look at what has no name that takes longer sees too little.
OVERDUE_S = 5.0
_HIDDEN = "it made a directory unreadable, so that its files could not be counted"


class DiskWatch:
    """Looks at one program until its end; tells of the first limit that was passed."""

    def __init__(
        self, program: Program, limits: Limits, room: Room, directory: int, passed: Callable[[Breach], None]
    ) -> None:
        """`directory`: an open descriptor of the attempt's; `room`: the file system it is on."""
        self._program = program
        self._limits = limits
        self._room = room
        self._directory = directory
        self._passed = passed
        self._account: Account | None = None
        self._devices: frozenset[int] = frozenset()
        self._held = held.Held()
        self._held_since = 0.0  #: when the look began that has not ended yet, or 0
        self.open_files = 0  #: the most that a process was seen to have open
        self.largest = 0  #: the longest file that was left, in bytes

    def begin(self) -> None:
        """Open its account."""
        self._account = self._room.enter(self, self._limits.disk_bytes)

    def end(self) -> None:
        """Close its account: no process is left."""
        if self._account is not None:
            self._room.leave(self._account)
            self._account = None

    def over_room(self, seen: int, words: str) -> None:
        """Hear that the disk is nearly full, and not by what can be counted."""
        self._passed(Breach(reason=Reason.DISK_LIMIT, seen=seen, words=words, limit="disk_mb"))

    def _going(self) -> bool:
        return self._program.init is not None

    async def count_on(self) -> None:
        """Count files until cancelled."""
        await asyncio.sleep(FIRST_LOOK_S)
        while True:
            begun = time.monotonic()
            self._judge(*await settled(self._program.slot.counting.call(self._count)))
            await asyncio.sleep(_pause(begun))

    async def hold_on(self) -> None:
        """Look at what has no name until cancelled."""
        await asyncio.sleep(FIRST_LOOK_S)
        while True:
            begun = self._held_since = time.monotonic()
            self._held = await settled(self._program.slot.looking.call(self._look))
            self._held_since = 0.0
            self.open_files = max(self.open_files, self._held.open_files)
            await asyncio.sleep(_pause(begun))

    def _look(self) -> held.Held:
        """For the slot's second thread."""
        init = self._program.init
        self._devices = self._devices or held.devices(self._directory)
        return held.held_by(proc.tree(init), self._devices, self._going) if init is not None else held.Held()

    def _count(self) -> tuple[disk.DiskUse, memory_disks.MemoryDisks, int]:
        """For the slot's first thread: numbers alone. They are judged where the program's end is known."""
        limits, init = self._limits, self._program.init
        use = disk.use_of(self._directory, stop_bytes=limits.disk_bytes, stop_files=limits.files, going=self._going)
        memory = memory_disks.use_of(init) if init is not None else memory_disks.MemoryDisks()
        if not self._going():  # its number may be another process's by now
            memory = memory_disks.MemoryDisks()
        return use, memory, self._room.free()

    def _judge(self, use: disk.DiskUse, memory: memory_disks.MemoryDisks, free: int) -> None:
        breach = self._over(use, self._held.bytes, memory.files)
        if breach is None and use.hidden:
            breach = Breach(reason=Reason.DISK_LIMIT, seen=use.bytes, words=_HIDDEN, limit="disk_mb")
        if breach is not None:
            self._passed(breach)
        elif self._account is not None:
            overdue = self._held_since and time.monotonic() - self._held_since > OVERDUE_S
            self._account.explained = use.bytes + self._held.bytes
            self._account.unseen = self._held.unseen or bool(overdue)
            self._room.judge(free)

    def _over(self, use: disk.DiskUse, held: int = 0, more_files: int = 0) -> Breach | None:
        """Say which limit was passed."""
        limits = self._limits
        if use.bytes + held > limits.disk_bytes:
            return Breach(reason=Reason.DISK_LIMIT, seen=use.bytes + held, limit="disk_mb")
        if use.files + more_files > limits.files:
            return Breach(reason=Reason.DISK_LIMIT, seen=use.files + more_files, limit="files")
        if use.too_deep:
            return Breach(reason=Reason.DISK_LIMIT, seen=disk.MAX_DEPTH, limit="directory_depth")
        return None

    async def last_look(self, owner: Owner) -> Breach | None:
        """Look after the end. `owner` reads the directory: it may make readable what the program hid."""
        limits = self._limits
        use = await owner.call(
            disk.use_of, self._directory, stop_bytes=limits.disk_bytes, stop_files=limits.files, permit=True
        )
        self.largest = use.largest
        return self._over(use)


def _pause(begun: float) -> float:
    return max(LOOK_EVERY_S, 10 * (time.monotonic() - begun))
