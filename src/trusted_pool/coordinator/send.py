"""Sending a placed attempt to its worker, and what the answer means."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from trusted_pool.coordinator.contents import Contents
from trusted_pool.coordinator.jobs import Jobs
from trusted_pool.coordinator.roster import ClosedLineError, Member, Roster, short
from trusted_pool.core import happenings as h
from trusted_pool.core.advance import IllegalTransitionError
from trusted_pool.core.job import Attempt, Job
from trusted_pool.core.placement import could_ever
from trusted_pool.core.request import Request
from trusted_pool.core.retry import backoff_s, on_removal
from trusted_pool.core.words import AttemptState, OnWorkerLoss, Reason
from trusted_pool.ports.blobs import BlobsError
from trusted_pool.ports.clock import Clock, Dice
from trusted_pool.ports.link import (
    FencedError,
    Forgetful,
    FullError,
    GoneError,
    LinkError,
    NotSentError,
    Order,
    RefusedError,
    Sent,
    UnansweredError,
    WorkerLink,
)

_log = logging.getLogger(__name__)

FULL_S = 1.0  #: before a worker that said that it is full is asked again; doubled each time
LONGEST_FULL_S = 60.0
#: How long the news of a start may wait for the end, as the worker has it: a short job then is one commit less.
START_NEWS_S = 0.1
REMOVED = "its worker was removed from the allowlist"
GONE = 410  #: what a worker answers to a submit of an attempt that it had and released


class Sender:
    """Sends attempts. The same attempt is never sent twice at once."""

    def __init__(self, jobs: Jobs, roster: Roster, contents: Contents, clock: Clock, dice: Dice) -> None:
        self._jobs = jobs
        self._roster = roster
        self._contents = contents
        self._clock = clock
        self._dice = dice
        self._sending: set[tuple[str, int]] = set()
        self._in_doubt: set[tuple[str, int]] = set()  #: an earlier process was sending them when it ended
        self.coming: set[tuple[str, int]] = set()  #: are being placed, and will be sent
        #: called with a worker's id after a call to it failed, so that it is checked at once
        self.on_trouble: Callable[[str, str], None] = lambda _worker_id, _words: None

    def is_sending(self, job_id: str, attempt: int) -> bool:
        """Whether the attempt is on its way just now."""
        return (job_id, attempt) in self._sending

    def inherit(self, jobs: Iterable[Job]) -> None:
        """Take note, at start, of what an earlier process was sending: whether it arrived is not known."""
        for job in jobs:
            if job.attempt is not None and job.attempt.state is AttemptState.DISPATCHING:
                self._in_doubt.add((job.job_id, job.attempt.number))

    async def remind(self, link: WorkerLink, jobs: Iterable[Job]) -> None:
        """Tell a line whose worker keeps no list what that worker has been sent."""
        if isinstance(link, Forgetful):
            sent = [
                Sent(order=_order(job, job.attempt), remote_id=job.attempt.remote_id)
                for job in jobs
                if job.attempt is not None and job.attempt.remote_id is not None
            ]
            await link.adopt(sent, self._contents.inputs_for(""))  # of several owners

    async def resend(self, job: Job) -> None:
        """Send an attempt of which its worker knows nothing: the call or its reply was lost.

        A worker of claimed identity cannot tell a second sending from another job, so it is never sent one.
        """
        attempt = job.attempts[-1]
        member = self._roster.members.get(attempt.worker_id)
        if member is None:
            return  # it was removed, and its jobs go the way of their policies
        if member.worker.proven or (job.job_id, attempt.number) not in self._in_doubt:
            job = await self._jobs.get(job.job_id)  # its worker may have told of it meanwhile
            if job.attempts[-1].number != attempt.number or job.attempts[-1].state is not AttemptState.DISPATCHING:
                return
            if job.cancel_requested_at is not None:
                # Its worker does not have it. Should an earlier copy still arrive, it is unwanted and ended there.
                await self._apply(job, h.CancelConfirmed(attempt=attempt.number))
                return
            await self.send(job, again=True)
            return
        if job.reason is Reason.WORKER_LOST:
            return  # held: that was said already
        await self._apply(job, self._reply_lost(job, attempt.number))

    async def _apply(self, job: Job, happening: h.OfAttempt) -> None:
        try:
            await self._jobs.apply(job.job_id, happening)
        except IllegalTransitionError as error:
            _log.info("Job %s moved on: %s", job.job_id, error)

    def _reply_lost(self, job: Job, number: int) -> h.OfAttempt:
        """Say what a lost reply of a worker of claimed identity means: it counts as the loss of the worker."""
        self._in_doubt.add((job.job_id, number))
        if job.retry.on_worker_loss is OnWorkerLoss.HOLD and job.cancel_requested_at is None:
            return h.Held(attempt=number)
        words = "the reply to its dispatch was lost, and a worker of claimed identity is never sent a job twice"
        later = self._clock.now() + backoff_s(job.backoffs, self._dice.jitter())
        return h.Interrupted(attempt=number, words=words, not_before=later, reason=Reason.WORKER_LOST)

    async def send(self, job: Job, *, again: bool = False) -> None:
        """Send the job's newest attempt to its worker and commit what the answer means.

        `again`: it was sent before, and nobody knows what became of that.
        """
        attempt = job.attempts[-1]
        key = (job.job_id, attempt.number)
        member = self._roster.members.get(attempt.worker_id)
        self.coming.discard(key)
        if key in self._sending:
            return
        if member is None:  # it was removed since it was chosen
            if not again:
                await self._apply(job, h.NotSent(attempt=attempt.number, words=REMOVED, not_before=0.0))
            return
        self._sending.add(key)
        try:
            with self._jobs.next_change(job.job_id) as change:
                happenings = await self._ask(member, job, attempt, again=again)
                if not happenings:
                    return
                if any(isinstance(happening, h.Started) for happening in happenings):
                    await asyncio.wait((change,), timeout=START_NEWS_S)
                    if change.done() and (await self._jobs.get(job.job_id)).final:
                        return
            # Nobody may send it again before this is kept: what was not sent would have been sent by then.
            unsent = all(isinstance(happening, h.NotSent) for happening in happenings)  # nobody has to tell us that
            after = await self._jobs.apply(job.job_id, *happenings, fence=None if unsent else member.fence)
        except (IllegalTransitionError, ClosedLineError) as error:
            _log.info("The answer for job %s attempt %d came too late: %s", job.job_id, attempt.number, error)
            if member.closed:
                self.on_trouble(attempt.worker_id, str(error))  # it may have another line, over which it tells again
            return
        finally:
            self._sending.discard(key)
        if after.cancel_requested_at is not None and after.holds_slot:
            await self.cancel(after)

    async def _ask(self, member: Member, job: Job, attempt: Attempt, *, again: bool) -> list[h.Happening]:
        number, worker_id, link = attempt.number, attempt.worker_id, member.link
        order = _order(job, attempt)
        now = self._clock.now
        try:
            answer = await link.submit(order, self._contents.inputs_for(job.owner))
        except (NotSentError, FencedError) as error:
            self.on_trouble(worker_id, str(error))
            if again:
                return []  # whether an earlier sending arrived is not known: it stays assigned
            later = now() + backoff_s(job.backoffs, self._dice.jitter())
            return [h.NotSent(attempt=number, words=str(error), not_before=later)]
        except FullError as error:
            wait_s = min(LONGEST_FULL_S, FULL_S * 2.0 ** min(member.full_times, 10))
            member.full_times += 1
            member.full_until = now() + max(wait_s, error.retry_after_s or 0.0)
            return [h.WorkerFull(attempt=number, not_before=0.0)]
        except RefusedError as error:
            if error.status == GONE:
                # It ran there before, and we do not know of it: our store was put back from a backup. This attempt is
                # over, and whether there is another is the job's policy to say.
                words = "its worker ran this attempt before and has let go of its results"
                later = now() + backoff_s(job.backoffs, self._dice.jitter())
                return [h.Interrupted(attempt=number, words=words, not_before=later)]
            _log.error("Worker %s rejected job: %d (%s: %s)", short(worker_id), error.status, job.job_id, error.words)
            others = could_ever(_without(job.request, worker_id), self._roster.workers())
            return [h.Refused(attempt=number, words=f"{short(worker_id)}: {error.words}", others=others)]
        except (UnansweredError, LinkError) as error:
            # It may have arrived: it stays assigned, and reconciliation finds out.
            _log.warning("No answer from %s for job %s: %s", short(worker_id), job.job_id, error)
            self.on_trouble(worker_id, str(error))
            return [] if link.worker.proven else [self._reply_lost(job, number)]
        except BlobsError as error:
            _log.error("The files of job %s cannot be read: %s", job.job_id, error)
            later = now() + backoff_s(job.backoffs, self._dice.jitter())
            words = f"its files cannot be read: {error}"
            if again:
                return [h.Interrupted(attempt=number, words=words, not_before=later)]
            return [h.NotSent(attempt=number, words=words, not_before=later)]
        member.full_times = 0
        _log.info("Dispatched job %s to %s (remote: %s)", job.job_id, short(worker_id), answer.job_id)
        out: list[h.Happening] = [h.Accepted(attempt=number, remote_id=answer.job_id)]
        if answer.started_at is not None:
            out.append(h.Started(attempt=number, at=answer.started_at))
        return out

    async def cancel(self, job: Job) -> None:
        """Tell the worker of a job whose cancel was requested. When it cannot be told now, reconciliation tells it."""
        attempt = job.attempt
        if attempt is None:
            return
        member = self._roster.members.get(attempt.worker_id)
        if member is None:
            await self._apply(job, on_removal(job))  # there is nobody to tell, and nobody to wait for
            return
        if attempt.remote_id is None:
            return  # it is being sent; `send` comes back to it
        if attempt.state is AttemptState.ENDED or attempt.closed:
            return
        try:
            await member.link.cancel(attempt.remote_id)
        except GoneError:
            try:
                await self._jobs.apply(job.job_id, h.CancelConfirmed(attempt=attempt.number), fence=member.fence)
            except (IllegalTransitionError, ClosedLineError):
                return
        except LinkError as error:
            _log.warning("Worker %s cannot be told to cancel %s: %s", short(attempt.worker_id), job.job_id, error)
            self.on_trouble(attempt.worker_id, str(error))


def _order(job: Job, attempt: Attempt) -> Order:
    return Order(job_id=job.job_id, attempt=attempt.number, manifest=job.manifest, inputs=job.inputs)


def _without(request: Request, worker_id: str) -> Request:
    return Request(
        **{f: getattr(request, f) for f in request.__struct_fields__ if f != "refused_by"},
        refused_by=tuple(sorted({*request.refused_by, worker_id})),
    )
