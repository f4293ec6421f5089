"""Opening a database: whose it is, whether it is sound, whether its tables are ours."""

import os
import sqlite3
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from trusted_pool.ports.store import StoreDamagedError, StoreError
from trusted_pool.store.faults import damaged, meaning

#: The revision of `head.sql`; the newest migration.
HEAD = "0004"
#: "TPol": tells our databases from others.
APPLICATION_ID = 0x54506F6C
MAGIC = b"SQLite format 3\0"
BUSY_TIMEOUT_S = 5.0
WRITER_CACHE_KIB = 65_536
READER_CACHE_KIB = 16_384
#: The log never grows much beyond these pages; the writer copies it earlier, when nobody waits.
LOG_PAGES = 8000
#: Up to this size a start looks at every page: 0.1 s when the file is in memory.
LOOK_BYTES = 128 * 1024 * 1024


def connect(path: Path, *, reading: bool = False) -> sqlite3.Connection:
    """Open a connection in autocommit mode that any thread may use, one at a time."""
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=1024
    )
    cache = READER_CACHE_KIB if reading else WRITER_CACHE_KIB
    connection.execute(f"PRAGMA cache_size = -{cache}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {4 * LOG_PAGES * 4096}")  # after a flood it shrinks again
    if reading:
        connection.execute("PRAGMA query_only = ON")
    return connection


def make_file(path: Path) -> None:
    """Make the directory and an empty file, for our eyes only, so that a power cut keeps their names."""
    missing = [p for p in (path.parent, *path.parent.parents) if not p.exists()]
    for directory in reversed(missing):
        directory.mkdir(mode=0o700, exist_ok=True)
        _sync_directory(directory.parent)
    # SQLite gives its log the mode of the database.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    _sync_directory(path.parent)


def look(path: Path) -> None:
    """Refuse a damaged or foreign database without changing a byte. Raises StoreDamagedError, StoreError.

    Looks at the header, at both ends of each table, and at every page of a database that is not large: a million jobs
    still open fast, and what damage there is farther on is met when it is read.
    """
    with path.open("rb") as file:
        header = file.read(100)
    if not header:
        return
    if len(header) < 100 or not header.startswith(MAGIC):  # noqa: PLR2004  # the header's size
        raise damaged(path, "it does not begin like a database")
    # A connection that only reads cannot copy the log into a damaged database when it closes. Without a log it need
    # not even make one.
    log = path.with_name(path.name + "-wal")
    alone = "" if log.exists() and log.stat().st_size else "&immutable=1"
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro{alone}", uri=True, isolation_level=None)
    try:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if tables and application != APPLICATION_ID:
            raise StoreError(f"{path} is the database of another program. Give the coordinator a directory of its own")
        for table in tables:
            for how in ("NOT INDEXED", "ORDER BY 1 ASC", "ORDER BY 1 DESC"):
                connection.execute(f'SELECT * FROM "{table}" {how} LIMIT 1').fetchall()  # noqa: S608  # our own words
        if path.stat().st_size <= LOOK_BYTES:
            _look_everywhere(connection, path)
    except sqlite3.Error as error:
        raise meaning(error, path) from error
    finally:
        connection.close()


def _look_everywhere(connection: sqlite3.Connection, path: Path) -> None:
    """Check every page. Raises StoreDamagedError, sqlite3.Error."""
    found = connection.execute("PRAGMA quick_check(1)").fetchall()
    if found != [("ok",)]:
        raise damaged(path, " ".join(str(found[0][0]).split()))


def bring_to_head(connection: sqlite3.Connection, path: Path) -> None:
    """Give the database the tables of this version. Raises StoreError when it is newer than this program."""
    connection.execute("PRAGMA journal_mode = WAL")
    have = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'alembic_version'").fetchone()[0]
    if not have:
        _make_tables(connection)
        return
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    if row is None or row[0] != HEAD:
        from trusted_pool.store.migrate import upgrade  # noqa: PLC0415  # 300 ms, needed after an upgrade only

        upgrade(connection, path)


def _make_tables(connection: sqlite3.Connection) -> None:
    """Make all tables in one transaction: a crash leaves all or none."""
    script = files("trusted_pool.store").joinpath("head.sql").read_text("utf-8")
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in script.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


__all__ = ["HEAD", "StoreDamagedError", "bring_to_head", "connect", "look", "make_file"]
