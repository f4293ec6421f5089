"""Runs commands in sandboxes on this machine: limits laid on, watched, judged by what was measured."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from trusted_pool.ports.sandbox import OnLog
from trusted_pool.sandbox import policy
from trusted_pool.sandbox.cgroups import GroupLimits
from trusted_pool.sandbox.loglimit import LogLimit
from trusted_pool.sandbox.owner import Owner
from trusted_pool.sandbox.program import Launch, Program
from trusted_pool.sandbox.room import Room
from trusted_pool.sandbox.slots import Slot
from trusted_pool.sandbox.verdict import Facts
from trusted_pool.sandbox.watch import Watch

#: Bubblewrap itself and the sandbox's init, which count as processes of the job's group.
_OWN_PROCESSES = 3


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be run: `directory` by its name below the jobs' directory, and open as `dir_fd`."""

    argv: Sequence[str]
    env: Mapping[str, str]
    limits: policy.Limits
    directory: str
    dir_fd: int


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
        etc: str,
        system: tuple[policy.Entry, ...],
        seccomp_fd: int,
        log_limit_bytes: int,
        room: Room,
    ) -> None:
        """`jobs`, `etc`: absolute paths as the worker sees them; slots may see them elsewhere."""
        self.level = 1
        self._bwrap = bwrap
        self._mark = mark
        self._jobs = jobs
        self._etc = etc
        self._system = system
        self._seccomp_fd = seccomp_fd
        self._room = room
        self._log_limit_bytes = log_limit_bytes

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
        if group is not None:
            begun = GroupLimits(
                memory_bytes=limits.memory_bytes,
                pids=limits.pids + _OWN_PROCESSES,
                cpus=limits.cpus if limits.cpus < (os.cpu_count() or 1) else None,
            )
            if group.quick(begun):
                group.begin(begun)
            else:
                await asyncio.to_thread(group.begin, begun)
        log = LogLimit(on_log, self._log_limit_bytes)
        program = Program(slot, log)
        watch = Watch(program, group, limits, self._room, command.dir_fd)
        watching: list[asyncio.Task[None]] = []

        async def starting() -> None:
            await on_start(Run(program, watch, log))
            watch.begin()
            watching.append(asyncio.ensure_future(watch.look_on()))

        try:
            ended = await program.run(self._launch(slot, command), starting)
        finally:
            for task in watching:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            watch.end()
            if group is not None:
                group.end()
        await watch.last_look(owner)
        reading = watch.reading()
        return Facts(
            status=ended.status,
            words=ended.words if ended.status is None else "",
            breach=watch.breach,
            reading=reading,
            usage=watch.usage(reading),
            limits=limits,
            log_cut=log.cut,
            command=command.argv[0],
        )

    def _launch(self, slot: Slot, command: Command) -> Launch:
        jobs, etc = (f"{slot.stage}/jobs", f"{slot.stage}/etc") if slot.stage else (self._jobs, self._etc)
        view = policy.View(system=self._system, etc=etc)
        options = policy.options(view, f"{jobs}/{command.directory}", command.limits, command.env)
        return Launch(
            bwrap=self._bwrap,
            mark=self._mark,
            options=policy.packed(options),
            seccomp_fd=self._seccomp_fd,
            argv=command.argv,
            rlimits=policy.rlimits(command.limits, self.level),
        )
