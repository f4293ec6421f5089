"""Writing an output where it belongs and nowhere else, whatever the pool calls it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trusted_pool.client.errors import ClientError, UnsafePathError

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def parts_of(path: str) -> list[str]:
    """Split an output's path.

    Raises:
        UnsafePathError: absolute, empty, not canonical, with `..` or control characters.
    """
    parts = path.split("/")
    bad = any(p in ("", ".", "..") for p in parts) or any(ord(c) < 32 or ord(c) == 127 for c in path)  # noqa: PLR2004
    if bad or "\\" in path:
        raise UnsafePathError(f"the pool names an output {path!r}, which is no safe path")
    return parts


class NewFile:
    """A file that is being written beside its place and put there whole, or not at all."""

    def __init__(self, directory: int, temporary: str, name: str, fd: int) -> None:
        """`directory`: descriptor of where both names are."""
        self._directory = directory
        self._temporary = temporary
        self._name = name
        self._fd = fd

    def write(self, data: bytes) -> None:
        """Append bytes."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def restart(self) -> None:
        """Forget what was written."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)

    def put(self, *, executable: bool) -> None:
        """Give it its name. What had that name is replaced in one step."""
        if executable:
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(self._fd, 0o777 & ~umask)
        os.replace(self._temporary, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)


@contextmanager
def new_file(root: Path, path: str, key: str) -> Iterator[NewFile]:
    """Make a file to become `root/path`; missing directories are made. Without `put` nothing is left.

    No symbolic link below `root` is followed. `key` tells concurrent writers apart.

    Raises:
        UnsafePathError: the path leaves `root`.
        ClientError: it cannot be written.
    """
    parts = parts_of(path)
    temporary = f".{key}.part"
    try:
        root.mkdir(parents=True, exist_ok=True)
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts[:-1]:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=directory)
                deeper = os.open(part, _DIR, dir_fd=directory)
                os.close(directory)
                directory = deeper
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)  # left by one that was killed
            fd = os.open(temporary, _FILE, 0o666, dir_fd=directory)
            try:
                yield NewFile(directory, temporary, parts[-1], fd)
            finally:
                os.close(fd)
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=directory)
        finally:
            os.close(directory)
    except OSError as error:
        words = error.strerror or str(error)
        if error.errno in (errno.ENOTDIR, errno.ELOOP):  # a file or a symbolic link stands where a directory is needed
            words = "a file or symbolic link is in the way"
        raise ClientError(
            f"cannot write {root / path}: {words}", code="cannot_write", hint="choose another directory by -o DIR"
        ) from None
