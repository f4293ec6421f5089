"""A slot's thread: what is started from it is born with the slot's uid, in the slot's control group.

The kernel keeps user, groups, capabilities, mount namespace and control group for each thread, not for each process. So
a thread that has given up everything once starts bubblewrap at the cost of a bare start: no shell, no `setpriv` and no
move between control groups for each job. The thread lives as long as the worker, which `--die-with-parent` needs: the
kernel means the thread that started, not the process.
"""

import asyncio
import contextlib
import ctypes
import functools
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from trusted_pool.ports.sandbox import SandboxError
from trusted_pool.sandbox.cgroups import Group
from trusted_pool.sandbox.own_thread import OwnThread

_T = TypeVar("_T")
_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT = 1, 2, 4, 32
_PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 38, 36
#: Numbers of setgroups, setresgid, setresuid: the C library's functions change all threads, these one.
_NUMBERS = {"x86_64": (116, 119, 117), "aarch64": (159, 149, 147), "riscv64": (159, 149, 147)}
_libc = ctypes.CDLL(None, use_errno=True)
#: Directories that every Linux has and no job sees; the slot's thread covers the first one there is, for itself.
_STAGES = ("/mnt", "/media", "/srv")


class Bind(msgspec.Struct, frozen=True):
    """A directory of ours that the slot's uid must reach, although it may not enter the directories above."""

    source: str
    name: str
    read_only: bool = False  #: with all that is mounted below it


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def put_first(pid: int) -> None:
    """Let a process or, for 0, the calling thread go before others of its group; what it starts is as others again.

    Slots' threads and sandboxes' inits share a group with jobs, and must not wait for their turn among hundreds of
    processes that never rest. Only root may; for others it stays as it is.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(pid, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, pid, -20)


def become_subreaper() -> None:
    """Let orphans of bubblewrap come to this process, which then knows when they are gone. Raises OSError."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "becoming a subreaper")


class Slot:
    """One slot. Started once; `start_program` runs in its thread."""

    def __init__(self, number: int, uid: int | None, group: Group | None) -> None:
        """`uid` None: keep the worker's own; `group` None: no control groups."""
        self.number = number
        self.uid = uid
        self.group = group
        self.stage: str | None = None  #: where `Bind`s are in the thread's mount namespace; None: nothing was staged
        self._thread = OwnThread(f"slot-{number}")
        #: For looking at what runs, each started when it is needed first. Who looks at the processes of a job may have
        #: to wait for them; that must be nobody else's thread.
        self.counting = OwnThread(f"count-{number}")
        self.looking = OwnThread(f"look-{number}")

    async def start(self, binds: Sequence[Bind]) -> None:
        """Give everything up. Raises SandboxError."""
        try:
            await self.call(functools.partial(self._enter, binds))
        except OSError as error:
            raise SandboxError(f"slot {self.number} cannot be made ready: {error}") from error

    async def call(self, work: Callable[[], _T]) -> _T:
        """Run something in the slot's thread."""
        return await self._thread.call(work)

    def _enter(self, binds: Sequence[Bind]) -> None:
        if self.group is not None:
            self.group.enter_thread()
        put_first(0)
        if self.uid is not None:
            self.stage = self._stage(binds)
            self._drop(self.uid)
        _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "giving up new privileges")

    def _stage(self, binds: Sequence[Bind]) -> str:
        """Show the slot our directories at a place it can reach, in a mount namespace of the thread's own.

        It vanishes with the thread: nothing of it is seen outside, nothing has to be cleaned up.
        """
        place = next((p for p in _STAGES if Path(p).is_dir() and not Path(p).is_symlink()), None)
        if place is None:
            raise OSError(f"none of {', '.join(_STAGES)} is a directory")
        _check(_libc.unshare(_CLONE_NEWNS), "making a mount namespace")
        _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "making mounts private")
        at = place.encode()
        _check(_libc.mount(b"tmpfs", at, b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=711,size=64k"), "mounting a stage")
        for bind in binds:
            target = f"{place}/{bind.name}"
            os.mkdir(target, 0o711)  # noqa: PTH102 - beside system calls
            flags = _MS_BIND | (_MS_REC if bind.read_only else 0)
            _check(_libc.mount(os.fsencode(bind.source), target.encode(), None, flags, None), f"binding {bind.source}")
            if bind.read_only:
                again = _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV
                _check(_libc.mount(None, target.encode(), None, again, None), f"making {bind.source} read-only")
        return place

    @staticmethod
    def _drop(uid: int) -> None:
        try:
            setgroups, setresgid, setresuid = _NUMBERS[platform.machine()]
        except KeyError:
            raise OSError(f"slots' own uids are not known for {platform.machine()}") from None
        _check(_libc.syscall(setgroups, 0, None), "dropping groups")
        _check(_libc.syscall(setresgid, uid, uid, uid), "taking the slot's gid")
        _check(_libc.syscall(setresuid, uid, uid, uid), "taking the slot's uid")

    async def start_program(
        self, path: str, argv: Sequence[str], *, stdout: int, stderr: int, pass_fds: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        """Start a program with an empty environment and no other file descriptors. Raises OSError."""

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                argv,
                executable=path,
                env={},
                close_fds=True,
                pass_fds=pass_fds,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd="/",
            )

        return await self.call(start)

    async def close(self) -> None:
        """End the thread, then remove the group."""
        for thread in (self.counting, self.looking, self._thread):
            thread.close()
        await asyncio.to_thread(self._thread.join)
        if self.group is not None:
            await asyncio.to_thread(self.group.close)
