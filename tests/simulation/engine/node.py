"""One worker of the simulation: the real daemon on a memory journal, memory blobs and a scripted sandbox."""

import asyncio
import contextvars
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

from simulation.engine.ledger import Ledger, Run
from simulation.engine.loop import Process, SeededLoop, process_here
from simulation.engine.machine import NoEnrolment, SimSandbox
from simulation.engine.stored import Port
from simulation.engine.trace import Trace
from simulation.engine.weather import Fortune, JumpingClock, SeededDice
from trusted_pool.blobs.memory import MemoryBlobs
from trusted_pool.core.job import OutputFile
from trusted_pool.core.request import Capacity
from trusted_pool.journal.memory import MemoryJournal
from trusted_pool.link.fake_worker import Parcel
from trusted_pool.ports.journal import Entry, JournalError
from trusted_pool.ports.link import UnansweredError
from trusted_pool.ports.sandbox import OutputMissingError, Task
from trusted_pool.protocol.errors import NotFoundError, PoolError, UnavailableError
from trusted_pool.protocol.messages import AcceptedAnswer, AttemptsAnswer, HealthAnswer, WorkerMessage
from trusted_pool.sandbox.fake import Play
from trusted_pool.worker.daemon import Daemon
from trusted_pool.worker.intake import FilePart, ManifestPart, Part
from trusted_pool.worker.logs import follow_log

POOL = "the-pool"
BUFFERED = 4  #: messages of a stream that are on their way

Stage = Callable[[str, Task], Play]


class Node:
    """A machine with a worker on it, which is killed, frozen and started again. It is the far end of a wire."""

    def __init__(
        self, name: str, slots: int, *, loop: SeededLoop, fortune: Fortune, ledger: Ledger, trace: Trace, stage: Stage
    ) -> None:
        self.worker_id = name
        self.slots = slots
        self.clock = JumpingClock(loop.time)
        self.process: Process | None = None
        self.journal_fails = False
        self.supervised = False  #: it is started again at once
        self._loop = loop
        self._fortune = fortune
        self._ledger = ledger
        self._trace = trace
        self._stage = stage
        self._journal = MemoryJournal(f"journal-{name}")
        self._disk: dict[str, dict[str, bytes]] = {}
        self.blobs = MemoryBlobs(durable=False)
        self.sandbox: SimSandbox
        self.daemon: Daemon
        self._ready = False
        self.on_change: Callable[[str], None] = lambda _: None  #: it listens now, or does not any more
        self._pumps: dict[asyncio.Task[None], Process | None] = {}  #: and who reads

    @property
    def up(self) -> bool:
        """Whether something listens at its address."""
        return self.process is not None and self._ready

    @property
    def disk(self) -> dict[str, dict[str, bytes]]:
        """What the sandbox keeps."""
        return self._disk

    def start(self) -> None:
        """Start the worker."""
        process = self.process = Process(self._loop, self.worker_id)
        self._trace(self.worker_id, "starts")
        process.spawn(self._start(process), "start")

    async def _start(self, process: Process) -> None:
        capacity = Capacity(
            slots=self.slots, memory_mb=4096, cpus=8, disk_mb=10_000, interpreters={"python3": "3.11"}, isolation=3
        )
        self.sandbox = SimSandbox(self._ledger, self.slots, script=self._perform, capacity=capacity, disk=self._disk)
        self.daemon = Daemon(
            worker_id=self.worker_id,
            sandbox=self.sandbox,
            journal=Port(self._journal, self._journal_fault),
            blobs=Port(self.blobs),
            enrolment=NoEnrolment(),
            clock=self.clock,
            dice=SeededDice(self._fortune.chance),
            listed=(POOL,),
        )
        while True:
            try:
                await self.daemon.start()
            except JournalError:  # as its supervisor would
                await asyncio.sleep(1.0)
            else:
                break
        self._ready = process is self.process
        self.on_change(self.worker_id)

    def _journal_fault(self, call: str) -> None:
        if self.journal_fails and call in ("accept", "put", "delete", "set_setting"):
            raise JournalError("the disk is full")

    def _perform(self, task: Task, _inputs: object) -> Play:
        play = self._stage(self.worker_id, task)
        run = Run(worker=self.worker_id, key=task.key, files=dict(play.files))
        self._ledger.started(task.env["TRUSTED_POOL_JOB_ID"], int(task.env["TRUSTED_POOL_ATTEMPT"]), run)
        return play

    def crash(self) -> None:
        """Kill the worker, and with it all that it runs."""
        if self.process is None:
            return
        self._trace(self.worker_id, "is killed")
        self.process.dead = True
        self.process, self._ready = None, False
        self._pumps.clear()
        self._journal = self._journal.crash()
        self.blobs = self.blobs.crash()
        self.on_change(self.worker_id)
        if self.supervised:
            self.start()

    def leave(self) -> None:
        """Let it end what it runs and leave, as its operator would; it may be killed over that."""
        process = self.process
        if process is None or not self._ready:
            return
        self._trace(self.worker_id, "is told to leave")

        async def leave() -> None:
            self.daemon.attempts.stop_all()
            await self.daemon.attempts.idle(30.0)
            self.daemon.hang_up()
            await self.daemon.close()
            if self.process is process:
                self._loop.call_soon(self.crash, context=contextvars.Context())

        process.spawn(leave(), "leave")

    async def close(self) -> None:
        """Stop it, and wait for that."""
        process = self.process
        if process is not None:
            await process.spawn(self.daemon.close(), "close")

    # The far end of the wire: what its HTTP routes do

    async def _handle(self, name: str, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Have the worker answer. Its steps are the worker's, whatever becomes of the caller."""
        process = self.process
        if process is None or not self._ready:
            raise UnansweredError("nobody listens there any more")
        answer = self._loop.create_future()
        task = process.spawn(self._caught(name, make), name)

        def tell(done: asyncio.Task[Any]) -> None:
            if answer.done() or done.cancelled():
                return
            answer.set_result(done.result())

        task.add_done_callback(tell)
        try:
            value, error = await answer
        except asyncio.CancelledError:
            if self._fortune.happens(self._fortune.weather.hang_up):
                process.call(task.cancel)
            raise
        if error is not None:
            raise error
        return value

    async def _caught(self, name: str, make: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[Any, Exception | None]:
        try:
            return await make(), None
        except JournalError as error:
            return None, UnavailableError(f"the worker's journal failed: {error}")
        except (PoolError, UnansweredError) as error:
            return None, error
        except Exception as error:  # noqa: BLE001 - a 500 is what nobody expected
            if self._ledger.finding is None:
                with suppress(AssertionError):
                    self._ledger.wrong("error", f"{self.worker_id} failed on {name}: {error!r}")
            return None, UnansweredError(f"it answered 500: {error!r}")

    async def _call(self, name: str, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        weather = self._fortune.weather
        if name != "health" and self._fortune.happens(weather.repeat):
            self._later(name, make, self._fortune.chance.random() * weather.late_s)
        if self._fortune.happens(weather.vanish):
            if self._fortune.happens(0.5):
                self._later(name, make, self._fortune.chance.random() * weather.late_s)
            raise UnansweredError("it was lost on its way")
        return await self._handle(name, make)

    def _later(self, name: str, make: Callable[[], Coroutine[Any, Any, Any]], delay_s: float) -> None:
        """Let a copy of a call arrive late. It dies with the worker: its connection does."""
        process = self.process
        if process is None or not self._ready:
            return

        async def copy() -> None:
            await asyncio.sleep(delay_s)
            self._trace(self.worker_id, f"hears a late {name}")
            await self._caught(name, make)

        process.spawn(copy(), f"late {name}")

    async def health(self) -> HealthAnswer:
        """`GET /health`."""

        async def answer() -> HealthAnswer:
            return self.daemon.health()

        return await self._call("health", answer)

    async def submit(self, parcel: Parcel) -> AcceptedAnswer:
        """`POST /submit`."""
        return await self._call("submit", lambda: self._submit(parcel))

    async def _submit(self, parcel: Parcel) -> AcceptedAnswer:
        daemon, order = self.daemon, parcel.order
        pool_id = daemon.pools.admit(parcel.pool_id)
        key = (pool_id, order.job_id, order.attempt)
        try:
            await daemon.pools.check_epoch(pool_id, parcel.epoch)
        except JournalError as error:
            refusal = UnavailableError(f"the worker's journal failed: {error}")
            daemon.attempts.refuse(key, refusal)
            raise refusal from error
        admission = await daemon.attempts.admit(key)
        if admission.known is not None:
            return _accepted(admission.known)
        try:
            async with aclosing(_parts(parcel)) as parts:
                return _accepted(await daemon.intake.take(admission, parts))
        finally:
            daemon.attempts.withdraw(admission)

    async def attempts(self) -> AttemptsAnswer:
        """`GET /attempts`."""
        return await self._call("attempts", lambda: self.daemon.events.report(POOL))

    async def cancel(self, remote_id: str) -> None:
        """`POST /cancel/{id}`."""

        async def cancel() -> None:
            await self.daemon.pools.check_epoch(POOL, 1)
            self._trace(self.worker_id, f"hears a cancel of {remote_id}")
            self.daemon.attempts.cancel(POOL, remote_id)

        await self._call("cancel", cancel)

    async def release(self, remote_id: str) -> None:
        """`POST /release/{id}`."""

        async def release() -> None:
            await self.daemon.pools.check_epoch(POOL, 1)
            entry = self.daemon.attempts.find(remote_id)
            if entry is not None:
                self._ledger.released(entry.job_id, entry.attempt, entry.state)
                self._trace(self.worker_id, f"releases {remote_id} ({entry.job_id} attempt {entry.attempt})")
            await self.daemon.attempts.release(POOL, remote_id)

        await self._call("release", release)

    async def events(self, journal_id: str, after: int) -> AsyncIterator[WorkerMessage]:
        """`GET /events`."""

        async def messages() -> AsyncGenerator[WorkerMessage, None]:
            async with aclosing(self.daemon.events.follow(POOL, journal_id, after)) as batches:
                async for batch in batches:
                    for message in batch:
                        yield message

        async with aclosing(self._stream("events", messages)) as stream:
            async for message in stream:
                yield message

    async def outputs(self, remote_id: str) -> tuple[OutputFile, ...]:
        """`GET /outputs/{id}`."""

        async def outputs() -> tuple[OutputFile, ...]:
            outcome = self.daemon.attempts.get(POOL, remote_id).outcome
            return outcome.outputs if outcome is not None else ()

        return await self._call("outputs", outputs)

    async def output(self, remote_id: str, path: str) -> AsyncIterator[bytes]:
        """`GET /outputs/{id}/{path}`."""

        async def pieces() -> AsyncGenerator[bytes, None]:
            self.daemon.attempts.get(POOL, remote_id)
            try:
                async for piece in self.daemon.sandbox.output(remote_id, path):
                    yield piece
            except OutputMissingError:
                raise NotFoundError(f"{remote_id} left no file {path!r}") from None

        async with aclosing(self._stream("output", pieces)) as stream:
            async for piece in stream:
                yield piece

    async def log(self, remote_id: str, start: int, *, follow: bool) -> AsyncIterator[bytes]:
        """`GET /logs/{id}/frames`."""

        async def pieces() -> AsyncGenerator[bytes, None]:
            entry = self.daemon.attempts.get(POOL, remote_id)
            source = follow_log(self.daemon.attempts, self.daemon.journal, entry.remote_id, start, follow=follow)
            async for piece in source:
                yield piece

        async with aclosing(self._stream("log", pieces)) as stream:
            async for piece in stream:
                yield piece

    async def _stream(self, name: str, source: Callable[[], AsyncGenerator[Any, None]]) -> AsyncGenerator[Any, None]:
        """Have the worker send a stream: it is ahead of its reader by a few messages, as over a socket."""
        process = self.process
        if process is None or not self._ready:
            raise UnansweredError("nobody listens there any more")
        line: asyncio.Queue[tuple[Any, Exception | None]] = asyncio.Queue(BUFFERED)

        async def pump() -> None:
            async with aclosing(source()) as messages:
                try:
                    async for message in messages:
                        await line.put((message, None))
                except (PoolError, UnansweredError) as error:
                    await line.put((None, error))
                except JournalError as error:
                    await line.put((None, UnansweredError(str(error))))
                else:
                    await line.put((None, StopAsyncIteration()))

        task = process.spawn(pump(), f"pump {name}")
        self._pumps[task] = process_here()
        task.add_done_callback(lambda done: self._pumps.pop(done, None))
        try:
            while True:
                message, error = await line.get()
                if isinstance(error, StopAsyncIteration):
                    return
                if error is not None:
                    raise error
                yield message
        finally:
            process.call(task.cancel)

    def hang_up(self) -> None:
        """Notice that a coordinator has gone: end what it was being sent."""
        for task, reader in self._pumps.items():
            if self.process is not None and reader is not None and reader.dead:
                self.process.call(task.cancel)


def _accepted(entry: Entry) -> AcceptedAnswer:
    return AcceptedAnswer(job_id=entry.remote_id, status=entry.state.value, started_at=entry.started_at)


async def _parts(parcel: Parcel) -> AsyncGenerator[Part, None]:
    async def pieces(data: bytes) -> AsyncIterator[bytes]:
        middle = len(data) // 2
        for piece in (data[:middle], data[middle:]):
            await asyncio.sleep(0)
            yield piece

    yield ManifestPart(parcel.order.manifest.encode())
    for name, data in parcel.files:
        yield FilePart(name, pieces(data))
