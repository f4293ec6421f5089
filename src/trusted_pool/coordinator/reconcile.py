"""Reconciliation: what a worker has against what the pool thinks that it has."""

import logging

from trusted_pool.coordinator.collect import Collector
from trusted_pool.coordinator.jobs import Jobs
from trusted_pool.coordinator.roster import ClosedLineError, Member, short
from trusted_pool.coordinator.send import Sender
from trusted_pool.coordinator.tasks import Tasks
from trusted_pool.core import happenings as h
from trusted_pool.core.advance import IllegalTransitionError, StaleAttemptError
from trusted_pool.core.job import Job, OutputFile
from trusted_pool.core.retry import backoff_s
from trusted_pool.core.words import AttemptState, JobState
from trusted_pool.ports.clock import Clock, Dice
from trusted_pool.ports.link import GoneError, LinkError
from trusted_pool.ports.store import Event, Store, StoreError, Unit
from trusted_pool.protocol.errors import NotFoundError
from trusted_pool.protocol.messages import (
    AttemptReport,
    EndedEvent,
    InterruptedEvent,
    StartedEvent,
)

_log = logging.getLogger(__name__)

MAX_REMEMBERED = 10_000
MAX_EVIDENCE = 20  #: outputs of a stale attempt that are named


class Reconciler:
    """Applies a worker's events and reports, each of which may come late, twice or out of order."""

    def __init__(
        self,
        *,
        store: Store,
        jobs: Jobs,
        sender: Sender,
        collector: Collector,
        tasks: Tasks,
        clock: Clock,
        dice: Dice,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._sender = sender
        self._collector = collector
        self._tasks = tasks
        self._clock = clock
        self._dice = dice
        self._evidence: set[tuple[str, int, str]] = set()  #: what was written down already

    async def reconcile(self, member: Member) -> tuple[str, int]:
        """Bring both sides together: go on, collect, send again, or cancel what is unwanted there.

        Returns the worker's journal and the event up to which all is known now. Raises LinkError, StoreError.
        """
        # The pool's side is read before the worker is asked: what it had accepted by then must be in its answer.
        worker_id = member.worker.worker_id
        rows = await self._store.open_jobs(worker_id)
        on_its_way = {k for k in ((r.job.job_id, len(r.job.attempts)) for r in rows) if self._sender.is_sending(*k)}
        await self._sender.remind(member.link, [row.job for row in rows])
        answer = await member.link.attempts()
        reports = {(r.job_id, r.attempt): r for r in answer.attempts}
        for row in rows:
            job, attempt = row.job, row.job.attempt
            if attempt is None or (job.job_id, attempt.number) in reports:
                continue
            if attempt.state is not AttemptState.DISPATCHING:
                words = "its worker came back without it"
                await self._try(member, job.job_id, self._interrupted(job, attempt.number, words))
            elif (job.job_id, attempt.number) not in on_its_way:
                self._tasks.spawn(self._sender.resend(job), f"send again {job.job_id}")
        for report in reports.values():
            self._tasks.spawn(self._report(member, report), f"reconcile {report.job_id}")
        return answer.journal_id, answer.seq

    async def event(self, member: Member, event: StartedEvent | EndedEvent | InterruptedEvent) -> None:
        """Apply one event of a worker."""
        worker_id = member.worker.worker_id
        try:
            await self._recognise(member, event.job_id, event.attempt)
            match event:
                case StartedEvent():
                    accepted = h.Accepted(attempt=event.attempt, remote_id=event.remote_id)
                    started = h.Started(attempt=event.attempt, at=event.at)
                    await self._jobs.apply(event.job_id, accepted, started, fence=member.fence)
                case EndedEvent():
                    await self._collector.ended(member, event)
                case InterruptedEvent():
                    interrupted = self._interrupted(await self._jobs.get(event.job_id), event.attempt, event.words)
                    await self._jobs.apply(event.job_id, interrupted, fence=member.fence)
                    await self._collector.release(member, event.remote_id)
        except ClosedLineError as error:
            _log.info("Job %s: %s is not taken: %s", event.job_id, type(event).__name__, error)
        except (NotFoundError, IllegalTransitionError) as error:
            _log.info("Worker %s: %s of a stale attempt: %s", short(worker_id), type(event).__name__, error)
            await self._keep_evidence(member, event)
            await self._unwanted(member, event.remote_id, over=not isinstance(event, StartedEvent))

    async def _recognise(self, member: Member, job_id: str, number: int) -> None:
        """Refuse what a worker says of an attempt that is another worker's; take over one that is news to us.

        We commit a placement before we send it. So a worker that has the next attempt of a waiting job has it from us,
        from a time that our store forgot: it was put back from a backup. The same store gives numbers a second time,
        which is why the worker is looked at as well.

        Raises:
            NotFoundError: there is no such job.
            IllegalTransitionError: the attempt is not this worker's.
            ClosedLineError: it is nobody's word any more.
        """
        worker_id = member.worker.worker_id
        job = await self._jobs.get(job_id)
        if number == len(job.attempts) + 1 and job.state is JobState.QUEUED:
            try:
                placed = h.Placed(attempt=number, worker_id=worker_id)
                job = await self._jobs.apply(job_id, placed, fence=member.fence)
                _log.warning("Job %s: attempt %d on %s is taken over", job_id, number, short(worker_id))
            except IllegalTransitionError:
                job = await self._jobs.get(job_id)  # it was placed in this moment, here or elsewhere
        if not 0 < number <= len(job.attempts) or job.attempts[number - 1].worker_id != worker_id:
            raise StaleAttemptError(f"attempt {number} of {job_id} is not this worker's")

    async def _outputs(self, member: Member, event: EndedEvent) -> tuple[OutputFile, ...]:
        """Return what a report left out, if its worker still tells."""
        if not event.outcome.more_outputs:
            return ()
        try:
            return await member.link.outputs(event.remote_id)
        except LinkError:
            return ()

    async def _keep_evidence(self, member: Member, event: StartedEvent | EndedEvent | InterruptedEvent) -> None:
        """Write down in the job's story what came from an attempt that is over. It changes nothing."""
        worker_id = member.worker.worker_id
        key = (event.job_id, event.attempt, type(event).__name__)
        if key in self._evidence or await self._jobs.load(event.job_id) is None:
            return
        if len(self._evidence) >= MAX_REMEMBERED:
            self._evidence.clear()  # at worst something is written down twice
        self._evidence.add(key)
        data: dict[str, object] = {"what": type(event).__name__, "worker_id": worker_id, "remote_id": event.remote_id}
        if isinstance(event, EndedEvent):
            outcome = event.outcome
            data |= {"reason": outcome.reason, "exit_code": outcome.exit_code}
            outputs = outcome.outputs or await self._outputs(member, event)
            data["outputs"] = {o.path: o.sha256 for o in outputs[:MAX_EVIDENCE]}
        if member.closed:
            return
        stale = Event(job_id=event.job_id, at=self._clock.now(), kind="Stale", attempt=event.attempt, data=data)
        try:
            await self._store.commit([Unit(events=(stale,))])
        except StoreError as error:
            _log.warning("Evidence of job %s is not kept: %s", event.job_id, error)

    async def _report(self, member: Member, report: AttemptReport) -> None:
        job_id, attempt, remote_id = report.job_id, report.attempt, report.remote_id
        if report.state is AttemptState.ENDED and report.outcome is not None:
            outcome = report.outcome
            ended = EndedEvent(seq=0, job_id=job_id, attempt=attempt, remote_id=remote_id, outcome=outcome)
            await self.event(member, ended)
        elif report.state is AttemptState.INTERRUPTED:
            words = report.words
            event = InterruptedEvent(seq=0, job_id=job_id, attempt=attempt, remote_id=remote_id, words=words)
            await self.event(member, event)
        elif report.state is AttemptState.RUNNING:
            at = report.started_at if report.started_at is not None else report.accepted_at
            started = StartedEvent(seq=0, job_id=job_id, attempt=attempt, remote_id=remote_id, at=at)
            await self.event(member, started)
            await self._still_wanted(report.job_id)
        else:
            happening = h.Accepted(attempt=report.attempt, remote_id=report.remote_id)
            try:
                await self._recognise(member, job_id, attempt)
                await self._jobs.apply(job_id, happening, fence=member.fence)
            except ClosedLineError as error:
                _log.info("Job %s: %s", job_id, error)
                return
            except (NotFoundError, IllegalTransitionError) as error:
                _log.info("Job %s: %s", job_id, error)
                await self._unwanted(member, remote_id, over=False)
            await self._still_wanted(report.job_id)

    async def _still_wanted(self, job_id: str) -> None:
        """Tell the worker again of a cancel that it may not have heard."""
        row = await self._jobs.load(job_id)
        if row is not None and row.job.cancel_requested_at is not None and row.job.holds_slot:
            await self._sender.cancel(row.job)

    async def _unwanted(self, member: Member, remote_id: str, *, over: bool) -> None:
        """End what a worker has and nobody wants: stop it first, release it when it has ended."""
        if over:
            await self._collector.release(member, remote_id)
            return
        try:
            await member.link.cancel(remote_id)
        except GoneError:
            return
        except LinkError as error:
            _log.info("Worker %s cannot be told to end %s: %s", short(member.worker.worker_id), remote_id, error)

    def _interrupted(self, job: Job, number: int, words: str) -> h.Interrupted:
        later = self._clock.now() + backoff_s(job.backoffs, self._dice.jitter())
        return h.Interrupted(attempt=number, words=words or "a restart of the worker ended it", not_before=later)

    async def _try(self, member: Member, job_id: str, happening: h.Happening) -> None:
        try:
            await self._jobs.apply(job_id, happening, fence=member.fence)
        except (NotFoundError, IllegalTransitionError, ClosedLineError) as error:
            _log.info("Job %s: %s", job_id, error)
