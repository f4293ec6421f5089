"""A store without threads and files, for simulations: deterministic, and as forgetful as a machine without power."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import msgspec

from trusted_pool.core.fair import come_back
from trusted_pool.core.job import Job
from trusted_pool.core.limits import OwnerUsage, RunningCaps
from trusted_pool.core.words import JobState
from trusted_pool.core.worker import Worker
from trusted_pool.ports.store import (
    FARTHEST,
    Blob,
    Committed,
    Counters,
    Event,
    Idempotency,
    JobPage,
    JobQuery,
    Result,
    ShapeCount,
    Share,
    StoreError,
    StoreFullError,
    Unit,
    Versioned,
)
from trusted_pool.store.memory_tables import RareTables, Tables, in_turn, matches
from trusted_pool.store.rows import OPEN, check, cursor, limit_of, moment_of, place_of, record_bytes, text, worker_id_of


class MemoryStore(RareTables):
    """Keeps everything in dictionaries.

    `syncs`: each commit waits for one turn of the event loop before it is kept and for another before it is answered,
    as with a disk; between them `crash` can come. Without it a commit is kept and answered at once.
    """

    def __init__(self, *, syncs: bool = False, tables: Tables | None = None) -> None:
        self._syncs = syncs
        self._tables = tables if tables is not None else Tables()
        self._reserved: dict[str, tuple[str, float]] = {}  #: holder, until
        self._unsynced: list[tuple[Sequence[Unit], asyncio.Future[list[Committed]]]] = []
        self._crashed = False
        self._closed = False
        self.full = False  #: set it: commits raise StoreFullError until it is unset

    def crash(self, kept: int = 0) -> "MemoryStore":
        """Return what the next process finds; this one goes dead: no call of it is ever answered again.

        Of the commits that nobody was answered yet, the first `kept` are found; the rest is forgotten.
        Reservations are forgotten too.
        """
        for units, _ in self._unsynced[:kept]:
            for unit in units:
                self._apply(unit)
        self._crashed = True
        old = self._tables
        copies = {name: getattr(old, name).copy() for name in Tables.__struct_fields__}
        return MemoryStore(syncs=self._syncs, tables=Tables(**copies))

    @property
    def unsynced(self) -> int:
        """How many commits wait to be kept."""
        return len(self._unsynced)

    async def commit(self, units: Sequence[Unit]) -> list[Committed]:
        """Commit the units. Raises StoreFullError, StoreError; ValueError for a unit that makes no sense."""
        await self._alive()
        for unit in units:
            check(unit)
            records = (unit.job, unit.result, *unit.workers, *unit.api_keys, *unit.audit)
            for record in (*records, *(event.data for event in unit.events)):
                if record is not None:
                    text(record)
        if not self._syncs:
            return self._keep(units)
        kept: asyncio.Future[list[Committed]] = asyncio.get_running_loop().create_future()
        self._unsynced.append((units, kept))
        asyncio.get_running_loop().call_soon(self._sync)
        committed = await kept
        if self._crashed:
            await asyncio.get_running_loop().create_future()
        return committed

    def _sync(self) -> None:
        """Keep all that waits, as one fsync does."""
        if self._crashed:
            return
        waiting, self._unsynced = self._unsynced, []
        for units, answer in waiting:
            try:
                committed = self._keep(units)
            except StoreError as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(committed)

    def _keep(self, units: Sequence[Unit]) -> list[Committed]:
        if self.full:
            raise StoreFullError("no space is left. Nothing of this was kept. Make room, then try again")
        return [self._apply(unit) for unit in units]

    def _apply(self, unit: Unit) -> Committed:
        tables, job, key = self._tables, unit.job, unit.idempotency
        row = tables.jobs.get(job.job_id) if job else None
        if job and (row.version if row else None) != unit.expects:
            return Committed(ok=False, conflict="job")
        if unit.result and unit.result.job_id in tables.results:
            return Committed(ok=False, conflict="job")
        held = tables.keys.get((key.owner, key.key)) if key else None
        if held and held.until > moment_of(unit):
            return Committed(ok=False, conflict="idempotency")
        places = [(entry.chain, entry.seq) for entry in unit.audit]
        if len(set(places)) < len(places) or any(place in tables.audit for place in places):
            return Committed(ok=False, conflict="audit")
        if job and unit.caps and (beyond := self._beyond(unit, job, row.job if row else None)):
            return Committed(ok=False, conflict=beyond)
        version = 0
        if job:
            self._account(job, unit.charge)
            version = row.version + 1 if row else 1
            tables.jobs[job.job_id] = Versioned(job, version)
            self._reserved.pop(job.job_id, None)
        for event in unit.events:
            tables.events.append(msgspec.structs.replace(event, seq=len(tables.events) + 1))
        if unit.result:
            tables.results[unit.result.job_id] = unit.result
        for blob in unit.blobs:
            tables.blobs.setdefault(blob.sha256, blob)
            if job:
                tables.refs.setdefault((job.owner, blob.sha256), blob.size)
        if key:
            tables.keys[key.owner, key.key] = key
        for worker in unit.workers:
            tables.workers[worker.worker_id] = worker
        self._put_rare(unit)
        return Committed(ok=True, version=version)

    def _beyond(self, unit: Unit, job: Job, before: Job | None) -> str:
        """Return the name of a cap of the unit that it would break, if any."""
        caps, usage = unit.caps, self._usage(job.owner)
        assert caps is not None  # noqa: S101  # the caller looked
        new = {blob.sha256: blob.size for blob in unit.blobs if (job.owner, blob.sha256) not in self._tables.refs}
        added = sum(new.values()) + record_bytes(unit, text(unit.result) if unit.result else "")
        queued = job.state is JobState.QUEUED and (before is None or before.state is not JobState.QUEUED)
        running = job.state in OPEN and (before is None or before.state not in OPEN)
        for name, more, has, cap in (
            ("queued", queued, usage.queued, caps.queued),
            ("running", running, usage.running, caps.running),
            ("bytes", added, usage.bytes, caps.bytes),
        ):
            if cap is not None and more and has + more > cap:
                return name
        return ""

    def _usage(self, owner: str) -> OwnerUsage:
        """Count what an owner has."""
        tables = self._tables
        jobs = [row.job for row in tables.jobs.values() if row.job.owner == owner]
        results = [tables.results[job.job_id] for job in jobs if job.job_id in tables.results]
        kept = sum(size for (name, _), size in tables.refs.items() if name == owner)
        kept += sum(len(job.manifest.encode()) for job in jobs) + sum(len(text(r).encode()) for r in results)
        return OwnerUsage(
            owner=owner,
            queued=sum(job.state is JobState.QUEUED for job in jobs),
            running=sum(job.state in OPEN for job in jobs),
            bytes=kept,
        )

    def _account(self, job: Job, charge: float) -> None:
        """Charge the owner of a job that is about to be put."""
        virtual = self._tables.virtual
        queued = {row.job.owner for row in self._queued()}
        if job.state is JobState.QUEUED and job.owner not in queued:
            others = [virtual.get(owner, 0.0) for owner in queued]
            own = virtual.get(job.owner, 0.0)
            virtual[job.owner] = come_back(own, others, lambda: max(virtual.values(), default=0.0))
        virtual[job.owner] = virtual.get(job.owner, 0.0) + charge

    async def job(self, job_id: str) -> Versioned | None:
        """Load one job."""
        await self._alive()
        return self._tables.jobs.get(job_id)

    async def open_jobs(self, worker_id: str | None = None) -> list[Versioned]:
        """Load all jobs that are dispatched or running, of one worker or of all."""
        await self._alive()
        rows = [
            row
            for row in self._tables.jobs.values()
            if row.job.state in OPEN and (worker_id is None or worker_id_of(row.job) == worker_id)
        ]
        return sorted(rows, key=lambda row: (row.job.submitted_at, row.job.job_id))

    def _queued(self) -> list[Versioned]:
        rows = [row for row in self._tables.jobs.values() if row.job.state is JobState.QUEUED]
        return sorted(rows, key=lambda row: (row.job.order_key, row.job.job_id))

    async def reserve(
        self,
        shapes: Sequence[str],
        n: int,
        holder: str,
        now: float,
        until: float,
        *,
        caps: RunningCaps | None = None,
    ) -> list[Versioned]:
        """Mark up to n eligible queued jobs as looked at by `holder` until then, and load them."""
        await self._alive()
        wanted = frozenset(shapes)

        def ready(job: Job) -> bool:
            other, reserved_until = self._reserved.get(job.job_id, (holder, 0.0))
            return job.shape in wanted and job.not_before <= now and (other == holder or reserved_until <= now)

        waiting: dict[str, list[Versioned]] = {}
        queued = self._queued()
        for row in queued:
            if ready(row.job):
                waiting.setdefault(row.job.owner, []).append(row)
        virtual = self._tables.virtual
        passed_over = self._cut_to(caps, {row.job.owner for row in queued}, waiting) if caps else []
        chosen = in_turn(waiting, virtual)[: max(n, 0)]
        if chosen:
            least = virtual.get(chosen[0].job.owner, 0.0)
            virtual |= {owner: max(least, virtual.get(owner, 0.0)) for owner in passed_over}
        self._reserved.update((row.job.job_id, (holder, until)) for row in chosen)
        return chosen

    def _cut_to(self, caps: RunningCaps, owners: set[str], waiting: dict[str, list[Versioned]]) -> list[str]:
        """Leave each owner what it may have running besides; return those for whom that is nothing."""
        passed_over = []
        for owner in owners:
            if (cap := caps.cap(owner)) is None:
                continue
            room = cap - self._usage(owner).running
            waiting[owner] = waiting.get(owner, [])[: max(room, 0)]
            if room <= 0:
                passed_over.append(owner)
        return passed_over

    async def shapes(self) -> list[ShapeCount]:
        """Return the shapes that have queued jobs."""
        await self._alive()
        found: dict[str, ShapeCount] = {}
        for row in self._queued():
            shape = row.job.shape
            before = found[shape].queued if shape in found else 0
            found[shape] = ShapeCount(shape=shape, request=row.job.request, queued=before + 1)
        return [found[shape] for shape in sorted(found)]

    async def next_due(self, now: float) -> float | None:
        """Return the earliest moment after `now` at which a queued job becomes eligible or expires, if any does."""
        await self._alive()
        moments = [
            moment
            for row in self._queued()
            for moment in (
                row.job.not_before,
                row.job.expires_at,
                self._reserved.get(row.job.job_id, ("", None))[1],
            )
            if moment is not None and moment > now
        ]
        return min(moments, default=None)

    async def oldest_queued_at(self) -> float | None:
        """Return when the job that waits longest was submitted, or None when none waits."""
        await self._alive()
        return min((row.job.submitted_at for row in self._queued()), default=None)

    async def expired(self, now: float, n: int) -> list[Versioned]:
        """Load up to n queued jobs whose `expires_at` has passed."""
        await self._alive()
        passed = [
            (row.job.expires_at, row.job.job_id, row)
            for row in self._queued()
            if row.job.expires_at is not None and row.job.expires_at <= now
        ]
        return [row for _, _, row in sorted(passed, key=lambda found: found[:2])][: max(n, 0)]

    async def jobs(self, query: JobQuery) -> JobPage:
        """Return one page of jobs. Raises ValueError for a cursor that it did not make."""
        await self._alive()
        limit = limit_of(query)
        after = place_of(query.after) if query.after is not None else None
        found = [row.job for row in self._tables.jobs.values() if matches(row.job, query)]
        found.sort(key=lambda job: (job.submitted_at, job.job_id), reverse=True)
        if after is not None:
            found = [job for job in found if (job.submitted_at, job.job_id) < after]
        more = len(found) > limit
        found = found[:limit]
        return JobPage(jobs=tuple(found), next=cursor(found[-1].submitted_at, found[-1].job_id) if more else None)

    async def queue_position(self, job: Job) -> int | None:
        """Return how many queued jobs go before it, or None when it is not queued."""
        await self._alive()
        waiting: dict[str, list[Versioned]] = {}
        for row in self._queued():
            waiting.setdefault(row.job.owner, []).append(row)
        ids = [row.job.job_id for row in in_turn(waiting, self._tables.virtual)]
        return min(FARTHEST, ids.index(job.job_id)) if job.job_id in ids else None

    async def events(self, job_id: str) -> list[Event]:
        """Return a job's story, oldest first."""
        await self._alive()
        return [event for event in self._tables.events if event.job_id == job_id]

    async def result(self, job_id: str) -> Result | None:
        """Return the accepted result."""
        await self._alive()
        return self._tables.results.get(job_id)

    async def blob(self, sha256: str) -> Blob | None:
        """Return a blob that some job refers to, with its bytes when it is small."""
        await self._alive()
        return self._tables.blobs.get(sha256)

    async def idempotency(self, owner: str, key: str, now: float) -> Idempotency | None:
        """Return what an owner's key was used for, when it has not run out."""
        await self._alive()
        held = self._tables.keys.get((owner, key))
        return held if held and held.until > now else None

    async def workers(self) -> list[Worker]:
        """Load all workers ever seen in an allowlist."""
        await self._alive()
        return [self._tables.workers[name] for name in sorted(self._tables.workers)]

    async def counters(self) -> Counters:
        """Return the counters."""
        await self._alive()
        jobs = {state.value: 0 for state in JobState}
        for row in self._tables.jobs.values():
            jobs[row.job.state.value] += 1
        return Counters(jobs=jobs, total=len(self._tables.jobs))

    async def shares(self) -> list[Share]:
        """Return the share of every owner that has queued jobs, least virtual time first."""
        await self._alive()
        queued = Counter(row.job.owner for row in self._queued())
        shares = [
            Share(owner=owner, virtual_time=self._tables.virtual.get(owner, 0.0), queued=count)
            for owner, count in queued.items()
        ]
        return sorted(shares, key=lambda share: (share.virtual_time, share.owner))

    async def usage(self, owner: str) -> OwnerUsage:
        """Return what an owner has now; nothing, of one that is not known."""
        await self._alive()
        return self._usage(owner)

    async def usages(self) -> list[OwnerUsage]:
        """Return what every owner has that ever had a job, by name."""
        await self._alive()
        return [self._usage(owner) for owner in sorted({row.job.owner for row in self._tables.jobs.values()})]

    async def close(self) -> None:
        """Finish what was begun and let go. Idempotent."""
        if self._crashed:
            await self._alive()
        self._sync()
        self._closed = True

    async def _alive(self) -> None:
        """Go on if this store still works; never come back after a crash."""
        if self._crashed:
            await asyncio.get_running_loop().create_future()
        if self._closed:
            raise StoreError("the store is closed")
