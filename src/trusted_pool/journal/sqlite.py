"""The worker's journal in a directory: a SQLite database, a lock and the logs."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from trusted_pool.journal.logs import Logs
from trusted_pool.journal.opening import damaged, explained, lock, open_database
from trusted_pool.journal.rules import SILENT, check_remote_id, key_of, no_entry, taken
from trusted_pool.journal.writer import Writer
from trusted_pool.ports.journal import Change, Entry

#: Logs up to so many bytes are deleted in the event loop: quicker than a hop to a thread.
SMALL_LOG = 64 * 1024

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


class SqliteJournal:
    """The Journal port on `journal.db`, `journal.lock` and `logs/` in one directory. Made by `open`."""

    def __init__(self, directory: Path, lock_file: IO[str], connection: sqlite3.Connection, journal_id: str) -> None:
        self.journal_id = journal_id
        self._directory = directory
        self._lock_file = lock_file
        self._closed = False
        ids = [row[0] for row in connection.execute("SELECT remote_id FROM entry")]
        self._logs = Logs(directory / "logs", ids)
        self._writer = Writer(connection, lambda error: explained(directory, error))

    @classmethod
    def open(cls, directory: Path, *, journal_id: str) -> "SqliteJournal":
        """Open the journal in a directory, which is made when missing. Blocks for some milliseconds.

        Args:
            directory: where it is kept.
            journal_id: fresh and random; taken only when there is no journal yet.

        Raises:
            JournalError: in use, damaged, made by a newer version, or it cannot be written; says what to do.
        """
        lock_file = lock(directory)
        try:
            connection, known_id = open_database(directory, journal_id)
            try:
                return cls(directory, lock_file, connection, known_id)
            except BaseException:
                connection.close()
                raise
        except (sqlite3.Error, OSError) as error:
            lock_file.close()
            raise explained(directory, error) from error
        except BaseException:
            lock_file.close()
            raise

    async def accept(self, entry: Entry, kind: str | None = None) -> Entry:
        """Keep a new entry and, with `kind`, an event beside it; or return the one that has this attempt."""
        check_remote_id(entry.remote_id)

        def work(db: sqlite3.Connection) -> Entry:
            found = db.execute(
                "SELECT body FROM entry WHERE pool_id = ? AND job_id = ? AND attempt = ?", key_of(entry)
            ).fetchone()
            if found is not None:
                return self._entry(found[0])
            if db.execute("SELECT 1 FROM entry WHERE remote_id = ?", (entry.remote_id,)).fetchone():
                raise taken(entry.remote_id)
            values = (entry.remote_id, *key_of(entry), _encode(entry))
            db.execute("INSERT INTO entry (remote_id, pool_id, job_id, attempt, body) VALUES (?, ?, ?, ?, ?)", values)
            if kind is not None:
                db.execute("INSERT INTO event (kind, remote_id) VALUES (?, ?)", (kind, entry.remote_id))
            self._logs.add(entry.remote_id)
            return entry

        return await self._writer.write(work)

    async def put(self, entry: Entry, kind: str | None = None) -> int:
        """Keep the entry's new state; with `kind`, an event beside it. Return the newest seq."""

        def work(db: sqlite3.Connection) -> int:
            changed = db.execute(
                "UPDATE entry SET body = ? WHERE remote_id = ? AND pool_id = ? AND job_id = ? AND attempt = ?",
                (_encode(entry), entry.remote_id, *key_of(entry)),
            )
            if changed.rowcount != 1:
                raise no_entry(entry.remote_id)
            if kind is not None:
                db.execute("INSERT INTO event (kind, remote_id) VALUES (?, ?)", (kind, entry.remote_id))
            return _newest(db)

        newest = await self._writer.write(work)
        if entry.state in SILENT:
            self._logs.end(entry.remote_id)
        return newest

    async def entry(self, remote_id: str) -> Entry | None:
        """Load one entry."""

        def work(db: sqlite3.Connection) -> Entry | None:
            row = db.execute("SELECT body FROM entry WHERE remote_id = ?", (remote_id,)).fetchone()
            return None if row is None else self._entry(row[0])

        return await self._writer.read(work)

    async def entries(self) -> list[Entry]:
        """Load all entries, oldest first."""

        def work(db: sqlite3.Connection) -> list[Entry]:
            return [self._entry(row[0]) for row in db.execute("SELECT body FROM entry ORDER BY number")]

        return await self._writer.read(work)

    async def changes(self, after: int) -> Sequence[Change]:
        """Return the events after `after`, oldest first."""

        def work(db: sqlite3.Connection) -> list[Change]:
            rows = db.execute("SELECT seq, kind, remote_id FROM event WHERE seq > ? ORDER BY seq", (after,))
            return [Change(seq=seq, kind=kind, remote_id=remote_id) for seq, kind, remote_id in rows]

        return await self._writer.read(work)

    async def seq(self) -> int:
        """Return the newest seq."""
        return await self._writer.read(_newest)

    async def delete(self, remote_id: str) -> None:
        """Forget an entry, its events and its log. Idempotent."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM event WHERE remote_id = ?", (remote_id,))
            db.execute("DELETE FROM entry WHERE remote_id = ?", (remote_id,))

        # The log first: on a full disk it makes the room that the commit needs. Nobody misses it when a crash comes
        # between: what is deleted is kept elsewhere or wanted by nobody.
        if self._logs.size(remote_id) <= SMALL_LOG:
            self._logs.remove(remote_id)
        else:
            await asyncio.to_thread(self._logs.remove, remote_id)
        await self._writer.write(work)

    def append_log(self, remote_id: str, data: bytes) -> int:
        """Append framed bytes to the entry's log; return its size. Raises JournalError: no space, no such entry."""
        return self._logs.append(remote_id, data)

    async def read_log(self, remote_id: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes of the log from `start`; empty at its end or when there is none."""
        return await asyncio.to_thread(self._logs.read, remote_id, start, size)

    def log_size(self, remote_id: str) -> int:
        """Return the size of the log."""
        return self._logs.size(remote_id)

    async def setting(self, name: str) -> str | None:
        """Return a kept setting."""

        def work(db: sqlite3.Connection) -> str | None:
            row = db.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
            return None if row is None else str(row[0])

        return await self._writer.read(work)

    async def set_setting(self, name: str, value: str | None) -> None:
        """Keep a setting durably; None forgets it."""

        def work(db: sqlite3.Connection) -> None:
            if value is None:
                db.execute("DELETE FROM setting WHERE name = ?", (name,))
            else:
                db.execute("INSERT OR REPLACE INTO setting (name, value) VALUES (?, ?)", (name, value))

        await self._writer.write(work)

    async def close(self) -> None:
        """Finish what was ordered and let go. Idempotent; every other call then raises JournalError."""
        if self._closed:
            return
        self._closed = True
        self._logs.close()
        try:
            await self._writer.close()
        finally:
            self._lock_file.close()  # last: the next process may come

    def _entry(self, body: bytes) -> Entry:
        try:
            return _decode(body)
        except msgspec.MsgspecError as error:
            raise damaged(self._directory, f"an entry cannot be read: {error}") from error


def _newest(db: sqlite3.Connection) -> int:
    # The table of AUTOINCREMENT remembers the highest number also when its row is deleted.
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
    return 0 if row is None else int(row[0])
