"""The thread that touches a slot's files. It is never root."""

import ctypes
import os
import platform
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from trusted_pool.ports.sandbox import SandboxError
from trusted_pool.sandbox.own_thread import OwnThread

P = ParamSpec("P")
T = TypeVar("T")

_SETGROUPS = {"x86_64": 116, "aarch64": 159, "riscv64": 159, "ppc64le": 81, "s390x": 206}
_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapSet(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


class Owner:
    """One permanent thread with the file-system identity of one user and no capability.

    The identity is the thread's alone: the system calls used here are not spread over the process. The real uid stays
    the worker's, so that no process of the slot's user may signal the worker. Calls run one after the other, so what
    is called later sees all that was done before, even when the caller before was cancelled.

    A process that has such a thread must not change its own ids any more (os.setuid, os.setgroups): the C library would
    change every thread's, cannot change this one's, and aborts. Ids of child processes are no matter.
    """

    def __init__(self, uid: int | None = None, gid: int | None = None) -> None:
        """`uid` None: the worker's own user, who must not be root.

        Raises:
            SandboxError: it would be root.
        """
        if uid == 0 or (uid is None and os.geteuid() == 0):
            raise SandboxError("a slot's files are never touched as root: give the slot a uid of its own")
        self._uid = uid
        self._gid = uid if gid is None else gid
        own = uid is None or uid == os.geteuid()
        self._thread = OwnThread(f"owner-{uid}", None if own else self._become)

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the function on the thread. A cancelled caller does not stop it."""
        return await self._thread.call(lambda: function(*args, **kwargs))

    def close(self) -> None:
        """Let the thread end when it has done what was asked. Idempotent."""
        self._thread.close()

    def _become(self) -> None:
        """Drop groups, then ids, then capabilities; each needs what the next one takes away."""
        number = _SETGROUPS.get(platform.machine())
        if number is None:
            raise SandboxError(f"dropping groups is not known for {platform.machine()}")
        if _libc.syscall(ctypes.c_long(number), ctypes.c_size_t(0), None) != 0:
            raise SandboxError(f"cannot drop groups: {os.strerror(ctypes.get_errno())}")
        for call, wanted in ((_libc.setfsgid, self._gid), (_libc.setfsuid, self._uid)):
            call(wanted)
            if call(-1) != wanted:  # it reports no error; an impossible id tells what is set
                raise SandboxError(f"cannot take the identity {self._uid}:{self._gid} for files")
        header, none = _CapHeader(_CAPABILITY_VERSION_3, 0), (_CapSet * 2)()
        if _libc.capset(ctypes.byref(header), none) != 0:
            raise SandboxError(f"cannot drop capabilities: {os.strerror(ctypes.get_errno())}")
