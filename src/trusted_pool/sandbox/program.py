"""One program in one sandbox, from its start to the death of its last process."""

import asyncio
import contextlib
import functools
import os
import resource
import signal
import subprocess
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec

from trusted_pool.ports.sandbox import OnLog
from trusted_pool.protocol import frames
from trusted_pool.sandbox import proc
from trusted_pool.sandbox.cgroups import kill_members
from trusted_pool.sandbox.slots import Slot, put_first

_CHUNK = 64 * 1024
#: How long bubblewrap may take from its start to the point where it waits for our word, and to die when killed.
READY_WITHIN_S = 30.0
#: How long after a kill the processes that are still there are killed one by one, and again.
STRIKE_EVERY_S = 0.03
_STATUS_CAP = 64 * 1024
_STATUS = 0  #: the stream of bubblewrap's own reports
_T = TypeVar("_T")


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be started. `options` are bubblewrap's own, packed; `seccomp_fd` None: no filter of system calls."""

    bwrap: str
    mark: str  #: bubblewrap's first word about itself, see `undertaker`
    options: bytes
    seccomp_fd: int | None
    argv: Sequence[str]
    rlimits: dict[str, int]


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How bubblewrap and the program ended. `status` None: the program was never started."""

    status: int | None
    words: str = ""  #: what bubblewrap said, when the program was never started


class _Report(msgspec.Struct, rename="kebab"):
    """A line of bubblewrap's own."""

    child_pid: int | None = None
    exit_code: int | None = None


_decode = msgspec.json.Decoder(_Report).decode


class Program:
    """A program that is started once.

    Every process of it is below one init in one pid namespace. Killing that init from outside kills all of them in one
    step, and the kernel reports its end only when they are gone: no fork can outrun it, no daemon can leave.
    """

    def __init__(self, slot: Slot, on_log: OnLog) -> None:
        self.slot = slot
        self._on_log = on_log
        self._loop = asyncio.get_running_loop()
        self._init: asyncio.Future[int] = self._loop.create_future()  #: the pid of the sandbox's init
        self._exited: asyncio.Future[None] = self._loop.create_future()  #: bubblewrap ended
        self._init_pidfd = -1
        self._bwrap_pidfd = -1
        self._status: int | None = None
        self._status_text = b""
        self._first_words = b""
        self._bwrap: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._striking: asyncio.TimerHandle | None = None
        self._buried = False  #: nothing of it is left; the slot and its group may be another program's
        self._open: dict[int, int] = {}  #: fds that are read: fd → stream
        self.running = False  #: the program was let go

    @property
    def init(self) -> int | None:
        """The pid of the sandbox's init, while it is held on to."""
        return self._init.result() if self._init_pidfd >= 0 else None

    async def run(self, launch: Launch, on_start: Callable[[], Awaitable[None]]) -> Ended:
        """Start it and wait until the last of its processes is gone. `on_start` is awaited before it may begin.

        Raises:
            OSError: it could not be started.
        """
        go_read, go_write = os.pipe2(os.O_CLOEXEC)
        try:
            await settled(self._start(launch, go_read))
            await self._ready()
            if self._init_pidfd >= 0:
                await self._prepare(launch)
                await on_start()
                if not self._killed:
                    self.running = True
                    with contextlib.suppress(BrokenPipeError):
                        os.write(go_write, b"1")
            else:
                _signal(self._bwrap_pidfd, signal.SIGKILL)
            await asyncio.shield(self._exited)  # a cancel must not reach it: the burial waits for it too
        finally:
            # The end of this pipe means "go on" to bubblewrap: everything must be dead before it is closed.
            await settled(self._bury())
            for fd in (go_read, go_write):
                os.close(fd)
        return Ended(status=self._status, words=self._first_words.decode(errors="replace").strip())

    async def _start(self, launch: Launch, go_read: int) -> None:
        """Start bubblewrap."""
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        options_fd = os.memfd_create("options", os.MFD_CLOEXEC)
        filters = []
        if launch.seccomp_fd is not None:
            # A second description of the filter, so that jobs that start together do not share one offset.
            filters = [os.open(f"/proc/self/fd/{launch.seccomp_fd}", os.O_RDONLY | os.O_CLOEXEC)]
        written = [*(pair[1] for pair in pipes), options_fd, *filters]
        try:
            for (read, _), stream in zip(pipes, (frames.STDOUT, frames.STDERR, _STATUS), strict=True):
                os.set_blocking(read, False)
                self._open[read] = stream
            os.write(options_fd, launch.options + b"".join(b"--seccomp\0%d\0" % fd for fd in filters))
            os.lseek(options_fd, 0, os.SEEK_SET)
            status_fd = pipes[2][1]
            argv = [launch.mark, "--args", str(options_fd), "--json-status-fd", str(status_fd)]
            argv += ["--block-fd", str(go_read), "--", *launch.argv]
            passed = (status_fd, go_read, options_fd, *filters)
            self._bwrap = await self.slot.start_program(
                launch.bwrap, argv, stdout=pipes[0][1], stderr=pipes[1][1], pass_fds=passed
            )
        finally:
            for fd in written:
                os.close(fd)
        for fd in self._open:
            self._loop.add_reader(fd, self._read, fd)
        self._bwrap_pidfd = os.pidfd_open(self._bwrap.pid)
        self._exited = self._end_of(self._bwrap_pidfd)

    async def _ready(self) -> None:
        """Wait until the sandbox's init is there, and take hold of it; or until bubblewrap gave up."""
        first: set[asyncio.Future[Any]] = {self._init, self._exited}
        await asyncio.wait(first, timeout=READY_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        if not self._init.done() or self._bwrap is None:
            return
        init = self._init.result()
        try:
            pidfd = os.pidfd_open(init)
        except ProcessLookupError:
            return
        # The pid came over a pipe; the descriptor is only kept when it is really the child of our bubblewrap.
        if proc.parent(init) != self._bwrap.pid:
            os.close(pidfd)
            return
        self._init_pidfd = pidfd
        if self._killed:
            self.kill()

    async def _prepare(self, launch: Launch) -> None:
        """Lay limits on the init, which its descendants are born with."""
        init = self._init.result()
        try:
            _limit(init, launch.rlimits)
        except PermissionError:  # root without CAP_SYS_RESOURCE, in a container; the slot's thread is of the same user
            await self.slot.call(functools.partial(_limit, init, launch.rlimits))
        put_first(init)
        group = self.slot.group
        if group is not None:
            if group.joins:
                await asyncio.to_thread(group.join, init)
            group.throttle()

    def _end_of(self, pidfd: int) -> "asyncio.Future[None]":
        """Return a future for the moment at which a pidfd's process has ended."""
        done: asyncio.Future[None] = self._loop.create_future()

        def ended() -> None:
            self._loop.remove_reader(pidfd)
            if not done.done():
                done.set_result(None)

        self._loop.add_reader(pidfd, ended)
        return done

    async def _bury(self) -> None:
        """Kill what is left, wait until it is gone, read what it wrote, let go of everything."""
        if self._bwrap is not None:
            if self._init_pidfd < 0 and not self._exited.done():
                await self._ready()
            self.kill()
            if self._init_pidfd >= 0:
                await self._end_of(self._init_pidfd)
            await asyncio.shield(self._exited)
            # The numbers are somebody else's as soon as they are closed: nobody may signal them any more.
            held = (self._init_pidfd, self._bwrap_pidfd)
            self._init_pidfd = self._bwrap_pidfd = -1
            self._buried = True
            if self._striking is not None:
                self._striking.cancel()
            for fd in held:
                if fd >= 0:
                    with contextlib.suppress(ChildProcessError):  # another process is its parent
                        os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222 - it is dead already
                    os.close(fd)
            self._bwrap.poll()
        for fd in list(self._open):
            while self._read(fd):
                pass
            if fd in self._open:
                self._close(fd)

    def _read(self, fd: int) -> bool:
        """Read once; whether there may be more."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._close(fd)
            return False
        stream = self._open[fd]
        if stream == _STATUS:
            self._read_status(data)
            return True
        if stream == frames.STDERR and len(self._first_words) < 2000:  # noqa: PLR2004 - enough for any complaint
            self._first_words += data[:2000]
        self._on_log(stream, data)
        return True

    def _close(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        del self._open[fd]
        os.close(fd)

    def _read_status(self, data: bytes) -> None:
        """Read bubblewrap's own reports: the init's pid first, the exit status last."""
        self._status_text = (self._status_text + data)[:_STATUS_CAP]
        *lines, self._status_text = self._status_text.split(b"\n")
        for line in lines:
            try:
                said = _decode(line)
            except msgspec.DecodeError:
                continue
            if not self._init.done() and said.child_pid is not None:
                self._init.set_result(said.child_pid)
            elif self._init.done() and said.exit_code is not None:
                self._status = said.exit_code

    def kill(self) -> None:
        """Kill every process at once. What is not there yet is killed when it comes; after the end it does nothing."""
        self._killed = True
        if self._buried:
            return
        if self.slot.group is not None:
            self.slot.group.unthrottle()
        if self._init_pidfd >= 0:
            _signal(self._init_pidfd, signal.SIGKILL)
        elif self._bwrap_pidfd >= 0 and self._init.done():
            _signal(self._bwrap_pidfd, signal.SIGKILL)
        if self._striking is None:
            self._striking = self._loop.call_later(STRIKE_EVERY_S, self._strike)

    def _strike(self) -> None:
        """Kill each process by itself too.

        The init takes all others with it, but it has to be given the processor for that, and hundreds that never rest
        stand before it. Those that are killed already do nothing with their turn but go.
        """
        init, bwrap = self.init, self._bwrap
        if self._buried or init is None or bwrap is None:
            return
        if self.slot.group is not None:
            self.slot.group.kill(spare=bwrap.pid)
        else:
            kill_members(lambda: proc.tree(init), ())
        self._striking = self._loop.call_later(STRIKE_EVERY_S, self._strike)

    def terminate(self) -> None:
        """Ask the program itself to end: SIGTERM to the first process below the init."""
        init = self.init
        if not self.running or init is None:
            self.kill()
            return
        for pid in proc.children(init)[:1]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                fd = os.pidfd_open(pid)
                try:
                    if proc.parent(pid) == init:
                        _signal(fd, signal.SIGTERM)
                finally:
                    os.close(fd)


def _limit(pid: int, limits: dict[str, int]) -> None:
    """Lower the limits of a process; those that are lower already stay."""
    with contextlib.suppress(ProcessLookupError):
        for name, value in limits.items():
            number = getattr(resource, name)
            hard = resource.prlimit(pid, number)[1]
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.prlimit(pid, number, (bound, bound))


async def settled(work: Coroutine[Any, Any, _T]) -> _T:
    """Await something to its end, even when cancelled meanwhile: half a start or half an end would leak."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(task)
        if not task.cancelled() and task.exception() is not None:
            raise task.exception() from None  # type: ignore[misc]  # just seen to be one
        raise


def _signal(pidfd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)
