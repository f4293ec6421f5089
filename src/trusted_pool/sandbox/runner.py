"""Runs commands in sandboxes on this machine: limits laid on, watched, judged by what was measured."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from trusted_pool.ports.sandbox import OnLog
from trusted_pool.sandbox import plan, policy
from trusted_pool.sandbox.lent import Lent
from trusted_pool.sandbox.loglimit import LogLimit
from trusted_pool.sandbox.owner import Owner
from trusted_pool.sandbox.program import Launch, Program
from trusted_pool.sandbox.room import Room
from trusted_pool.sandbox.slots import Slot
from trusted_pool.sandbox.verdict import Facts, Seen
from trusted_pool.sandbox.watch import Watch


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be run: `directory` by its name below the jobs' directory, and open as `dir_fd`."""

    argv: Sequence[str]
    env: Mapping[str, str]
    limits: policy.Limits
    directory: str
    dir_fd: int
    binds: Sequence[str] = ()  #: by name
    gpus: Sequence[int] = ()  #: by number


class Run:
    """One command on its way; `stop` may be called at any time."""

    def __init__(self, program: Program, watch: Watch, log: LogLimit) -> None:
        self.program = program
        self.watch = watch
        self.log = log


class Runner:
    """What all sandboxes of this worker share."""

    def __init__(
        self,
        *,
        bwrap: str,
        mark: str,
        jobs: str,
        view: policy.View,
        ground: plan.Ground,
        seccomp_fd: int | None,
        log_limit_bytes: int,
        room: Room,
        lent: Lent,
    ) -> None:
        """`jobs`, `view.etc`: absolute paths as the worker sees them; slots may see them elsewhere.

        `ground` is what is known before anything was measured. `seccomp_fd` None: there is no filter.
        """
        self.ground = ground
        self._bwrap = bwrap
        self._mark = mark
        self._jobs = jobs
        self._view = view
        self._seccomp_fd = seccomp_fd
        self._room = room
        self._lent = lent
        self._log_limit_bytes = log_limit_bytes

    @property
    def filtered(self) -> bool:
        """Whether jobs' system calls are filtered."""
        return self._seccomp_fd is not None

    def unfilter(self) -> None:
        """Run without the filter from here on: this machine cannot lay one on."""
        self._seccomp_fd = None
        self.ground = msgspec.structs.replace(self.ground, filter=None, gpu_filter=None)

    @property
    def policy(self) -> str:
        """The policy of this machine, as text."""
        return plan.text(self._view, self.ground)

    async def run(
        self,
        slot: Slot,
        owner: Owner,
        command: Command,
        on_log: OnLog,
        on_start: Callable[[Run], Awaitable[None]],
    ) -> Facts:
        """Run a command to its end; `on_start` is awaited before it may begin. No process is left when this returns.

        Raises:
            OSError: the machine fails.
        """
        limits, group = command.limits, slot.group
        made = self._plan(slot, command)
        if group is not None and made.group is not None:
            if group.quick(made.group):
                group.begin(made.group)
            else:
                await asyncio.to_thread(group.begin, made.group)
        log = LogLimit(on_log, self._log_limit_bytes)
        program = Program(slot, log)
        watch = Watch(program, group, limits, self._room, command.dir_fd)
        watching: list[asyncio.Future[None]] = []

        async def starting() -> None:
            await on_start(Run(program, watch, log))
            watch.begin()
            watching.extend(asyncio.ensure_future(loop) for loop in watch.loops())

        try:
            ended = await program.run(self._launch(made, command), starting)
        finally:
            for task in watching:
                task.cancel()
            for task in watching:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            watch.end()
            if group is not None:
                group.end()
        await watch.last_look(owner)
        reading = watch.reading()
        if group is not None:
            group.clear()
        return Facts(
            status=ended.status,
            words=ended.words if ended.status is None else "",
            breach=watch.breach,
            reading=reading,
            usage=watch.usage(reading),
            limits=limits,
            seen=Seen(
                open_files=watch.disk.open_files,
                processes=watch.processes,
                largest_file_bytes=watch.disk.largest,
                log_bytes=log.written,
                log_kept_bytes=log.kept,
                log_limit_bytes=log.limit_bytes,
                log_cut=log.cut,
            ),
            command=command.argv[0],
        )

    def _plan(self, slot: Slot, command: Command) -> plan.Plan:
        jobs, view = self._jobs, self._view
        if slot.stage:
            jobs, view = f"{slot.stage}/jobs", msgspec.structs.replace(view, etc=f"{slot.stage}/etc")
        env = {**command.env, **self._lent.variables(command.binds, command.gpus)}
        lent = self._lent.equipment(slot.stage, command.binds, command.gpus)
        return plan.plan(view, f"{jobs}/{command.directory}", command.limits, env, self.ground, lent)

    def _launch(self, made: plan.Plan, command: Command) -> Launch:
        return Launch(
            bwrap=self._bwrap,
            mark=self._mark,
            options=policy.packed(made.options),
            seccomp_fd=self._lent.gpu_filter_fd if command.gpus and self.filtered else self._seccomp_fd,
            argv=command.argv,
            rlimits=made.rlimits,
        )
