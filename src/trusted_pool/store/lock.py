"""One process has a database at a time."""

import fcntl
import os
from pathlib import Path

from trusted_pool.ports.store import StoreInUseError


class DatabaseLock:
    """An flock on a file beside the database. The kernel lets go of it when the process ends, however it ends.

    The file stays: removing it would let two processes lock two files of one name.
    """

    def __init__(self, database: Path) -> None:
        """Take it. Raises StoreInUseError, OSError."""
        self.path = database.with_name(database.name + ".lock")
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise StoreInUseError(
                f"the data directory {database.parent} is in use by process {holder}. "
                "Stop that process, or give this one a directory of its own"
            ) from None
        except BaseException:
            os.close(self._fd)
            raise
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
