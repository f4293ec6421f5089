"""What an error of SQLite means for the store."""

import os
import sqlite3
from pathlib import Path

from trusted_pool.ports.store import StoreDamagedError, StoreError, StoreFullError

#: Fewer free bytes than this beside an input/output error mean that the disk is full, whatever SQLite calls it.
FULL_BELOW_BYTES = 1 << 20
_FATAL = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR")
_SURROUNDINGS = (
    *_FATAL,
    "SQLITE_FULL",
    "SQLITE_CANTOPEN",
    "SQLITE_READONLY",
    "SQLITE_PERM",
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
)


def damaged(path: Path, words: str) -> StoreDamagedError:
    """Say that the database is damaged and what to do."""
    return StoreDamagedError(
        f"the database {path} is damaged ({words}). It was left as it is. Stop the coordinator, copy {path}* to a safe "
        f"place, then put back a backup or try: sqlite3 {path} .recover | sqlite3 {path}.recovered"
    )


def meaning(error: Exception, path: Path) -> StoreError:
    """Return the store's error for one of SQLite's or of the system's."""
    name: str = getattr(error, "sqlite_errorname", None) or ""
    if isinstance(error, StoreError):
        return error
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return damaged(path, str(error))
    if name == "SQLITE_FULL" or (name.startswith("SQLITE_IOERR") and _no_space(path)):
        return full(path)
    if isinstance(error, OSError) and _no_space(path):
        return full(path)
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return StoreError(f"cannot write the database {path} ({error}). Check who owns {path.parent} and its mode")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreError(f"another program holds the database {path}. Close it (a sqlite3 shell?) and try again")
    if isinstance(error, sqlite3.Error):
        return StoreError(f"the database {path} failed: {error} ({name or type(error).__name__})")
    return StoreError(f"the store at {path} failed: {error!r}")


def full(path: Path) -> StoreFullError:
    """Say that there is no space."""
    return StoreFullError(
        f"no space is left for the database {path}. Nothing of this was kept. Make room, then try again"
    )


def is_surroundings(error: Exception) -> bool:
    """Whether disk, file or another program caused it, rather than what was to be written."""
    name: str = getattr(error, "sqlite_errorname", None) or ""
    return isinstance(error, OSError) or name.startswith(_SURROUNDINGS)


def is_fatal(error: Exception, path: Path) -> bool:
    """Whether nothing may be written after this error until somebody has looked: what is on disk is not known."""
    name: str = getattr(error, "sqlite_errorname", None) or ""
    return name.startswith(_FATAL) and not isinstance(meaning(error, path), StoreFullError)


def _no_space(path: Path) -> bool:
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < FULL_BELOW_BYTES
