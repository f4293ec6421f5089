"""A real coordinator among fakes: memory store, memory blobs, fake links to fake workers."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Self

from support.archives import tar_gz
from support.virtual_time import CountingDice, LoopClock, elapse
from trusted_pool.blobs.memory import MemoryBlobs
from trusted_pool.coordinator.entries import parse
from trusted_pool.coordinator.service import Coordinator, Settings
from trusted_pool.coordinator.submit import Upload
from trusted_pool.core.invariants import broken
from trusted_pool.core.job import Job
from trusted_pool.core.words import JobState
from trusted_pool.core.worker import Worker
from trusted_pool.link.fake import FakeLink, Wire
from trusted_pool.link.fake_worker import FakeWorker
from trusted_pool.ports.allowlist import AllowlistFile
from trusted_pool.ports.store import Committed, Unit
from trusted_pool.store.memory import MemoryStore

POOL = "pool-id"


class SlowStore(MemoryStore):
    """A store whose commits may take a while."""

    slow_s = 0.0

    async def commit(self, units: Sequence[Unit]) -> list[Committed]:
        """Commit, and answer later."""
        answer = await super().commit(units)
        if self.slow_s:
            await elapse(self.slow_s)
        return answer


PATIENCE_S = 3600.0


def anybody(_job: Job) -> None:
    """Allow everything."""


class FakePool:
    """Use as `async with`; the coordinator can be crashed and started again on what it kept."""

    def __init__(
        self, *names: str, slots: int = 4, settings: Settings | None = None, file: AllowlistFile | None = None
    ) -> None:
        """`file`: says who is listed, instead of `names`; who is in it is at hand as soon as he is listed."""
        self.store = SlowStore()
        self.blobs = MemoryBlobs()
        self.settings = settings or Settings()
        self.file = file
        self._slots = slots
        self.ends: dict[str, FakeWorker] = {}
        self.wires: dict[str, Wire] = {}
        for name in names:
            self._wire(name)
        self.dice = CountingDice()
        self.allowlist = [Worker(worker_id=name, endpoint=f"https://{name}:8443") for name in names]

    def _wire(self, name: str) -> Wire:
        if name not in self.wires:
            self.ends[name] = FakeWorker(name, slots=self._slots)
            self.wires[name] = Wire(self.ends[name])
        return self.wires[name]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.coordinator.stop()
        for job in await self.jobs():
            assert broken(job) == [], job.job_id

    async def start(self) -> None:
        """Start a coordinator on what was kept."""
        self.coordinator = Coordinator(
            store=self.store,
            blobs=self.blobs,
            link_to=lambda worker: FakeLink(worker, self._wire(worker.worker_id), POOL),
            clock=LoopClock(),
            dice=self.dice,
            pool_id=POOL,
            sign=lambda _message: b"",
            settings=self.settings,
            workers_file=self.file,
        )
        if self.file is not None:
            self.allowlist = parse((await self.file.read()).raw)
        await self.coordinator.start(self.allowlist)

    async def submit(
        self,
        manifest: str = "{}",
        files: dict[str, bytes] | None = None,
        key: str | None = None,
        owner: str = "local",
    ) -> str:
        """Submit an archive and return the job's id."""
        upload = await self.upload("project.tar.gz", tar_gz(files or {"main.py": b"pass"}))
        job = await self.coordinator.submit(owner, manifest.encode(), [upload], key)
        return job.job_id

    async def upload(self, name: str, data: bytes) -> Upload:
        """Stage a file."""
        stage = await self.coordinator.contents.stage()
        await stage.write(data)
        return Upload(name, await stage.finish())

    async def job(self, job_id: str) -> Job:
        """Load a job from the store."""
        row = await self.store.job(job_id)
        assert row is not None
        return row.job

    async def jobs(self) -> list[Job]:
        """Load all jobs."""
        from trusted_pool.ports.store import JobQuery  # noqa: PLC0415 - used here only

        return list((await self.store.jobs(JobQuery(limit=1000))).jobs)

    async def until(self, job_id: str, holds: Callable[[Job], bool]) -> Job:
        """Wait until the job is as wanted."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                change = self.coordinator.bulletin.expect(job_id)
                job = await self.job(job_id)
                if holds(job):
                    self.coordinator.bulletin.forget(change, job_id)
                    return job
                await self.coordinator.bulletin.until(change, job_id, PATIENCE_S)

    async def state(self, job_id: str, state: JobState) -> Job:
        """Wait until the job is in a state."""
        return await self.until(job_id, lambda job: job.state is state)

    async def accepted(self, job_id: str) -> Job:
        """Wait until a worker has the newest attempt."""
        return await self.until(
            job_id,
            lambda job: (
                job.state is JobState.DISPATCHED and job.attempt is not None and job.attempt.remote_id is not None
            ),
        )
