"""How much of the disk a tree of files takes, counted while a hostile job changes it."""

import os
import stat

import msgspec

#: Deeper than any project; without a bound a job could make counting need a descriptor for each level.
MAX_DEPTH = 200


class DiskUse(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `too_deep`: directories nest beyond what is looked at."""

    bytes: int = 0
    files: int = 0
    too_deep: bool = False


def use_of(directory: int, *, stop_bytes: int, stop_files: int) -> DiskUse:
    """Count what is below an open directory; stop counting once beyond a bound.

    Never follows a symlink and never leaves the tree: every step opens a name relative to an open directory. What
    vanishes meanwhile is skipped.
    """
    total = files = 0
    todo: list[tuple[int, list[str]]] = []

    def enter(fd: int) -> None:
        try:
            todo.append((fd, os.listdir(fd)))
        except OSError:
            os.close(fd)

    enter(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory))
    try:
        while todo:
            fd, names = todo[-1]
            if not names:
                os.close(todo.pop()[0])
                continue
            name = names.pop()
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError:
                continue
            files += 1
            total += info.st_blocks * 512
            if total > stop_bytes or files > stop_files:
                break
            if stat.S_ISDIR(info.st_mode):
                if len(todo) >= MAX_DEPTH:
                    return DiskUse(bytes=total, files=files, too_deep=True)
                try:
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                    enter(os.open(name, flags, dir_fd=fd))
                except OSError:
                    continue
    finally:
        for fd, _ in todo:
            os.close(fd)
    return DiskUse(bytes=total, files=files)


def held_open(pids: list[int], device: int) -> int:
    """Bytes on a device in files that have no name any more but are still open in a process."""
    seen: dict[int, int] = {}
    for pid in pids:
        try:
            fds = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - names alone, and fast
        except OSError:
            continue
        for fd in fds:
            try:
                info = os.stat(f"/proc/{pid}/fd/{fd}")  # noqa: PTH116 - the same
            except OSError:
                continue
            if info.st_dev == device and info.st_nlink == 0 and stat.S_ISREG(info.st_mode):
                seen[info.st_ino] = info.st_blocks * 512
    return sum(seen.values())
