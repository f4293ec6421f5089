"""One task from its inputs to its outcome."""

import asyncio
import contextlib
import functools
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from trusted_pool.core.job import InputFile, Outcome
from trusted_pool.core.words import Reason
from trusted_pool.ports.sandbox import OnLog, OpenInput, Task
from trusted_pool.protocol.archive import ArchiveLimits
from trusted_pool.protocol.errors import BadArchiveError, BadRequestError, TooLargeError
from trusted_pool.sandbox import interpreters, policy
from trusted_pool.sandbox.beneath import open_beneath
from trusted_pool.sandbox.collect import OutputLimits, collect
from trusted_pool.sandbox.interpreters import Interpreter
from trusted_pool.sandbox.owner import Owner
from trusted_pool.sandbox.runner import Command, Run, Runner
from trusted_pool.sandbox.slots import Slot
from trusted_pool.sandbox.unpack import Unpacked, Window, unpack
from trusted_pool.sandbox.verdict import judge

#: Inputs up to this size, together, are held in memory on their way to the directory.
_SPOOL_BYTES = 1024 * 1024


class Attempt:
    """One task on one slot."""

    def __init__(self, task: Task, slot: Slot, owner: Owner, runner: Runner, interpreter: Interpreter) -> None:
        self.task = task
        self.slot = slot
        self._owner = owner
        self._runner = runner
        self._interpreter = interpreter
        self._run: Run | None = None
        self._stopped = False
        self._preparing: asyncio.Future[Unpacked] | None = None
        self._killer: asyncio.TimerHandle | None = None
        self.limits = limits_of(task)

    async def run(
        self,
        dir_fd: int,
        spool: Path,
        open_input: OpenInput,
        *,
        on_log: OnLog,
        on_start: Callable[[], Awaitable[None]],
        output_limits: OutputLimits,
    ) -> Outcome:
        """Unpack, run, collect. Raises OSError when the machine fails."""
        unpacked = await self._prepare(dir_fd, spool, open_input)
        if isinstance(unpacked, Outcome):
            return self._with_bytes(unpacked, 0)
        manifest = self.task.manifest
        command = Command(
            argv=interpreters.command(self._interpreter, manifest.entrypoint, manifest.args),
            env=policy.environment(manifest.env, self.task.env),
            limits=self.limits,
            directory=self.task.key,
            dir_fd=dir_fd,
            binds=manifest.binds,
            gpus=self.task.gpus,
        )

        async def starting(run: Run) -> None:
            self._run = run
            await on_start()
            if self._stopped:
                run.watch.end_for(Reason.CANCELLED)

        try:
            facts = await self._runner.run(self.slot, self._owner, command, on_log, starting)
        finally:
            self._run = None
            if self._killer is not None:
                self._killer.cancel()
        outcome = msgspec.structs.replace(judge(facts), interpreter_version=self._interpreter.version)
        if facts.status is not None or facts.breach is not None:
            outcome = await self._collect(outcome, dir_fd, unpacked, output_limits)
        return self._with_bytes(outcome, facts.seen.log_kept_bytes)

    def _with_bytes(self, outcome: Outcome, log_bytes: int) -> Outcome:
        """Say what came in and what goes out."""
        usage = msgspec.structs.replace(
            outcome.usage,
            bytes_in=sum(given.size for given in self.task.inputs),
            bytes_out=sum(file.size for file in outcome.outputs) + log_bytes,
        )
        return msgspec.structs.replace(outcome, usage=usage)

    async def _prepare(self, dir_fd: int, spool: Path, open_input: OpenInput) -> Unpacked | Outcome:
        self._preparing = asyncio.ensure_future(self._unpack(dir_fd, spool, open_input))
        try:
            await asyncio.wait({self._preparing})
            if self._stopped or self._preparing.cancelled():
                return Outcome(reason=Reason.CANCELLED, detail="it was cancelled before it started")
            return self._preparing.result()
        except (BadArchiveError, BadRequestError, TooLargeError) as error:
            detail = f"{error.message}; {error.hint}" if error.hint else error.message
            return Outcome(reason=Reason.BAD_INPUT, detail=detail)
        finally:
            self._preparing.cancel()

    async def _unpack(self, dir_fd: int, spool: Path, open_input: OpenInput) -> Unpacked:
        with contextlib.ExitStack() as stack:
            # All in one file, since each would cost a descriptor, and a job may have a thousand inputs.
            spooled = stack.enter_context(tempfile.SpooledTemporaryFile(_SPOOL_BYTES, "w+b", dir=str(spool)))
            file = cast("BinaryIO", spooled)
            inputs: list[tuple[InputFile, Window]] = []
            for given in self.task.inputs:
                start = file.tell()
                async for piece in open_input(given):
                    file.write(piece)
                inputs.append((given, Window(file, start, file.tell() - start)))
            limits = ArchiveLimits(max_bytes=self.limits.disk_bytes)
            unpacked = await self._owner.call(unpack, dir_fd, inputs, limits)
            if not self._interpreter.path:
                await self._owner.call(_make_executable, dir_fd, self.task.manifest.entrypoint)
            return unpacked

    async def _collect(self, outcome: Outcome, dir_fd: int, unpacked: Unpacked, limits: OutputLimits) -> Outcome:
        patterns = self.task.manifest.outputs
        # A sparse file is larger than the disk that it takes; the pool takes no more than the job may use.
        limits = msgspec.structs.replace(limits, max_bytes=min(limits.max_bytes, self.limits.disk_bytes))
        found = await self._owner.call(collect, dir_fd, unpacked.files, patterns, limits)
        evidence = dict(outcome.evidence)
        if found.problems:
            evidence["outputs_passed_over"] = len(found.problems) + found.more_problems
            first = found.problems[0]
            evidence["first_passed_over"] = f"{first.path}: {first.words}"
        if found.limit:
            evidence[f"{found.limit}_limit"] = _number(limits, found.limit)
        if found.unmatched:
            evidence["outputs_unmatched"] = ", ".join(found.unmatched)[:1000]
        outcome = msgspec.structs.replace(outcome, outputs=found.files, evidence=evidence)
        if outcome.reason is None and found.reason is not None:
            outcome = msgspec.structs.replace(outcome, reason=found.reason, detail=found.detail, limit=found.limit)
        return outcome

    def stop(self, grace_s: float) -> None:
        """End it: what has not begun never does; a program gets SIGTERM and, after the grace, SIGKILL for its tree."""
        self._stopped = True
        if self._preparing is not None:
            self._preparing.cancel()
        run = self._run
        if run is None:
            return
        run.watch.ending_for(Reason.CANCELLED)
        run.program.terminate()
        if self._killer is None:
            loop = asyncio.get_running_loop()
            self._killer = loop.call_later(grace_s, functools.partial(run.watch.end_for, Reason.CANCELLED))


#: The limits of collecting, by the name that an outcome gives them.
_OF_OUTPUTS = {
    "output_bytes": "max_bytes",
    "output_files": "max_files",
    "output_path_bytes": "max_path_bytes",
    "output_names": "max_seen",
    "output_depth": "max_depth",
    "output_seconds": "max_seconds",
}


def _number(limits: OutputLimits, name: str) -> int | float:
    number: int | float = getattr(limits, _OF_OUTPUTS[name])
    return number


def limits_of(task: Task) -> policy.Limits:
    """Read a task's limits from its manifest."""
    manifest = task.manifest
    return policy.Limits(
        memory_bytes=manifest.memory_mb * policy.MB,
        disk_bytes=manifest.disk_mb * policy.MB,
        timeout_s=manifest.timeout_s,
        cpus=manifest.cpus,
        cpu_seconds=manifest.cpu_seconds,
    )


def _make_executable(dir_fd: int, path: str) -> None:
    """Let the program of an `exec` job be executed, whatever its archive said. Missing: the start will say so."""
    with contextlib.suppress(OSError):
        fd = open_beneath(dir_fd, path, os.O_RDONLY)
        try:
            os.fchmod(fd, 0o755)
        finally:
            os.close(fd)
