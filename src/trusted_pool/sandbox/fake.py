"""A sandbox in memory, for simulations: outcomes by script, time by the event loop; no thread, file or process."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping

import msgspec

from trusted_pool.core.job import Outcome, OutputFile, Usage
from trusted_pool.core.request import Capacity
from trusted_pool.core.words import Reason
from trusted_pool.ports.sandbox import OnLog, OpenInput, OutputMissingError, SandboxError, Task


class Play(msgspec.Struct, frozen=True, kw_only=True):
    """What a program does: say each line at its time, run for `duration_s`, leave files, end."""

    duration_s: float = 0.01
    says: tuple[tuple[float, int, bytes], ...] = ()  #: seconds after the start, stream, bytes; in order of time
    files: Mapping[str, bytes] = {}
    exit_code: int = 0
    ignores_sigterm: bool = False
    fails: Outcome | None = None  #: the machine's failure or a limit, instead of an end of its own


#: Given the task and its inputs by name, says what its program does.
Script = Callable[[Task, Mapping[str, bytes]], Play]
#: Outputs by task: what survives the end of a worker's process.
Disk = MutableMapping[str, dict[str, bytes]]


class FakeSandbox:
    """Contract of `ports.sandbox.Sandbox`, as far as it can be seen without processes."""

    def __init__(self, script: Script, *, capacity: Capacity | None = None, disk: Disk | None = None) -> None:
        """`disk`: hand the same one to the next incarnation."""
        self._script = script
        self._capacity = capacity or Capacity(
            slots=2, memory_mb=4096, cpus=2, disk_mb=10_000, interpreters={"python3": "3.11.2"}, isolation=3
        )
        self._disk: Disk = disk if disk is not None else {}
        self._running: dict[str, _Performance] = {}
        self._dead = False
        self.started = False

    async def start(self) -> None:
        """Nothing is to be measured."""
        self.started = True

    def capacity(self) -> Capacity:
        """Return what was given."""
        return self._capacity

    def disk_there_mb(self) -> int:
        """As much as was given: a fake's files take no disk."""
        return self._capacity.disk_mb or 0

    def crash(self) -> None:
        """Become inert, as the ports of a killed process are: nothing is said, kept or answered any more."""
        self._dead = True
        for running in self._running.values():
            running.task.cancel()

    @property
    def running(self) -> frozenset[str]:
        """Keys of the tasks that run now; a simulation that ends with any has forgotten them."""
        return frozenset(self._running)

    async def run(
        self, task: Task, open_input: OpenInput, on_log: OnLog, on_start: Callable[[], Awaitable[None]]
    ) -> Outcome:
        """Perform what the script says."""
        if not self.started or task.key in self._running:
            return Outcome(reason=Reason.SANDBOX_FAILED, detail=f"task {task.key!r} cannot be run now")
        if any(other.slot == task.slot for other in self._running.values()):
            return Outcome(reason=Reason.SANDBOX_FAILED, detail=f"slot {task.slot} is busy")
        self._disk[task.key] = {}
        performance = _Performance(task.slot)
        work = self._perform(performance, task, open_input, on_log, on_start)
        performance.task = asyncio.ensure_future(work)
        self._running[task.key] = performance
        try:
            return await performance.task
        except Exception as error:  # noqa: BLE001 - the contract: whatever fails is an outcome
            return Outcome(reason=Reason.SANDBOX_FAILED, detail=f"the worker failed: {error or type(error).__name__}")
        finally:
            if not performance.task.done():
                performance.task.cancel()
            self._running.pop(task.key, None)

    async def _perform(
        self,
        performance: "_Performance",
        task: Task,
        open_input: OpenInput,
        on_log: OnLog,
        on_start: Callable[[], Awaitable[None]],
    ) -> Outcome:
        reading = asyncio.ensure_future(_read(task, open_input))
        stopping = asyncio.ensure_future(performance.stopped.wait())
        try:
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if performance.stopped.is_set():
                return Outcome(reason=Reason.CANCELLED, detail="it was cancelled before it started")
            play = self._script(task, reading.result())
            if play.fails is not None and play.fails.reason in (Reason.BAD_INPUT, Reason.SANDBOX_FAILED):
                return play.fails
            await on_start()
            return await self._act(performance, task, play, on_log)
        finally:
            reading.cancel()
            stopping.cancel()

    async def _act(self, performance: "_Performance", task: Task, play: Play, on_log: OnLog) -> Outcome:
        timeout_s = task.manifest.timeout_s
        spent_s = 0.0
        performance.deaf = play.ignores_sigterm
        for at_s, stream, data in (*play.says, (play.duration_s, 0, b"")):
            until_s = min(at_s, timeout_s)
            ended_early = await performance.sleep(until_s - spent_s)
            spent_s = max(spent_s, until_s)
            usage = Usage(cpu_seconds=spent_s, memory_peak_bytes=2**20, wall_time_ms=spent_s * 1000)
            if ended_early:
                return Outcome(reason=Reason.CANCELLED, detail="it was cancelled and ended", usage=usage)
            if at_s > timeout_s:
                detail = f"it ran for longer than its timeout of {timeout_s:g} s and was killed"
                return Outcome(reason=Reason.TIMEOUT, limit="timeout", detail=detail, usage=usage)
            if data and not self._dead:
                on_log(stream, data)
        outputs = tuple(
            OutputFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for path, data in sorted(play.files.items())
        )
        self._disk[task.key] = dict(play.files)
        version = (self._capacity.interpreters or {}).get(task.manifest.interpreter, "")
        if play.fails is not None:
            return msgspec.structs.replace(play.fails, usage=usage, outputs=outputs, interpreter_version=version)
        reason = Reason.EXIT_CODE if play.exit_code else None
        detail = f"the program ended with exit code {play.exit_code}" if play.exit_code else ""
        return Outcome(
            reason=reason,
            exit_code=play.exit_code,
            detail=detail,
            usage=usage,
            outputs=outputs,
            interpreter_version=version,
        )

    async def stop(self, key: str, grace_s: float) -> None:
        """End a running task."""
        running = self._running.get(key)
        if running is not None and not self._dead:
            running.stop(grace_s)

    async def output(self, key: str, path: str) -> AsyncIterator[bytes]:
        """Read one output file. Raises OutputMissingError."""
        data = self._disk.get(key, {}).get(path)
        if data is None:
            raise OutputMissingError(f"{path!r} is no output of {key!r}")
        yield data

    async def discard(self, key: str) -> None:
        """Delete all of an ended task."""
        if not self._dead and key not in self._running:
            self._disk.pop(key, None)

    async def sweep(self, keep: frozenset[str]) -> list[str]:
        """Remove what a crash left."""
        left = sorted(set(self._disk) - keep)
        for key in left:
            del self._disk[key]
        return left

    async def close(self) -> None:
        """End every running task at once."""
        tasks = [running.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.started = False


class _Performance:
    """One running task."""

    task: "asyncio.Task[Outcome]"

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.deaf = False
        self.stopped = asyncio.Event()
        self._ended = asyncio.Event()
        self._killer: asyncio.TimerHandle | None = None

    def stop(self, grace_s: float) -> None:
        self.stopped.set()
        if not self.deaf:
            self._ended.set()
        elif self._killer is None:
            self._killer = asyncio.get_running_loop().call_later(grace_s, self._ended.set)

    async def sleep(self, for_s: float) -> bool:
        """Sleep; whether it was ended meanwhile."""
        try:
            async with asyncio.timeout(max(0.0, for_s)):
                await self._ended.wait()
        except TimeoutError:
            return self._ended.is_set()
        return True


async def _read(task: Task, open_input: OpenInput) -> dict[str, bytes]:
    inputs: dict[str, bytes] = {}
    for given in task.inputs:
        data = b"".join([piece async for piece in open_input(given)])
        if hashlib.sha256(data).hexdigest() != given.sha256:
            raise SandboxError(f"input {given.name!r} is not what was announced")
        inputs[given.name] = data
    return inputs
