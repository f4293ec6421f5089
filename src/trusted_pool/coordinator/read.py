"""What clients see: status, jobs, results, the pool."""

from collections.abc import Callable

import msgspec

from trusted_pool import __version__
from trusted_pool.coordinator.admission import Admission
from trusted_pool.coordinator.explain import Explain, failure_of
from trusted_pool.coordinator.jobs import Jobs
from trusted_pool.coordinator.owner_limits import OwnerLimits
from trusted_pool.coordinator.roster import Roster
from trusted_pool.core.job import Attempt, Job
from trusted_pool.core.limits import OwnerUsage
from trusted_pool.core.words import RETRYABLE, AttemptState, Duty, JobState, WorkerHealth
from trusted_pool.ports.clock import Clock
from trusted_pool.ports.store import JobQuery, Result, Store, StoreSlowError
from trusted_pool.protocol.answers import (
    ExecutionMetadata,
    ExplainAnswer,
    HistoryAnswer,
    HistoryEvent,
    JobsAnswer,
    JobSummary,
    PoolAnswer,
    StatusAnswer,
    UsageAnswer,
    WorkerAnswer,
    WorkerStatus,
)
from trusted_pool.protocol.errors import BadRequestError, ConflictError, UnavailableError

Allowed = Callable[[Job], None]


class Read:
    """Answers questions; changes nothing."""

    def __init__(
        self,
        *,
        store: Store,
        jobs: Jobs,
        roster: Roster,
        explain: Explain,
        limits: OwnerLimits,
        admission: Admission,
        clock: Clock,
        pool_id: str,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._roster = roster
        self._explain = explain
        self._limits = limits
        self._admission = admission
        self._clock = clock
        self._pool_id = pool_id

    async def status(self, job_id: str, allowed: Allowed) -> StatusAnswer:
        """Return all that is known of a job. Raises NotFoundError."""
        job = await self._jobs.get(job_id)
        allowed(job)
        attempt = job.attempt
        queued = job.state is JobState.QUEUED
        return StatusAnswer(
            job_id=job.job_id,
            pool_status=job.state,
            status=job.state,
            state=job.state,
            reason=job.reason,
            fault=job.fault,
            retryable=job.reason in RETRYABLE,
            detail=job.detail or (await self.held_back(job.owner) if queued else ""),
            worker_id=attempt.worker_id if attempt and not queued else None,
            worker_status=_worker_status(job, attempt) if attempt and not queued else None,
            submitted_at=job.submitted_at,
            completed_at=job.completed_at,
            owner=job.owner,
            name=job.name,
            labels=job.labels,
            priority=job.priority,
            queue_position=await self._store.queue_position(job) if queued else None,
            waiting_for=self._explain.verdicts(job.request) if queued else None,
            failure=failure_of(job, self._roster),
            not_before=job.not_before if queued and job.not_before > self._clock.now() else None,
            expires_at=job.expires_at,
            cancel_requested_at=job.cancel_requested_at,
            rerun_of=job.rerun_of,
            attempts=[_without_outputs(a) for a in job.attempts],
            inputs=list(job.inputs),
            manifest=msgspec.json.decode(job.manifest),
        )

    async def explain(self, job_id: str, allowed: Allowed) -> ExplainAnswer:
        """Say why a job is where it is. Raises NotFoundError."""
        job = await self._jobs.get(job_id)
        allowed(job)
        position = await self._store.queue_position(job) if job.state is JobState.QUEUED else None
        held_back = await self.held_back(job.owner) if job.state is JobState.QUEUED else ""
        return self._explain.explain(job, position, held_back)

    async def held_back(self, owner: str) -> str:
        """Say why none of an owner's jobs starts now whatever the workers have free; empty when that is not so."""
        limit = self._limits.of(owner).running
        if not limit or (await self._store.usage(owner)).running < limit:
            return ""
        return f"owner limit: {limit} running jobs"

    async def usage(self, owner: str) -> UsageAnswer:
        """Return what an owner has and may have."""
        return self._usage(await self._store.usage(owner))

    async def usages(self) -> list[UsageAnswer]:
        """Return what every owner has and may have that ever had a job, or for whom limits were set."""
        known = {usage.owner: usage for usage in await self._store.usages()}
        named = {owner: OwnerUsage(owner=owner) for owner in self._limits.changes}
        return [self._usage(usage) for _, usage in sorted((named | known).items())]

    def _usage(self, usage: OwnerUsage) -> UsageAnswer:
        under_way = self._admission.under_way(usage.owner)
        return UsageAnswer(
            owner=usage.owner,
            queued=usage.queued,
            running=usage.running,
            bytes=usage.bytes,
            staged_bytes=under_way.staged,
            transfers=under_way.transfers,
            waits=under_way.waits,
            submits_left=under_way.submits_left,
            limits=self._limits.of(usage.owner),
        )

    async def history(self, job_id: str, allowed: Allowed) -> HistoryAnswer:
        """Return the whole story of a job. Raises NotFoundError."""
        allowed(await self._jobs.get(job_id))
        events = [
            HistoryEvent(seq=e.seq, at=e.at, kind=e.kind, attempt=e.attempt, data=e.data)
            for e in await self._store.events(job_id)
        ]
        return HistoryAnswer(job_id=job_id, events=events)

    async def jobs(self, query: JobQuery) -> JobsAnswer:
        """Return one page of jobs, newest first. Raises BadRequestError for a bad cursor, UnavailableError."""
        try:
            page = await self._store.jobs(query)
        except StoreSlowError as error:
            raise UnavailableError(
                str(error), code="too_slow", hint="narrow the filter: since, until, state or name", retry_after_s=1.0
            ) from None
        except ValueError:
            raise BadRequestError("after: no cursor of this list", hint="pass the `next` of the page before") from None
        return JobsAnswer(jobs=[_summary(job) for job in page.jobs], next=page.next)

    async def result(self, job_id: str, allowed: Allowed) -> tuple[Job, Result]:
        """Return a final job with its result, empty when it has none. Raises NotFoundError, ConflictError."""
        job = await self._jobs.get(job_id)
        allowed(job)
        if not job.final:
            raise ConflictError(
                f"job {job_id} has not finished: it is {job.state}",
                code="not_finished",
                hint=f"wait for it: tpool wait {job_id}",
            )
        result = await self._store.result(job_id)
        return job, result or Result(job_id=job_id, attempt=0)

    async def pool(self, *, inside: bool = True) -> PoolAnswer:
        """Return the state of the pool; `inside` as with `workers`."""
        counters = await self._store.counters()
        workers = self.workers(inside=inside)
        return PoolAnswer(
            total_workers=len(workers),
            healthy_workers=sum(w.is_healthy for w in workers),
            total_jobs=counters.total,
            queued_jobs=counters.jobs.get(JobState.QUEUED, 0),
            jobs={state.value: counters.jobs.get(state, 0) for state in JobState},
            paused=self._explain.paused,
            pool_id=self._pool_id,
            workers=workers,
            version=__version__,
        )

    def workers(self, *, inside: bool = True) -> list[WorkerAnswer]:
        """Return the workers of the allowlist. `inside`: with what tells of the network behind the pool."""
        return [
            WorkerAnswer(
                worker_id=m.worker.worker_id,
                endpoint=m.worker.endpoint if inside else "",
                is_healthy=m.worker.health is WorkerHealth.HEALTHY,
                active_jobs=m.load.active,
                max_concurrent_jobs=m.worker.slots,
                last_health_check=m.worker.last_health_check,
                health=m.worker.health,
                duty=m.worker.duty,
                drained=m.worker.duty is Duty.DRAINING and m.load.active == 0,
                drain_by=m.worker.drain_by,
                identity="proven" if m.worker.proven else "claimed",
                words=m.worker.words if inside else "",
                labels=m.worker.offer.labels,
                capacity=m.worker.offer,
                version=m.worker.version,
            )
            for m in self._roster.listed()
        ]


def _summary(job: Job) -> JobSummary:
    return JobSummary(
        job_id=job.job_id,
        state=job.state,
        reason=job.reason,
        name=job.name,
        owner=job.owner,
        worker_id=job.attempt.worker_id if job.attempt else None,
        attempt=len(job.attempts),
        submitted_at=job.submitted_at,
        completed_at=job.completed_at,
    )


def _without_outputs(attempt: Attempt) -> Attempt:
    """Leave the list of outputs to `/outputs`."""
    if attempt.outcome is None or not attempt.outcome.outputs:
        return attempt
    return msgspec.structs.replace(attempt, outcome=msgspec.structs.replace(attempt.outcome, outputs=()))


#: The words of the worker's own API for the states of an attempt.
_WORKER_WORDS = {
    AttemptState.DISPATCHING: "dispatching",
    AttemptState.ACCEPTED: "queued",
    AttemptState.RUNNING: "running",
}


def _worker_status(job: Job, attempt: Attempt) -> WorkerStatus:
    outcome = attempt.outcome
    if outcome is not None:
        word = "completed" if outcome.reason is None else "failed"
    else:
        word = _WORKER_WORDS.get(attempt.state, attempt.state.value)
    usage = outcome.usage if outcome else None
    peak = usage.memory_peak_bytes if usage else 0
    return WorkerStatus(
        job_id=attempt.remote_id,
        status=word,
        execution_metadata=ExecutionMetadata(
            cpu_seconds=usage.cpu_seconds if usage else 0.0,
            memory_peak_bytes=peak,
            memory_peak_mb=round(peak / 2**20, 3),
            wall_time_ms=usage.wall_time_ms if usage else 0.0,
            exit_code=outcome.exit_code if outcome else None,
            signal=outcome.signal if outcome else None,
            interpreter=job.request.interpreter,
            interpreter_version=outcome.interpreter_version if outcome else "",
            bytes_in=usage.bytes_in if usage else 0,
            bytes_out=usage.bytes_out if usage else 0,
            approximate=usage.approximate if usage else False,
        ),
    )
