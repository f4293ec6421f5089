"""The coordinator of the simulation: the real one on a memory store, memory blobs and lines to the nodes."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import msgspec

from simulation.engine.ledger import Ledger
from simulation.engine.loop import Process, SeededLoop
from simulation.engine.node import POOL, Node
from simulation.engine.stored import Listening, Port, SimStore
from simulation.engine.trace import Trace
from simulation.engine.weather import Fortune, JumpingClock, SeededDice
from trusted_pool.blobs.memory import MemoryBlobs
from trusted_pool.coordinator.service import Coordinator, Settings
from trusted_pool.coordinator.submit import Upload
from trusted_pool.core.job import Job
from trusted_pool.core.worker import Worker
from trusted_pool.link.fake import FakeLink, Wire
from trusted_pool.ports.blobs import BlobsError, BlobsFullError
from trusted_pool.ports.link import LinkError, OpenInput, Order, WorkerLink
from trusted_pool.ports.store import StoreError, StoreFullError
from trusted_pool.protocol.answers import StatusAnswer
from trusted_pool.protocol.errors import PoolError, StorageFullError
from trusted_pool.protocol.messages import AcceptedAnswer, HealthAnswer

PATIENCE_S = 40.0  #: of a client with one answer


class NoAnswerError(Exception):
    """A client hears nothing, and knows nothing."""


class SimLink(FakeLink):
    """A line that says in the trace what goes over it."""

    def __init__(self, worker: Worker, wire: Wire, ledger: Ledger, listed: Callable[[WorkerLink], bool]) -> None:
        super().__init__(worker, wire, POOL)
        self._ledger = ledger
        self._listed = listed

    async def health(self) -> HealthAnswer:
        """Ask, and take note of an answer."""
        answer = await super().health()
        self._ledger.heard_at[self.worker.worker_id] = asyncio.get_running_loop().time()
        return answer

    async def submit(self, order: Order, open_input: OpenInput) -> AcceptedAnswer:
        """Send, unless it is nobody who may have it."""
        if not self._listed(self):
            self._ledger.wrong("unlisted", f"{order.job_id} is sent to {self.worker.worker_id}, which is not listed")
        return await super().submit(order, open_input)

    async def _call(self, name: str, at_worker: Callable[[], Awaitable[Any]], *, may_be_gone: bool = False) -> Any:
        worker_id = self.worker.worker_id
        try:
            answer = await super()._call(name, at_worker, may_be_gone=may_be_gone)
        except LinkError as error:
            self._ledger.trace("coordinator", f"{name} at {worker_id}: {type(error).__name__}: {error}")
            raise
        if name != "health":
            what = f"{len(answer.attempts)} attempts" if name == "attempts" else getattr(answer, "job_id", "")
            self._ledger.trace("coordinator", f"{name} at {worker_id}: answered {what}")
        return answer


class Head:
    """The coordinator's machine."""

    def __init__(
        self,
        nodes: dict[str, Node],
        settings: Settings,
        *,
        loop: SeededLoop,
        fortune: Fortune,
        ledger: Ledger,
        trace: Trace,
    ) -> None:
        self.settings = settings
        self.clock = JumpingClock(loop.time)
        self.store = SimStore(ledger)
        self.blobs = MemoryBlobs()
        self.allowlist = [Worker(worker_id=name, endpoint=f"https://{name}:8443") for name in nodes]
        self.process: Process | None = None
        self.coordinator: Coordinator
        self.wires: dict[str, Wire] = {}
        self.down: set[str] = set()  #: names of nodes that are cut off
        self._nodes = nodes
        self._loop = loop
        self._fortune = fortune
        self._ledger = ledger
        self._trace = trace
        self._ready = False

    @property
    def up(self) -> bool:
        """Whether it answers clients."""
        return self.process is not None and self._ready

    def start(self) -> None:
        """Start a coordinator on what was kept."""
        process = self.process = Process(self._loop, "coordinator")
        self._trace("coordinator", "starts")
        self.wires = {}
        process.spawn(self._start(process), "start")

    async def _start(self, process: Process) -> None:
        coordinator = Coordinator(
            store=Listening(Port(self.store), self._ledger, lambda name: name in coordinator.roster.members),
            blobs=Port(self.blobs),
            link_to=lambda worker: self._link_to(worker, coordinator),
            clock=self.clock,
            dice=SeededDice(self._fortune.chance),
            pool_id=POOL,
            sign=lambda _message: b"",
            settings=self.settings,
        )
        self.coordinator = coordinator
        await coordinator.start(self.allowlist)
        self._ready = process is self.process

    def _link_to(self, worker: Worker, coordinator: Coordinator) -> WorkerLink:
        node = self._nodes[worker.worker_id]
        wire = self.wires.setdefault(worker.worker_id, Wire(node, self._fortune.fate))
        if worker.worker_id in self.down or not node.up:
            wire.cut()

        def listed(link: WorkerLink) -> bool:
            member = coordinator.roster.members.get(worker.worker_id)
            return member is not None and member.link is link

        return SimLink(worker, wire, self._ledger, listed)

    def see(self, name: str) -> None:
        """Make the wire to a node what it is: open when the node listens and nothing is between."""
        wire = self.wires.get(name)
        if wire is None:
            return
        reachable = self._nodes[name].up and name not in self.down
        if reachable and wire.down:
            wire.mend()
        elif not reachable and not wire.down:
            wire.cut()

    def crash(self) -> None:
        """Kill the coordinator: it finds again what was kept, with or without the newest that nobody heard of."""
        if self.process is None:
            return
        self.process.dead = True
        self.process, self._ready = None, False
        kept = int(self._fortune.chance.random() * (self.store.unsynced + 1))
        self._trace("coordinator", f"is killed; {kept} of {self.store.unsynced} unanswered commits are kept")
        full, self.store = self.store.full, self.store.crashed(kept)
        self.store.full = full
        room, self.blobs = self.blobs._shelf.room, self.blobs.crash()
        self.blobs._shelf.room = room
        self._ledger.must_hold()

    async def close(self) -> None:
        """Stop it as its operator would."""
        if self.process is not None:
            await self.process.spawn(self.coordinator.stop(), "stop")

    # What its HTTP routes do

    async def ask(self, name: str, make: Callable[[Coordinator], Coroutine[Any, Any, Any]]) -> Any:
        """Ask as a client. Raises NoAnswerError, PoolError."""
        process = self.process
        if process is None or not self._ready or self._fortune.happens(self._fortune.weather.drop):
            raise NoAnswerError("cannot connect")
        await asyncio.sleep(self._fortune.delay_s())
        if process.dead:
            raise NoAnswerError("the line broke")
        answer = self._loop.create_future()
        task = process.spawn(self._caught(name, make), name)

        def tell(done: asyncio.Task[Any]) -> None:
            if not answer.done() and not done.cancelled():
                answer.set_result(done.result())

        task.add_done_callback(tell)
        try:
            async with asyncio.timeout(PATIENCE_S):
                value, error = await answer
        except TimeoutError:
            if self._fortune.happens(self._fortune.weather.hang_up):
                process.call(task.cancel)
            raise NoAnswerError("no answer in time") from None
        await asyncio.sleep(self._fortune.delay_s())
        if self._fortune.happens(self._fortune.weather.lose_reply):
            raise NoAnswerError("the answer was lost")
        if error is not None:
            raise error
        return value

    async def _caught(
        self, name: str, make: Callable[[Coordinator], Coroutine[Any, Any, Any]]
    ) -> tuple[Any, Exception | None]:
        try:
            return await make(self.coordinator), None
        except PoolError as error:
            return None, error
        except (StoreFullError, BlobsFullError) as error:
            return None, StorageFullError(str(error))
        except (StoreError, BlobsError) as error:
            return None, NoAnswerError(str(error))
        except Exception as error:  # noqa: BLE001 - a 500 is what nobody expected
            if self._ledger.finding is None:
                with suppress(AssertionError):
                    self._ledger.wrong("error", f"the coordinator failed on {name}: {error!r}")
            return None, NoAnswerError(f"it answered 500: {error!r}")

    async def submit(self, manifest: dict[str, Any], files: dict[str, bytes], key: str, owner: str) -> str:
        """`POST /submit`."""

        async def submit(coordinator: Coordinator) -> str:
            uploads = []
            for name, data in files.items():
                stage = await coordinator.contents.stage()
                try:
                    await stage.write(data)
                    uploads.append(Upload(name, await stage.finish()))
                except BaseException:
                    await stage.abort()
                    for upload in uploads:
                        await upload.staged.discard()
                    raise
            job = await coordinator.submit(owner, msgspec.json.encode(manifest), uploads, key)
            return job.job_id

        return await self.ask("submit", submit)

    async def cancel(self, job_id: str) -> Job:
        """`POST /cancel/{job_id}`."""
        return await self.ask("cancel", lambda coordinator: coordinator.cancel(job_id, "somebody", _anybody))

    async def status(self, job_id: str, wait_s: float = 0.0) -> StatusAnswer:
        """`GET /status/{job_id}?wait=…`."""

        async def status(coordinator: Coordinator) -> StatusAnswer:
            change = coordinator.bulletin.expect(job_id)
            try:
                answer = await coordinator.read.status(job_id, _anybody)
                if wait_s and answer.completed_at is None:
                    await coordinator.bulletin.until(change, job_id, wait_s)
                    answer = await coordinator.read.status(job_id, _anybody)
            finally:
                coordinator.bulletin.forget(change, job_id)
            return answer

        return await self.ask("status", status)

    async def outputs(self, job_id: str) -> tuple[Job, int, dict[str, bytes]]:
        """`GET /outputs/{job_id}` and each file: the job, the attempt whose result it is, the files."""

        async def outputs(coordinator: Coordinator) -> tuple[Job, int, dict[str, bytes]]:
            job, result = await coordinator.read.result(job_id, _anybody)
            files = {}
            for output in result.outputs:
                files[output.path] = b"".join([piece async for piece in coordinator.contents.open(output.sha256)])
            return job, result.attempt, files

        return await self.ask("outputs", outputs)


def _anybody(_job: Job) -> None:
    """Allow everything."""
