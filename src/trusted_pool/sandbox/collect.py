"""Files out of a job's directory, after the last process of the job is gone.

What is handed out: regular files with one link, on the job's own file system, reached without a symlink, under a name
that is UTF-8 without control characters. Nothing else ever is.

What is looked for: without patterns, everything that is new or changed since the inputs were unpacked, except
`__pycache__`. With patterns (see `globs`), everything that they match, changed or not: who names a file gets it.

What cannot be handed out is a problem. It fails the job (`bad_output`) only when a pattern without wildcards names
it; a stray symlink beside good results is passed over and reported. Caps that are passed end the search
(`output_limit`); the files found until then are kept.
"""

import errno
import hashlib
import os
import stat
import time
from collections.abc import Mapping, Sequence

import msgspec

from trusted_pool.core.job import OutputFile
from trusted_pool.core.words import Reason
from trusted_pool.ports.sandbox import OutputMissingError
from trusted_pool.protocol.archive import require_canonical, shown
from trusted_pool.protocol.errors import BadRequestError
from trusted_pool.sandbox.beneath import READ_DIRECTORY, open_beneath
from trusted_pool.sandbox.globs import Globs
from trusted_pool.sandbox.unpack import Stamp

_CHUNK = 1024 * 1024
_PASSED_OVER = "__pycache__"
_MAX_PROBLEMS = 100  #: that are kept; more are only counted
_EXECUTABLE = 0o111
_KINDS = {stat.S_IFLNK: "is a symbolic link", 0: "is no regular file"}
_WORDS = {
    errno.ELOOP: "is a symbolic link, or behind one",
    errno.EXDEV: "is on another file system",
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist",
    errno.EACCES: "is not readable",
    errno.ENXIO: "is no regular file",
}


class OutputLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a job's directory is looked at and handed out."""

    max_bytes: int = 10 * 2**30  #: of all outputs
    max_files: int = 10_000  #: outputs
    max_path_bytes: int = 2**20  #: of the paths of all outputs together; a list of them is one message and one row
    max_seen: int = 200_000  #: names looked at, inputs included
    max_depth: int = 100  #: directories above a file
    max_seconds: float = 300.0  #: for the whole search, hashing included


class Problem(msgspec.Struct, frozen=True):
    """Something that was not handed out. `reason` is set when the job fails by it."""

    path: str  #: for people: quoted and escaped
    words: str
    reason: Reason | None = None


class Collected(msgspec.Struct, frozen=True):
    """The outputs, by path, and what was not handed out."""

    files: tuple[OutputFile, ...]
    problems: tuple[Problem, ...] = ()
    more_problems: int = 0  #: that are not in `problems`
    limit: str = ""  #: name of the limit that ended the search
    unmatched: tuple[str, ...] = ()  #: patterns that matched no file

    @property
    def reason(self) -> Reason | None:
        """Why the job fails by its outputs, or None."""
        return next((problem.reason for problem in self.problems if problem.reason is not None), None)

    @property
    def detail(self) -> str:
        """One sentence for the owner about `reason`; empty without one."""
        return next((f"{p.path} {p.words}" for p in self.problems if p.reason is not None), "")


def collect(
    dir_fd: int, before: Mapping[str, Stamp], patterns: Sequence[str] | None, limits: OutputLimits
) -> Collected:
    """Find and hash a job's outputs. For `Owner.call`, when no process of the job is left.

    Raises:
        OSError: the machine fails; what the job left is never the cause.
    """
    return _Search(dir_fd, before, patterns, limits).run()


def open_output(dir_fd: int, path: str, size: int | None = None) -> int:
    """Open an output for reading, under the checks that it was collected under; return the descriptor.

    Raises:
        BadRequestError: the path is not written the one way a path is written.
        OutputMissingError: there is no such output, it may not be handed out, or it is not `size` bytes long.
    """
    require_canonical(path)
    try:
        fd, status = _open(dir_fd, path)
    except _RefusedError as error:
        raise OutputMissingError(f"{shown(path)} {error}") from None
    if size is not None and status.st_size != size:
        os.close(fd)
        raise OutputMissingError(f"{shown(path)} has changed: {status.st_size} bytes instead of {size}")
    return fd


class _RefusedError(Exception):
    """The words go behind the path."""


class _LimitError(Exception):
    def __init__(self, path: str, words: str, limit: str) -> None:
        super().__init__(words)
        self.path = path
        self.words = words
        self.limit = limit


def _open(dir_fd: int, path: str) -> tuple[int, os.stat_result]:
    """Open a regular file with one link, below the directory.

    Raises:
        _RefusedError: it is none, or cannot be opened.
    """
    try:
        fd = open_beneath(dir_fd, path, os.O_RDONLY)
    except OSError as error:
        words = _WORDS.get(error.errno or 0, f"cannot be opened: {error.strerror}")
        raise _RefusedError(words) from None
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return fd, status
    os.close(fd)
    raise _RefusedError("is one of several hard links" if stat.S_ISREG(status.st_mode) else "is no regular file")


class _Search:
    """One walk through a job's directory, without recursion: one directory is open at a time."""

    def __init__(
        self, dir_fd: int, before: Mapping[str, Stamp], patterns: Sequence[str] | None, limits: OutputLimits
    ) -> None:
        self._dir_fd = dir_fd
        self._before = before
        self._globs = None if patterns is None else Globs(patterns)
        self._limits = limits
        self._until = time.monotonic() + limits.max_seconds
        self._seen = 0
        self._bytes = 0
        self._path_bytes = 0
        self._files: list[OutputFile] = []
        self._problems: list[Problem] = []
        self._more_problems = 0
        self._limit = ""

    def run(self) -> Collected:
        """Walk; return what was found."""
        try:
            pending = [""]
            while pending:
                folder = pending.pop()
                for name, kind in self._list(folder):
                    path = f"{folder}/{name}" if folder else name
                    if self._look(path, kind):
                        pending.append(path)
        except _LimitError as error:
            self._limit = error.limit
            self._problem(error.path, error.words, Reason.OUTPUT_LIMIT)
        unmatched = () if self._globs is None or self._limit else tuple(self._globs.unmatched)
        files = tuple(sorted(self._files, key=lambda file: file.path))
        return Collected(files, tuple(self._problems), self._more_problems, self._limit, unmatched)

    def _problem(self, path: str, words: str, reason: Reason | None = None) -> None:
        """Note it. What fails the job is always kept."""
        if reason is not None or len(self._problems) < _MAX_PROBLEMS:
            self._problems.append(Problem(shown(os.fsencode(path)), words, reason))
        else:
            self._more_problems += 1

    def _refuse(self, path: str, words: str) -> None:
        named = self._globs is not None and self._globs.names_exactly(path)
        self._problem(path, words, Reason.BAD_OUTPUT if named else None)

    def _list(self, folder: str) -> list[tuple[str, int]]:
        """List a directory: names in order, with their kinds as in `stat.S_IFMT`."""
        try:
            fd = open_beneath(self._dir_fd, folder or ".", READ_DIRECTORY)
        except OSError as error:
            self._refuse(folder, f"cannot be listed: {error.strerror}")
            return []
        found: list[tuple[str, int]] = []
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    self._seen += 1
                    if self._seen > self._limits.max_seen:
                        words = f"and others: more than {self._limits.max_seen} names in the job's directory"
                        raise _LimitError(folder or ".", words, "output_names")
                    found.append((entry.name, _kind(entry)))
                self._check_time(folder)
        finally:
            os.close(fd)
        found.sort()
        return found

    def _check_time(self, path: str) -> None:
        if time.monotonic() > self._until:
            words = f"was reached when {self._limits.max_seconds:g} s for collecting were over"
            raise _LimitError(path or ".", words, "output_seconds")

    def _look(self, path: str, kind: int) -> bool:
        """Look at one name; say whether it is a directory to walk through."""
        try:
            require_canonical(path)
        except BadRequestError:
            self._refuse(path, "has a name that is too long, not UTF-8, or with control characters")
            return False
        if kind == stat.S_IFDIR:
            return self._enter(path)
        if not self._wanted(path, kind):
            return False
        if kind != stat.S_IFREG:
            self._refuse(path, _KINDS[kind])
            return False
        self._check_time(path)
        try:
            self._take(path)
        except _RefusedError as error:
            self._refuse(path, str(error))
        return False

    def _enter(self, path: str) -> bool:
        globs = self._globs
        enter = path.rpartition("/")[2] != _PASSED_OVER if globs is None else globs.lead_into(path)
        if enter and path.count("/") >= self._limits.max_depth:
            words = f"is nested in more than {self._limits.max_depth} directories"
            raise _LimitError(path, words, "output_depth")
        return enter

    def _wanted(self, path: str, kind: int) -> bool:
        if self._globs is None:
            return True
        return self._globs.matches(path) or (kind != stat.S_IFREG and self._globs.names_exactly(path))

    def _take(self, path: str) -> None:
        """Hash a file and add it to the outputs, unless it is an input that nothing has changed."""
        fd, status = _open(self._dir_fd, path)
        try:
            stamp = Stamp(status.st_size, status.st_mtime_ns, status.st_ino)
            if self._globs is None and self._before.get(path) == stamp:
                return
            if len(self._files) >= self._limits.max_files:
                words = f"is one file too many: there are more than {self._limits.max_files} outputs"
                raise _LimitError(path, words, "output_files")
            self._path_bytes += len(path.encode())
            if self._path_bytes > self._limits.max_path_bytes:
                words = f"is one too many: the paths of all outputs take more than {self._limits.max_path_bytes} bytes"
                raise _LimitError(path, words, "output_path_bytes")
            self._bytes += status.st_size
            if self._bytes > self._limits.max_bytes:
                words = f"is one too large: the outputs take more than {self._limits.max_bytes} bytes"
                raise _LimitError(path, words, "output_bytes")
            digest = self._hash(fd, path, status.st_size)
        finally:
            os.close(fd)
        executable = bool(status.st_mode & _EXECUTABLE)
        self._files.append(OutputFile(path=path, size=status.st_size, sha256=digest, executable=executable))

    def _hash(self, fd: int, path: str, size: int) -> str:
        """Hash the file; never read more of it than one byte beyond its size."""
        digest = hashlib.sha256()
        left = size + 1
        while left and (data := os.read(fd, min(_CHUNK, left))):
            digest.update(data)
            left -= len(data)
            self._check_time(path)
        if left != 1:
            raise _RefusedError("changed while it was read")
        return digest.hexdigest()


def _kind(entry: "os.DirEntry[str]") -> int:
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    return stat.S_IFLNK if entry.is_symlink() else 0
