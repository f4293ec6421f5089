"""The directory of blobs as the kernel sees it: names, order of system calls, errors. Everything here blocks.

Layout: `staging/` holds what is being written, `sha256/ab/abcdef…` what is published. The 256 directories of the
second level are made at the start, so that publishing never has to make one durable first.
"""

import errno
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trusted_pool.ports.blobs import BlobsError, BlobsFullError

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
#: EFBIG is what a file size limit (`ulimit -f`) answers.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_HINTS = {
    errno.ENOENT: "make the directory (or mount it again) and restart",
    errno.ENOTDIR: "something on the way to it is no directory",
    errno.EACCES: "give it to the user that runs this program",
    errno.EPERM: "give it to the user that runs this program",
    errno.EROFS: "mount it writable",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """Turn an OSError into a BlobsError that names the directory and what to do.

    Raises:
        BlobsFullError: no space, quota or file size limit.
        BlobsError: anything else.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            words = f"no space for blobs in {root}: {error.strerror}; free some and try again"
            raise BlobsFullError(words) from error
        hint = _HINTS.get(error.errno or 0, "look into the system's log for this disk")
        raise BlobsError(f"cannot use the blob directory {root}: {error.strerror}; {hint}") from error


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of it: the kernel may take less at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


class Disk:
    """One directory of blobs. Methods are called from threads and raise OSError unless they say otherwise."""

    def __init__(self, root: Path, *, durable: bool) -> None:
        """Make what is missing of the layout.

        Raises:
            BlobsError: the directory cannot be made or written.
        """
        self.root = root
        self._durable = durable
        self._staging = root / "staging"
        self._published = root / "sha256"
        self._numbers = itertools.count()
        with explained(root):
            self._lay_out()

    def _lay_out(self) -> None:
        # Missing directories above the root are made too; each parent on the way is made durable, also when a
        # start before this one made its children and was killed before it could say so.
        ancestors = list(itertools.takewhile(lambda d: not d.exists(), self.root.parents))
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for directory in (self._staging, self._published):
            directory.mkdir(exist_ok=True, mode=0o700)
        have = {directory.name for directory in self._published.iterdir()}
        for name in (f"{n:02x}" for n in range(256)):
            if name not in have:
                (self._published / name).mkdir(mode=0o700)
        path, fd = self.new_file()  # only writing shows that writing works
        os.close(fd)
        path.unlink()
        for directory in (self._published, self.root, *ancestors):
            self._sync_directory(directory)
        with suppress(PermissionError):  # the directory above ours may be closed to us; then it was not we who made it
            self._sync_directory((ancestors[-1] if ancestors else self.root).parent)

    def path(self, sha256: str) -> Path | None:
        """Where the blob is or would be; None when that is no digest. The only way from a digest to a path."""
        return self._published / sha256[:2] / sha256 if _DIGEST.match(sha256) else None

    def new_file(self) -> tuple[Path, int]:
        """Make an empty file in staging; return it open for writing."""
        while True:
            path = self._staging / f"{os.getpid()}-{next(self._numbers)}"
            with suppress(FileExistsError):  # left by a process of the same number
                return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)

    def has(self, sha256: str, size: int) -> bool:
        """Whether the blob is there. One of another size is a damaged one and counts as absent."""
        path = self.path(sha256)
        return path is not None and self.size(path) == size

    def size(self, path: Path) -> int | None:
        """Return the size of a blob's file, or None when there is none (but the directory is)."""
        try:
            return path.stat().st_size
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise
            return None

    def publish(self, path: Path, sha256: str, size: int) -> None:
        """Make a whole staged file readable under its digest.

        Order: its bytes are durable before it gets its name, its name before this returns.
        """
        target = self.path(sha256)
        if target is None:
            raise ValueError(f"{sha256!r} is no digest")
        if self.has(sha256, size):
            path.unlink()
        else:
            self._sync(path, os.O_RDONLY)
            path.rename(target)
        # Also when another put it there: its name need not be durable yet.
        self._sync_directory(target.parent)

    def publish_bytes(self, data: bytes, sha256: str) -> None:
        """Write, then publish, a blob that was kept in memory."""
        if self.has(sha256, len(data)):
            self._sync_directory(self._published / sha256[:2])
            return
        path, fd = self.new_file()
        try:
            try:
                write_all(fd, data)
            finally:
                os.close(fd)
            self.publish(path, sha256, len(data))
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def sweep(self) -> int:
        """Remove everything in staging; return how many files that were."""
        left = list(self._staging.iterdir())
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def _sync_directory(self, directory: Path) -> None:
        self._sync(directory, os.O_RDONLY | os.O_DIRECTORY)

    def _sync(self, path: Path, flags: int) -> None:
        """Make it durable. A write-back error that nobody heard of yet is reported to this descriptor too."""
        if not self._durable:
            return
        fd = os.open(path, flags)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
