"""A hard limit for each job's directory, kept by the file system itself, where it has project quotas and we are root.

The worker counts what a job takes about once a second and ends it beyond its limit. A quota a little above that limit
bounds what it can take between two looks, and what nobody can count. All that is made below a directory belongs to the
directory's project; a job cannot change that from its user namespace.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import struct

import msgspec

from trusted_pool.sandbox.owner import Owner
from trusted_pool.sandbox.policy import MB, Limits
from trusted_pool.sandbox.standing import Finding, Kind
from trusted_pool.sandbox.wipe import wipe_tree

_QUOTACTL_FD = 443  # the same on every architecture; since Linux 5.14
_PROJECTS, _SET = 2, 0x800008
_BLOCK = 1024
_LIMITS_ARE_VALID = 1 | 4  #: of space, of files
_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C581F, 0x401C5820
_ATTRIBUTES = struct.Struct("=IIIII8x")  #: flags, extent size, extents, project, copy-on-write extent size
_INHERIT = 0x200
#: Numbers of projects: a block for each worker, beyond those that people give.
_FIRST, _BLOCKS, _OF_BLOCK = 1 << 30, 1 << 14, 1 << 16
#: How far above its limit a job meets the file system's; until then it is the worker that ends it, with the reason.
_SLACK_BYTES, _SLACK_FILES = MB, 100
_FULL = frozenset({errno.EDQUOT, errno.ENOSPC})
_TITLE = "the file system keeps a job within its disk"
_libc = ctypes.CDLL(None, use_errno=True)


class _Limits(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("bytes", "_1", "_2", "files", "_3", "_4", "_5", "_6")),
        ("valid", ctypes.c_uint32),
        ("_7", ctypes.c_uint32),
    )


class Quotas:
    """The projects of one worker's jobs. `directory`: open, and holds the jobs' directories."""

    def __init__(self, directory: int, worker: str) -> None:
        """`worker`: its name, which decides the block of its numbers."""
        self._directory = directory
        block = int(hashlib.sha256(worker.encode()).hexdigest()[:8], 16) % _BLOCKS
        self._first = _FIRST + block * _OF_BLOCK
        self._next = 0
        self._of: dict[str, int] = {}  #: by the name of the directory
        for name in os.listdir(directory):
            with contextlib.suppress(OSError):
                self._of[name] = self._project_of(name)

    def _project_of(self, name: str) -> int:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            return int(_ATTRIBUTES.unpack(fcntl.ioctl(fd, _GET_ATTRIBUTES, bytes(_ATTRIBUTES.size)))[3])
        finally:
            os.close(fd)

    def give(self, name: str, fd: int, limits: Limits) -> None:
        """Make an empty directory a project with limits. Raises OSError."""
        taken = set(self._of.values())
        while (project := self._first + self._next % _OF_BLOCK) in taken:
            self._next += 1
        self._next += 1
        self._limit(project, limits.disk_bytes + _SLACK_BYTES, limits.files + _SLACK_FILES)
        flags, *rest = _ATTRIBUTES.unpack(fcntl.ioctl(fd, _GET_ATTRIBUTES, bytes(_ATTRIBUTES.size)))
        rest[2] = project
        fcntl.ioctl(fd, _SET_ATTRIBUTES, _ATTRIBUTES.pack(flags | _INHERIT, *rest))
        self._of[name] = project

    def take_back(self, name: str) -> None:
        """Forget a directory that is gone."""
        project = self._of.pop(name, None)
        if project is not None and self._first <= project < self._first + _OF_BLOCK:
            with contextlib.suppress(OSError):
                self._limit(project, 0, 0)

    def _limit(self, project: int, n_bytes: int, files: int) -> None:
        blocks = -(-n_bytes // _BLOCK)
        made = _Limits(bytes=blocks, files=files, valid=_LIMITS_ARE_VALID)
        command = (_SET << 8) | _PROJECTS
        if _libc.syscall(_QUOTACTL_FD, self._directory, ctypes.c_uint(command), project, ctypes.byref(made)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


class Found(msgspec.Struct, frozen=True):
    """What a file system can do."""

    quotas: Quotas | None
    finding: Finding


async def find(directory: int, worker: str, owner: Owner, uid: int | None) -> Found:
    """See whether the file system really holds `owner`, a user with this uid, to the limits of a project: fill one."""
    if uid is None:
        return _not("setting limits of a file system needs root", "start the worker as root")
    name = ".quota"
    wipe_tree(directory, name)
    os.mkdir(name, 0o700, dir_fd=directory)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.fchown(fd, uid, uid)
            quotas = Quotas(directory, worker)
            quotas.give(name, fd, Limits(memory_bytes=0, disk_bytes=MB, timeout_s=0))
            held = await owner.call(_fill, fd, 2 * _SLACK_BYTES + MB)
        finally:
            os.close(fd)
        wipe_tree(directory, name)
        quotas.take_back(name)
    except OSError:
        wipe_tree(directory, name)
        return _not("this file system has no project quotas", _MEND)
    if not held:
        return _not("this file system counts projects, and does not hold them to their limits", _MEND)
    return Found(quotas, Finding(name="disk_quota", title=_TITLE, kind=Kind.NOTE, holds=True))


_MEND = (
    "give the data directory a file system that is mounted with prjquota (ext4: tune2fs -O project,quota DEVICE first)"
)


def _not(why: str, mend: str) -> Found:
    why += "; what a job takes is counted about once a second"
    return Found(None, Finding(name="disk_quota", title=_TITLE, kind=Kind.NOTE, holds=False, why=why, mend=mend))


def _fill(fd: int, n_bytes: int) -> bool:
    """Write a file of so many bytes; whether the file system refused. Raises OSError for another reason."""
    file = os.open("x", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=fd)
    try:
        left = n_bytes
        while left > 0:
            left -= os.write(file, bytes(min(left, MB // 4)))
    except OSError as error:
        if error.errno in _FULL:
            return True
        raise
    finally:
        os.close(file)
    return False
