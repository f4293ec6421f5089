"""The collector: logs and outputs of ended attempts into the blob store, then the worker may forget them."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence

from trusted_pool.coordinator.contents import SMALL_BYTES, Contents
from trusted_pool.coordinator.jobs import Jobs
from trusted_pool.coordinator.roster import Member, short
from trusted_pool.core import happenings as h
from trusted_pool.core.job import Attempt, Job, Outcome, OutputFile
from trusted_pool.core.retry import backoff_s
from trusted_pool.core.words import AttemptState, Reason
from trusted_pool.ports.blobs import BlobsError, Stage
from trusted_pool.ports.clock import Clock, Dice
from trusted_pool.ports.link import FencedError, GoneError, LinkError, WorkerLink
from trusted_pool.ports.store import Blob, Result, StoreError
from trusted_pool.protocol.messages import EndedEvent

_log = logging.getLogger(__name__)

RETRY_S = 1.0
MB = 2**20  #: as in manifests
AT_ONCE = 8  #: results of one worker that are being copied at the same time; another's never wait for it
#: How long one result may take: so many seconds, and for each file, and for each so many bytes.
BASE_S = 60.0
FILE_S = 1.0
LEAST_BYTES_S = 64 * 1024
#: After so many copies that took longer, its results count as lost.
SLOW_COPIES = 3
#: Far more than a sandbox keeps of what a job prints, frames included.
MAX_LOG_BYTES = 256 * 2**20


class WrongBytesError(Exception):
    """A worker handed out other bytes than it had announced, or announced more than the job may leave."""


class SlowError(LinkError):
    """A result did not come in time."""


class Collector:
    """Copies results. A result is accepted once: by the commit of `Collected`, fenced by the attempt."""

    def __init__(self, jobs: Jobs, contents: Contents, clock: Clock, dice: Dice) -> None:
        self._jobs = jobs
        self._contents = contents
        self._clock = clock
        self._dice = dice
        self._busy: set[tuple[Member, str, int]] = set()
        #: called with a worker's id after a release may not have reached it, so that both sides are compared at once
        self.on_trouble: Callable[[str, str], None] = lambda _worker_id, _words: None
        self._places: dict[str, asyncio.Semaphore] = {}  #: by worker, of which there are as many as were ever listed

    async def ended(self, member: Member, event: EndedEvent) -> None:
        """Take note that an attempt ended, copy its results, and let the worker release them.

        Raises:
            IllegalTransitionError: the attempt is not current any more; the worker's copy is unwanted.
            ClosedLineError: the worker is not listed any more, or is reached elsewhere.
        """
        key = (member, event.job_id, event.attempt)  # over another line it is told, and copied, again
        if key in self._busy:
            return
        self._busy.add(key)
        try:
            await self._ended(member, event)
        finally:
            self._busy.discard(key)

    async def _ended(self, member: Member, event: EndedEvent) -> None:
        number, outcome = event.attempt, event.outcome
        accepted = h.Accepted(attempt=number, remote_id=event.remote_id)
        job = await self._jobs.get(event.job_id)
        without = _without_result(job, outcome)
        if without is not None:
            reason, words = without
            later = self._clock.now() + backoff_s(job.backoffs, self._dice.jitter())
            failed = h.Interrupted(attempt=number, words=words, not_before=later, reason=reason)
            await self._jobs.apply(event.job_id, accepted, failed, fence=member.fence)
            await self.release(member, event.remote_id)
            return
        ended = h.Ended(attempt=number, outcome=outcome)
        inline = self._inline(event)
        if inline is not None:
            result, blobs = inline
            if _already(job, number):
                await self.release(member, event.remote_id)
                return
            done = (accepted, ended, h.Collected(attempt=number))
            await self._jobs.apply(event.job_id, *done, result=result, blobs=blobs, fence=member.fence)
        else:
            job = await self._jobs.apply(event.job_id, accepted, ended, fence=member.fence)
            if not _already(job, number):
                await self._copy(member, job, outcome)
        await self.release(member, event.remote_id)

    def _inline(self, event: EndedEvent) -> tuple[Result, list[Blob]] | None:
        """Return the result when the event carries all of it and it is what it says; else None."""
        outcome, files = event.outcome, event.files or {}
        if event.log is None or len(event.log) != outcome.log_bytes:
            return None
        blobs = []
        for output in outcome.outputs:
            data = files.get(output.path)
            if data is None or len(data) != output.size or len(data) > SMALL_BYTES:
                return None
            if hashlib.sha256(data).hexdigest() != output.sha256:
                return None
            blobs.append(Blob(sha256=output.sha256, size=output.size, data=data))
        log_sha256 = None
        if event.log:
            log_sha256 = hashlib.sha256(event.log).hexdigest()
            blobs.append(Blob(sha256=log_sha256, size=len(event.log), data=event.log))
        result = Result(
            job_id=event.job_id,
            attempt=event.attempt,
            outputs=outcome.outputs,
            log_sha256=log_sha256,
            log_size=len(event.log),
        )
        return result, blobs

    async def _copy(self, member: Member, job: Job, outcome: Outcome) -> None:
        """Copy all results, trying again until it works or the attempt is not current any more.

        Raises:
            ClosedLineError: the line that told of them is no more. If its worker has another, it tells again.
        """
        attempt = job.attempts[-1]
        places = self._places.setdefault(attempt.worker_id, asyncio.Semaphore(AT_ONCE))
        slow = 0
        while True:
            member.fence()
            try:
                async with places:
                    result, blobs = await self._fetch(member.link, job, attempt, outcome)
                collected = h.Collected(attempt=attempt.number)
                await self._jobs.apply(job.job_id, collected, result=result, blobs=blobs, fence=member.fence)
            except (GoneError, WrongBytesError) as error:
                lost = h.ResultsLost(attempt=attempt.number, words=f"its results are gone: {error}")
                await self._jobs.apply(job.job_id, lost, fence=member.fence)
                return
            except FencedError:
                return  # they are the other coordinator's to collect; should we have the worker again, it tells anew
            except (LinkError, BlobsError, StoreError) as error:
                slow += isinstance(error, SlowError)
                if slow == SLOW_COPIES:
                    lost = h.ResultsLost(attempt=attempt.number, words=str(error))
                    await self._jobs.apply(job.job_id, lost, fence=member.fence)
                    return
                _log.warning("Results of job %s cannot be copied yet: %s", job.job_id, error)
                await asyncio.sleep(RETRY_S)
            else:
                return
            job = await self._jobs.get(job.job_id)
            if job.attempt is None or job.attempt.number != attempt.number or job.attempt.closed:
                return

    async def _fetch(self, link: WorkerLink, job: Job, attempt: Attempt, outcome: Outcome) -> tuple[Result, list[Blob]]:
        remote_id = attempt.remote_id or ""
        outputs = outcome.outputs
        if outcome.more_outputs:
            outputs = await link.outputs(remote_id)
            if len(outputs) != outcome.more_outputs:
                raise WrongBytesError(f"it lists {len(outputs)} outputs and had announced {outcome.more_outputs}")
        size = sum(output.size for output in outputs)
        if size > job.request.disk_mb * MB or outcome.log_bytes > MAX_LOG_BYTES:
            raise WrongBytesError(f"it announces {size} bytes of outputs and {outcome.log_bytes} of log")
        within_s = BASE_S + FILE_S * len(outputs) + (size + outcome.log_bytes) / LEAST_BYTES_S
        try:
            async with asyncio.timeout(within_s):
                return await self._take_all(link, job, attempt, outcome, outputs)
        except TimeoutError:
            raise SlowError(f"its results did not come within {within_s:.0f} s") from None

    async def _take_all(
        self, link: WorkerLink, job: Job, attempt: Attempt, outcome: Outcome, outputs: Sequence[OutputFile]
    ) -> tuple[Result, list[Blob]]:
        remote_id = attempt.remote_id or ""
        blobs = []
        for output in outputs:
            blob = await self._take(job.owner, link.output(remote_id, output.path), output.size, output.path)
            if blob.sha256 != output.sha256:
                raise WrongBytesError(f"{output.path} has another digest than announced")
            blobs.append(blob)
        log = None
        if outcome.log_bytes:
            log = await self._take(job.owner, link.log(remote_id, 0, follow=False), outcome.log_bytes, "the log")
            blobs.append(log)
        result = Result(
            job_id=job.job_id,
            attempt=attempt.number,
            outputs=tuple(outputs),
            log_sha256=log.sha256 if log else None,
            log_size=log.size if log else 0,
        )
        return result, blobs

    async def _take(self, owner: str, pieces: AsyncIterator[bytes], size: int, what: str) -> Blob:
        """Stage a stream of exactly `size` bytes and keep it."""
        stage = await self._contents.stage_for(owner)
        try:
            await _fill(stage, pieces, size, what)
            staged = await stage.finish()
        except BaseException:
            await stage.abort()
            raise
        return await self._contents.keep(staged)

    async def release(self, member: Member, remote_id: str) -> None:
        """Let the worker forget an attempt. When it cannot be told now, reconciliation tells it."""
        worker_id = member.worker.worker_id
        try:
            await member.link.release(remote_id)
        except LinkError as error:
            _log.info("Worker %s cannot be told to release %s: %s", short(worker_id), remote_id, error)
            self.on_trouble(worker_id, str(error))


def _without_result(job: Job, outcome: Outcome) -> tuple[Reason, str] | None:
    """Say why an ended attempt has no result that could be the job's, if so."""
    if outcome.reason is Reason.SANDBOX_FAILED:
        return Reason.SANDBOX_FAILED, outcome.detail
    if outcome.reason is Reason.CANCELLED and job.cancel_requested_at is None and not job.final:
        # After our store was put back from a backup we end what we do not know of; the same attempt may then be given
        # out by us, and found ended.
        return Reason.INTERRUPTED, "it was ended on its worker, and nobody had asked for that"
    return None


async def _fill(stage: Stage, pieces: AsyncIterator[bytes], size: int, what: str) -> None:
    async for piece in pieces:
        if stage.size + len(piece) > size:
            raise WrongBytesError(f"{what} is longer than announced")
        await stage.write(piece)
    if stage.size != size:
        raise WrongBytesError(f"{what} is shorter than announced")


def _already(job: Job, number: int) -> bool:
    """Whether this attempt's result was accepted before."""
    attempt = job.attempt
    return attempt is not None and attempt.number == number and attempt.state is AttemptState.COLLECTED
