"""Removing what a job left, whatever it is.

No recursion, and never more than three descriptors: a directory inside a directory is moved up to the top before its
parent is removed, so every directory is emptied at the first level.
"""

import errno
import os
import stat

from trusted_pool.ports.sandbox import SandboxError
from trusted_pool.sandbox.beneath import READ_DIRECTORY, open_beneath

_BATCH = 10_000  #: names listed at a time
_PATH_ONLY = os.O_PATH | os.O_DIRECTORY
_ALL_OF_OWNER = 0o700
_TAKEN = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR})


def wipe_tree(parent_fd: int, name: str) -> None:
    """Remove what is called `name` in a directory, and all below it. Nothing there is no error.

    For root, or for the owner of all that is below. No process may be working in it.

    Raises:
        SandboxError: something could not be removed; the message names it.
    """
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent_fd)
            return
        fd = open_directory(parent_fd, name)
        try:
            wipe(fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SandboxError(f"cannot remove {name!r}: {error.strerror}") from error


def wipe(dir_fd: int) -> None:
    """Remove all that is in a directory; it stays itself.

    Raises:
        SandboxError: something could not be removed; the message names it.
    """
    make_accessible(dir_fd, dir_fd)
    moved = 0
    while found := _some(dir_fd):
        for name, directory in found:
            try:
                if directory:
                    moved = _remove(dir_fd, name, moved)
                else:
                    os.unlink(name, dir_fd=dir_fd)
            except FileNotFoundError:
                continue  # an empty directory was replaced by a moved one, which is gone by now
            except OSError as error:
                raise SandboxError(f"cannot remove {name!r}: {error.strerror}") from error


def _remove(top: int, name: str, moved: int) -> int:
    fd = open_directory(top, name)
    try:
        while found := _some(fd):
            for inner, directory in found:
                if directory:
                    moved = _move_up(fd, inner, top, moved)
                else:
                    os.unlink(inner, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=top)
    return moved


def _move_up(fd: int, name: str, top: int, moved: int) -> int:
    """Move a directory to the top under a name that is free there. An empty one may be replaced by it."""
    os.close(open_directory(fd, name))  # a directory that is moved must be writable
    while True:
        moved += 1
        try:
            os.rename(name, f".wiped-{moved}", src_dir_fd=fd, dst_dir_fd=top)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        else:
            return moved


def _some(fd: int) -> list[tuple[str, bool]]:
    """List some names of a directory, and whether each is one; none when it is empty.

    Not more at once: removing while listing could pass names over, and there may be millions.
    """
    found: list[tuple[str, bool]] = []
    with os.scandir(fd) as entries:
        for entry in entries:
            found.append((entry.name, entry.is_dir(follow_symlinks=False)))
            if len(found) == _BATCH:
                break
    return found


def open_directory(dir_fd: int, name: str) -> int:
    """Open a directory for listing and writing, whatever its mode says. For its owner, or root. Raises OSError."""
    path_fd = open_beneath(dir_fd, name, _PATH_ONLY)
    try:
        make_accessible(path_fd, f"/proc/self/fd/{path_fd}")  # fchmod refuses a descriptor that is a mere path
    finally:
        os.close(path_fd)
    return open_beneath(dir_fd, name, READ_DIRECTORY)


def make_accessible(fd: int, directory: int | str) -> None:
    """Let the owner list, search and change an open directory; `directory` is what chmod takes. Raises OSError."""
    if os.fstat(fd).st_mode & _ALL_OF_OWNER != _ALL_OF_OWNER:
        os.chmod(directory, _ALL_OF_OWNER)  # noqa: PTH101 - a descriptor, or the name of one
