"""`workers.json` on disk: read, watched, and changed in one durable step."""

import asyncio
import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from trusted_pool.ports.allowlist import Content, FileChangedError, FileError, FileInDoubtError

MAX_BYTES = 64 * 1024 * 1024
_ACL = "system.posix_acl_access"
_NO_ACL = (errno.ENODATA, errno.ENOTSUP, errno.ENOSYS)


class WorkersFile:
    """An `AllowlistFile`. A symbolic link stays one: what it points to is changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    async def read(self) -> Content:
        """Read it."""
        return await asyncio.to_thread(self.read_now)

    async def mark(self) -> str:
        """Return what the directory says of it."""
        return await asyncio.to_thread(self._mark)

    async def replace(self, old: Content, new: bytes) -> None:
        """Change it. Cancelled or not, it is one step."""
        await asyncio.to_thread(self._replace, old, new)

    def read_now(self) -> Content:
        """Read it. Raises FileError."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not hold us up
            with os.fdopen(fd, "rb") as file:
                status = os.fstat(fd)  # before the bytes: what changes meanwhile is read again
                if not stat.S_ISREG(status.st_mode):
                    raise FileError(f"the allowlist {self.path} is no regular file")
                raw = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise FileError(f"the allowlist {self.path} cannot be read: {error.strerror}") from None
        if len(raw) > MAX_BYTES:
            raise FileError(f"the allowlist {self.path} is larger than {MAX_BYTES // 2**20} MiB")
        return Content(raw, _word(status))

    def _mark(self) -> str:
        try:
            return _word(self.path.stat())
        except OSError:
            return ""

    def _replace(self, old: Content, new: bytes) -> None:
        try:
            target = self.path.resolve(strict=True)
            status = target.stat()
            fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
            with suppress(FileNotFoundError):
                fresh.unlink()  # of one of our lives before that had this number and was killed
            try:
                _write(fresh, new, status, _acl(target))
                if self.read_now().raw != old.raw:
                    raise FileChangedError(f"the allowlist {self.path} was changed by somebody else in this moment")
                fresh.rename(target)
            except BaseException:
                with suppress(OSError):
                    fresh.unlink()
                raise
        except OSError as error:
            raise FileError(f"the allowlist {self.path} cannot be changed: {error.strerror}") from None
        try:
            _sync(target.parent)
        except OSError as error:
            raise FileInDoubtError(f"the allowlist {self.path} may not be kept: {error.strerror}") from None


def _word(status: os.stat_result) -> str:
    """Of the times, that of the last change of the inode too: `cp -p` and `touch` can set back the other."""
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _acl(path: Path) -> bytes | None:
    """Return who else may do what. Without it, the group's bits of the mode would be the mask's, and mean more."""
    try:
        return os.getxattr(path, _ACL)
    except OSError as error:
        if error.errno in _NO_ACL:
            return None
        raise


def _write(path: Path, data: bytes, like: os.stat_result, acl: bytes | None) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        made = os.fstat(fd)
        if (made.st_uid, made.st_gid) != (like.st_uid, like.st_gid):
            _give(fd, like)
        os.fchmod(fd, stat.S_IMODE(like.st_mode))
        if acl is not None:
            os.setxattr(fd, _ACL, acl)
        os.fsync(fd)


def _give(fd: int, like: os.stat_result) -> None:
    try:
        os.fchown(fd, like.st_uid, like.st_gid)
    except PermissionError:
        raise FileError(
            f"the allowlist belongs to user {like.st_uid}, group {like.st_gid}, and the coordinator cannot keep it so"
        ) from None


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
