"""Files into a job's directory."""

import errno
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

import msgspec

from trusted_pool.core.job import InputFile
from trusted_pool.protocol.archive import ArchiveLimits, plan, read_archive
from trusted_pool.protocol.archive_entry import CHUNK, Entry
from trusted_pool.protocol.errors import BadArchiveError, TooLargeError
from trusted_pool.sandbox.beneath import READ_DIRECTORY, open_beneath

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_FILE, _PROGRAM, _DIRECTORY = 0o644, 0o755, 0o755
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: How much older than the unpacking a file is made to look. Clocks of files tick in milliseconds, so a job that writes
#: right after could leave the time as it was.
_BACKDATED_NS = 2 * 10**9


class Window(io.RawIOBase):
    """A part of a file as a file of its own, for reading. Several of one file are read one after the other."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file = file
        self._start = start
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to an offset of the part."""
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read what is left of the part, as much as the buffer takes."""
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class Stamp(msgspec.Struct, frozen=True):
    """What tells whether a file is still as it was unpacked."""

    size: int
    mtime_ns: int
    inode: int


class Unpacked(msgspec.Struct, frozen=True):
    """What was unpacked: files by path, and bytes in all."""

    files: dict[str, Stamp]
    size: int


def unpack(dir_fd: int, inputs: Sequence[tuple[InputFile, BinaryIO | Window]], limits: ArchiveLimits) -> Unpacked:
    """Unpack the one archive, or place the plain files, in an empty directory. For `Owner.call`.

    Files belong to the thread's user and get mode 0644 or 0755, directories 0755. After an error the directory holds
    what was written until then. The files are given open, since the thread's user could not open them.

    Raises:
        BadArchiveError: the files cannot be unpacked safely.
        TooLargeError: beyond the limits, or no space is left in the directory.
        OSError: the machine fails.
    """
    paths = plan([given.name for given, _ in inputs])
    if paths is None:
        given, file = inputs[0]
        entries = read_archive(cast("BinaryIO", file), limits, given.name)
    else:
        entries = _plain(inputs, paths, limits)
    files: dict[str, Stamp] = {}
    size = 0
    mtime_ns = os.fstat(dir_fd).st_mtime_ns - _BACKDATED_NS
    for entry in entries:
        try:
            if entry.kind == "dir":
                os.close(_directory(dir_fd, entry.path.split("/")))
                continue
            files[entry.path] = _write(dir_fd, entry, mtime_ns)
        except OSError as error:
            raise _in_words(error, entry.path, limits) from error
        size += entry.size
    return Unpacked(files, size)


def _in_words(error: OSError, path: str, limits: ArchiveLimits) -> Exception:
    """Say whose fault a failed write is."""
    if error.errno in _FULL:
        return TooLargeError(
            f"no space is left for {path!r}: the files take more than the job's disk of {limits.max_bytes} bytes",
            hint="raise disk_mb in the manifest",
        )
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
        return BadArchiveError(f"{path!r} cannot be made here: {error.strerror}", hint="rename it")
    return error


def _plain(
    inputs: Sequence[tuple[InputFile, BinaryIO | Window]], paths: Sequence[str], limits: ArchiveLimits
) -> Iterator[Entry]:
    """Turn plain files into entries."""
    if sum(given.size for given, _ in inputs) > limits.max_bytes:
        raise TooLargeError(f"the files take more than {limits.max_bytes} bytes", hint="raise disk_mb in the manifest")
    for path, (given, file) in zip(paths, inputs, strict=True):
        yield Entry(path, "file", given.size, False, _exactly(file, given.size, path))  # noqa: FBT003 - no mode is sent


def _exactly(file: BinaryIO | Window, size: int, path: str) -> Iterator[bytes]:
    file.seek(0)
    left = size
    while left and (data := file.read(min(CHUNK, left)) or b""):
        left -= len(data)
        yield data
    if left or file.read(1):
        raise BadArchiveError(f"{path!r} does not have the {size} bytes that were announced")


def _write(dir_fd: int, entry: Entry, mtime_ns: int) -> Stamp:
    mode = _PROGRAM if entry.executable else _FILE
    try:
        fd = open_beneath(dir_fd, entry.path, _CREATE, mode)
    except FileNotFoundError:  # its directory is not there yet
        *above, name = entry.path.split("/")
        parent = _directory(dir_fd, above)
        try:
            fd = open_beneath(parent, name, _CREATE, mode)
        finally:
            os.close(parent)
    try:
        for chunk in entry.chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(fd, rest) :]
        os.fchmod(fd, mode)  # whatever the umask made of it
        os.utime(fd, ns=(mtime_ns, mtime_ns))
        status = os.fstat(fd)
        return Stamp(status.st_size, status.st_mtime_ns, status.st_ino)
    finally:
        os.close(fd)


def _directory(dir_fd: int, parts: Sequence[str]) -> int:
    """Make the directories that are missing, one below the other; return the last one's descriptor."""
    fd = open_beneath(dir_fd, ".", READ_DIRECTORY)
    for part in parts:
        try:
            try:
                os.mkdir(part, _DIRECTORY, dir_fd=fd)
                new = True
            except FileExistsError:
                new = False
            below = open_beneath(fd, part, READ_DIRECTORY)
        finally:
            os.close(fd)
        fd = below
        if new:
            os.fchmod(fd, _DIRECTORY)
    return fd
