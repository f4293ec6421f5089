"""How much of the disk a tree of files takes, counted while a hostile job changes it."""

import errno
import os
import stat
from collections.abc import Callable

import msgspec

from trusted_pool.sandbox.wipe import make_accessible, open_directory

#: Deeper than any project; without a bound a job could make counting need a descriptor for each level.
MAX_DEPTH = 200
_HIDDEN = frozenset({errno.EACCES, errno.EPERM})


class DiskUse(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `too_deep`: directories nest beyond what is looked at; `hidden`: one may not be listed."""

    bytes: int = 0
    files: int = 0
    largest: int = 0  #: the longest file, in bytes that can be read of it
    too_deep: bool = False
    hidden: bool = False


def use_of(
    directory: int,
    *,
    stop_bytes: int,
    stop_files: int,
    permit: bool = False,
    going: Callable[[], bool] | None = None,
) -> DiskUse:
    """Count what is below an open directory; stop counting once beyond a bound, or when not `going` any more.

    Never follows a symlink and never leaves the tree: every step opens a name relative to an open directory. What
    vanishes meanwhile is skipped. `permit`: make directories that hide what is in them readable, which only their owner
    can, and only when nothing works in them any more.
    """
    total = files = largest = 0
    hidden = False
    todo: list[tuple[int, list[str]]] = []

    def enter(parent: int, name: str) -> None:
        nonlocal hidden
        try:
            fd = open_directory(parent, name) if permit else _listed(parent, name)
        except OSError as error:
            hidden = hidden or error.errno in _HIDDEN
            return
        try:
            todo.append((fd, os.listdir(fd)))  # noqa: PTH208 - of a descriptor
        except OSError:
            os.close(fd)

    if permit:
        make_accessible(directory, directory)
    enter(directory, ".")
    try:
        while todo and (going is None or going()):
            fd, names = todo[-1]
            if not names:
                os.close(todo.pop()[0])
                continue
            name = names.pop()
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                hidden = hidden or error.errno in _HIDDEN  # it may be listed, but not searched
                continue
            files += 1
            total += info.st_blocks * 512
            largest = max(largest, info.st_size)
            if total > stop_bytes or files > stop_files:
                break
            if stat.S_ISDIR(info.st_mode):
                if len(todo) >= MAX_DEPTH:
                    return DiskUse(bytes=total, files=files, largest=largest, too_deep=True, hidden=hidden)
                enter(fd, name)
    finally:
        for fd, _ in todo:
            os.close(fd)
    return DiskUse(bytes=total, files=files, largest=largest, hidden=hidden)


def _listed(parent: int, name: str) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
