"""The journal in memory: the fake of tests and simulations. No threads, no files."""

import asyncio
from collections.abc import Sequence

from trusted_pool.journal.rules import check_remote_id, key_of, no_entry, taken
from trusted_pool.ports.journal import Change, Entry, JournalError


class _Kept:
    """What a crash leaves: everything that was answered, and the logs."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.changes: list[Change] = []
        self.seq = 0
        self.logs: dict[str, bytearray] = {}
        self.settings: dict[str, str] = {}


class MemoryJournal:
    """The Journal port on dictionaries; keeps the contract that SQLite keeps.

    A write gives other tasks a turn where SQLite waits for the disk, then takes effect and is answered at once: a
    crash in that turn forgets it.
    """

    def __init__(self, journal_id: str) -> None:
        self.journal_id = journal_id
        self._kept = _Kept()
        self._gone = ""  #: why it cannot be used any more

    def crash(self) -> "MemoryJournal":
        """End the process: the returned journal is the reopened one; whoever holds the old one gets JournalError."""
        return self._reopen("the process was killed")

    async def reopen(self) -> "MemoryJournal":
        """Return what a worker finds at its next start, after `close`."""
        await self.close()
        return self._reopen(self._gone)

    def _reopen(self, why: str) -> "MemoryJournal":
        self._gone = why
        after = MemoryJournal(self.journal_id)
        after._kept = self._kept  # the old one does not touch it any more
        return after

    def _must_live(self) -> None:
        if self._gone:
            raise JournalError(self._gone)

    async def _turn(self) -> _Kept:
        """Let others run, where SQLite waits for the disk."""
        self._must_live()
        await asyncio.sleep(0)
        self._must_live()
        return self._kept

    async def accept(self, entry: Entry, kind: str | None = None) -> Entry:
        """Keep a new entry and, with `kind`, an event beside it; or return the one that has this attempt."""
        check_remote_id(entry.remote_id)
        kept = await self._turn()
        for known in kept.entries.values():
            if key_of(known) == key_of(entry):
                return known
        if entry.remote_id in kept.entries:
            raise taken(entry.remote_id)
        kept.entries[entry.remote_id] = entry
        if kind is not None:
            kept.seq += 1
            kept.changes.append(Change(seq=kept.seq, kind=kind, remote_id=entry.remote_id))
        return entry

    async def put(self, entry: Entry, kind: str | None = None) -> int:
        """Keep the entry's new state; with `kind`, an event beside it. Return the newest seq."""
        kept = await self._turn()
        known = kept.entries.get(entry.remote_id)
        if known is None or key_of(known) != key_of(entry):
            raise no_entry(entry.remote_id)
        kept.entries[entry.remote_id] = entry
        if kind is not None:
            kept.seq += 1
            kept.changes.append(Change(seq=kept.seq, kind=kind, remote_id=entry.remote_id))
        return kept.seq

    async def entry(self, remote_id: str) -> Entry | None:
        """Load one entry."""
        return (await self._turn()).entries.get(remote_id)

    async def entries(self) -> list[Entry]:
        """Load all entries, oldest first."""
        return list((await self._turn()).entries.values())

    async def changes(self, after: int) -> Sequence[Change]:
        """Return the events after `after`, oldest first."""
        return [change for change in (await self._turn()).changes if change.seq > after]

    async def seq(self) -> int:
        """Return the newest seq."""
        return (await self._turn()).seq

    async def delete(self, remote_id: str) -> None:
        """Forget an entry, its events and its log. Idempotent."""
        kept = await self._turn()
        kept.changes = [change for change in kept.changes if change.remote_id != remote_id]
        kept.entries.pop(remote_id, None)
        kept.logs.pop(remote_id, None)

    def append_log(self, remote_id: str, data: bytes) -> int:
        """Append framed bytes to the entry's log; return its size."""
        self._must_live()
        if remote_id not in self._kept.entries:
            raise JournalError(f"there is no entry {remote_id[:80]!r} to log for")
        log = self._kept.logs.setdefault(remote_id, bytearray())
        log += data
        return len(log)

    async def read_log(self, remote_id: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes of the log from `start`; empty at its end or when there is none."""
        if start < 0 or size < 0:
            raise ValueError("start and size are not negative")
        return bytes((await self._turn()).logs.get(remote_id, b"")[start : start + size])

    def log_size(self, remote_id: str) -> int:
        """Return the size of the log."""
        self._must_live()
        return len(self._kept.logs.get(remote_id, b""))

    async def setting(self, name: str) -> str | None:
        """Return a kept setting."""
        return (await self._turn()).settings.get(name)

    async def set_setting(self, name: str, value: str | None) -> None:
        """Keep a setting durably; None forgets it."""
        kept = await self._turn()
        if value is None:
            kept.settings.pop(name, None)
        else:
            kept.settings[name] = value

    async def close(self) -> None:
        """Let go. Idempotent; every other call then raises JournalError."""
        self._gone = self._gone or "the journal is closed"
