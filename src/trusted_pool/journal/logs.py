"""The framed logs of a worker's entries: one append-only file each."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path

from trusted_pool.ports.journal import JournalError


class Logs:
    """A directory of logs. Only for ids that were added; a file is kept open from its first byte until `end`."""

    def __init__(self, directory: Path, remote_ids: Iterable[str]) -> None:
        """Make the directory; remove logs of no entry (an older copy of the database was put back).

        Raises:
            OSError: the directory cannot be made or read.
        """
        self._directory = directory
        self._known = set(remote_ids)
        self._open: dict[str, tuple[int, int]] = {}  #: descriptor, size
        self._lock = threading.Lock()
        self._closed = False
        directory.mkdir(exist_ok=True, mode=0o700)
        for path in directory.glob("*.log"):
            if path.stem not in self._known:
                path.unlink()

    def add(self, remote_id: str) -> None:
        """Allow a log for this id, which was checked to be a safe file name."""
        with self._lock:
            self._known.add(remote_id)

    def append(self, remote_id: str, data: bytes) -> int:
        """Append all of it or nothing; return the log's size. Raises JournalError."""
        with self._lock:
            path = self._path(remote_id)
            try:
                fd, size = self._open.get(remote_id) or self._begin(path, remote_id)
                written = os.write(fd, data) if data else 0
                if written < len(data):
                    os.ftruncate(fd, size)  # half a frame would make the rest of the log unreadable
                    raise JournalError(f"no space for the log {path}")
            except OSError as error:
                raise JournalError(f"cannot write the log {path}: {error.strerror}") from error
            self._open[remote_id] = (fd, size + written)
            return size + written

    def _begin(self, path: Path, remote_id: str) -> tuple[int, int]:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._open[remote_id] = (fd, os.fstat(fd).st_size)
        return self._open[remote_id]

    def read(self, remote_id: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes from `start`. Raises JournalError when it is there and cannot be read."""
        if start < 0 or size < 0:
            raise ValueError("start and size are not negative")
        if not self._may_exist(remote_id):
            return b""
        path = self._path(remote_id)
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise JournalError(f"cannot read the log {path}: {error.strerror}") from error
        try:
            return os.pread(fd, size, start)
        finally:
            os.close(fd)

    def size(self, remote_id: str) -> int:
        """Return the size of the log; 0 when there is none."""
        with self._lock:
            if remote_id in self._open:
                return self._open[remote_id][1]
            if not self._may_exist(remote_id):
                return 0
            try:
                return self._path(remote_id).stat().st_size
            except FileNotFoundError:
                return 0

    def end(self, remote_id: str) -> None:
        """Close the file; a later `append` would open it again."""
        with self._lock:
            opened = self._open.pop(remote_id, None)
            if opened is not None:
                os.close(opened[0])

    def remove(self, remote_id: str) -> None:
        """Delete the log and take no more bytes for it."""
        self.end(remote_id)
        with self._lock:
            if self._may_exist(remote_id):
                self._path(remote_id).unlink(missing_ok=True)
                self._known.discard(remote_id)

    def close(self) -> None:
        """Close every file and take no more bytes."""
        with self._lock:
            for fd, _ in self._open.values():
                os.close(fd)
            self._open.clear()
            self._closed = True

    def _may_exist(self, remote_id: str) -> bool:
        if self._closed:
            raise JournalError("the journal is closed")
        return remote_id in self._known

    def _path(self, remote_id: str) -> Path:
        if not self._may_exist(remote_id):
            raise JournalError(f"there is no entry {remote_id[:80]!r} to log for")
        return self._directory / f"{remote_id}.log"
