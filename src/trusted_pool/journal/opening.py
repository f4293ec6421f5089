"""Opening the journal's directory: the lock, the database, and what is said when it cannot be had."""

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import IO

from trusted_pool.ports.journal import JournalError

VERSION = 1
#: "TPjl": tells our database from any other SQLite file.
_APPLICATION_ID = 0x54506A6C
_SCHEMA = (
    """CREATE TABLE entry (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        remote_id TEXT NOT NULL UNIQUE,
        pool_id TEXT NOT NULL,
        job_id TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        body BLOB NOT NULL,
        UNIQUE (pool_id, job_id, attempt)
    )""",
    """CREATE TABLE event (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        remote_id TEXT NOT NULL
    )""",
    "CREATE INDEX event_of_entry ON event (remote_id)",
    "CREATE TABLE journal (id TEXT NOT NULL)",
    "CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)


def database_path(directory: Path) -> Path:
    """Where the database is."""
    return directory / "journal.db"


def damaged(directory: Path, words: str) -> JournalError:
    """Return the error of a damaged journal, with what to do."""
    words = " ".join(words.split())
    return JournalError(
        f"the journal {database_path(directory)} is damaged ({words}); check the disk, then move {directory} away and "
        "start again: what was running here is then tried elsewhere"
    )


def explained(directory: Path, error: sqlite3.Error | OSError) -> JournalError:
    """Return what an error means for the journal, in one line."""
    path = database_path(directory)
    if isinstance(error, OSError):
        return JournalError(f"cannot use the journal in {directory}: {error.strerror}; it must be ours to write")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(directory, str(error))
    hints = {
        sqlite3.SQLITE_FULL: "free some space; nothing of it was kept",
        sqlite3.SQLITE_BUSY: "another program has it open; end that one",
        sqlite3.SQLITE_LOCKED: "another program has it open; end that one",
        sqlite3.SQLITE_READONLY: "it must be ours to write",
        sqlite3.SQLITE_CANTOPEN: "it must be ours to write",
        sqlite3.SQLITE_IOERR: "check the disk, then restart",
    }
    return JournalError(f"the journal {path} cannot do it: {error}; {hints.get(code, 'restart')}")


def lock(directory: Path) -> IO[str]:
    """Make the directory and take its lock, which lasts until the file is closed or the process ends.

    Raises:
        JournalError: another process has it, or the directory cannot be written.
    """
    path = directory / "journal.lock"
    try:
        missing = not directory.exists()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if missing:
            _sync_directory(directory.parent)
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+", encoding="ascii")
    except OSError as error:
        raise explained(directory, error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read(20).strip() or "unknown"
        file.close()
        words = f"the journal in {directory} is in use by another worker (process {holder})"
        raise JournalError(f"{words}; end it, or choose another data directory") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def open_database(directory: Path, journal_id: str) -> tuple[sqlite3.Connection, str]:
    """Open the database, or make it under this id; return it and the journal's id.

    Raises:
        JournalError: damaged, not ours, or of a newer version.
        sqlite3.Error: anything else.
    """
    path = database_path(directory)
    path.touch(0o600)  # SQLite would let others read it; its side files take the mode over
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
    try:
        _set_up(connection, directory, journal_id)
        row = connection.execute("SELECT id FROM journal").fetchone()
        if row is None:
            raise damaged(directory, "it has no id")
    except BaseException:
        connection.close()
        raise
    return connection, str(row[0])


def _set_up(connection: sqlite3.Connection, directory: Path, journal_id: str) -> None:
    path = database_path(directory)
    application, version = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if not empty and application != _APPLICATION_ID:
        raise JournalError(f"{path} is not a worker's journal; choose another data directory")
    if version > VERSION:
        raise JournalError(f"the journal {path} was made by a newer version; install that version again")
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise JournalError(f"the file system of {path} cannot keep a journal safely; choose a local disk")
    connection.execute("PRAGMA synchronous = FULL")  # every commit is fsynced before it is answered
    if empty:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO journal (id) VALUES (?)", (journal_id,))
        connection.execute("COMMIT")
        _sync_directory(directory)
    finding = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if finding != "ok":
        raise damaged(directory, str(finding))


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
