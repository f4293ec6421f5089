"""Copies of a database, taken while a coordinator writes to it, and whether such a copy is sound."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import msgspec

from trusted_pool.ports.store import StoreError
from trusted_pool.store.faults import damaged, meaning
from trusted_pool.store.opening import APPLICATION_ID, BUSY_TIMEOUT_S, MAGIC
from trusted_pool.store.rows import all_states

#: Pages between two calls of the one who wants to know how far it is.
STEP_PAGES = 4096


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a copy holds and what it needs beside it."""

    jobs: dict[str, int]  #: by state
    blobs: dict[str, int]  #: digest → size, of those that are files


def snapshot(path: Path, target: Path, told: Callable[[int, int], None]) -> None:
    """Copy the database as it is at this one moment into a new file, durably.

    Nobody who writes waits for it. `told` is called with the pages done and all pages.

    Raises:
        StoreDamagedError: the database is damaged.
        StoreFullError: there is no space for the copy.
        StoreError: it cannot be read, or is another program's.
    """
    with _reading(path) as source:
        # A read that stays open holds the moment: else each write of the coordinator would begin the copy anew.
        source.execute("BEGIN")
        _must_be_ours(source, path)
        try:
            with closing(_new(target)) as copy:
                source.backup(copy, pages=STEP_PAGES, progress=lambda _, left, all_: told(all_ - left, all_))
            fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except (sqlite3.Error, OSError) as error:
            raise meaning(error, target) from error


def examine(path: Path, *, thoroughly: bool) -> Kept:
    """Check a copy and say what it holds. `thoroughly`: its indexes against its tables too.

    Raises:
        StoreDamagedError: it is damaged.
        StoreError: it is another program's.
    """
    with _reading(path, alone=True) as connection:
        _must_be_ours(connection, path)
        check = "integrity_check" if thoroughly else "quick_check"
        found = [row[0] for row in connection.execute(f"PRAGMA {check}(3)")]
        if found != ["ok"]:
            raise damaged(path, " ".join("; ".join(found).split()))
        jobs, _ = all_states(connection.execute("SELECT name, value FROM counters"))
        files = connection.execute("SELECT sha256, size FROM blobs WHERE data IS NULL AND state = 'live'")
        return Kept(jobs=jobs, blobs=dict(files))


@contextmanager
def _reading(path: Path, *, alone: bool = False) -> Iterator[sqlite3.Connection]:
    """Open a connection that changes no byte of the database, not even when it is the last one to close."""
    try:
        with path.open("rb") as file:
            if not file.read(len(MAGIC)).startswith(MAGIC):
                raise damaged(path, "it does not begin like a database")
        how = "mode=ro&immutable=1" if alone else "mode=ro"
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?{how}", uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S
        )
    except OSError as error:
        raise StoreError(f"the database {path} cannot be read: {error.strerror}") from None
    try:
        yield connection
    except sqlite3.Error as error:
        raise meaning(error, path) from error
    finally:
        connection.close()


def _new(target: Path) -> sqlite3.Connection:
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(target, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")  # synced once, when it is whole
    connection.execute("PRAGMA journal_mode = OFF")
    return connection


def _must_be_ours(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise StoreError(f"{path} is the database of another program")
