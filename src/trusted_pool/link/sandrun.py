"""The line to a worker that speaks only the sandrun API: no key is proven, no events are told, nothing is kept.

What the worker lacks is made up for here as far as it can be: it is polled, and the events are told from what the polls
find; logs and outputs are copied when a job has ended, before the worker deletes them, and handed out from the copy.
What cannot be made up for is said in the decision record on claimed workers.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from urllib.parse import quote

import msgspec

from trusted_pool.core.job import OutputFile
from trusted_pool.core.words import AttemptState
from trusted_pool.core.worker import CLAIMED_OFFER, Worker
from trusted_pool.link.multipart import SubmitBody
from trusted_pool.link.sandrun_answers import MAX_REMOTE_ID, OVER, STARTED, Health, Status, Submitted, decoded
from trusted_pool.link.sandrun_fetch import Fetch, Wanted
from trusted_pool.link.sandrun_held import Held, Memory
from trusted_pool.link.sandrun_line import PlainLine
from trusted_pool.link.sandrun_manifest import asked, flat
from trusted_pool.link.sandrun_pack import Packed, pack
from trusted_pool.ports.blobs import Blobs, BlobsError
from trusted_pool.ports.clock import Clock, Dice
from trusted_pool.ports.link import (
    FullError,
    GoneError,
    LinkError,
    NotSentError,
    OpenInput,
    Order,
    RefusedError,
    Sent,
    UnansweredError,
    WrongIdentityError,
)
from trusted_pool.protocol.messages import (
    HEARTBEAT_S,
    AcceptedAnswer,
    AttemptReport,
    AttemptsAnswer,
    HealthAnswer,
    Heartbeat,
    Hello,
    WorkerMessage,
)

_log = logging.getLogger(__name__)

MAX_ANSWER = 1024 * 1024
#: Existing workers take no larger request, and end the line in the middle of one.
MAX_PARCEL = 100 * 1024 * 1024 - 64 * 1024
MAX_FAILURES = 5
_TOO_LARGE = 413


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How long calls wait and how often the worker is asked, in seconds."""

    connect_s: float = 5.0
    call_s: float = 10.0
    status_s: float = 60.0  #: some hold back every answer but health while a job runs
    reply_s: float = 330.0  #: to a submit, for the same reason; a job may run for five minutes
    idle_s: float = 30.0  #: for the next piece of a file
    file_s: float = 60.0  #: for a file, and a second more for each 64 KiB of it
    poll_s: float = 1.0
    full_s: float = 2.0  #: first pause after a 429 that names none; doubled each time
    full_max_s: float = 60.0


class SandrunLink:
    """A `WorkerLink` over plain HTTP to a worker whose identity is only claimed.

    What is copied of results is staged among `blobs` until it is released: what a crash leaves there, their sweep
    removes.
    """

    def __init__(
        self, worker: Worker, blobs: Blobs, clock: Clock, dice: Dice, wanted: Wanted, *, pace: Pace | None = None
    ) -> None:
        """`wanted`: what the patterns of `outputs` mean. Raises ValueError for an endpoint that cannot be dialled."""
        self.worker = worker
        self._blobs = blobs
        self._clock = clock
        self._pace = pace or Pace()
        self._line = PlainLine(worker.endpoint, self._pace.connect_s)
        self._fetch = Fetch(
            self._line,
            blobs,
            clock,
            wanted,
            call_s=self._pace.call_s,
            idle_s=self._pace.idle_s,
            file_s=self._pace.file_s,
        )
        self._memory = Memory(dice.token(16))
        self._sent: set[tuple[str, int]] = set()  #: on their way, or with a reply that was lost: never sent again
        self._full_s = self._pace.full_s
        self._closed = False

    async def health(self) -> HealthAnswer:
        """Ask how it is, and whether it calls itself what the allowlist says."""
        answer = decoded(await self._small("GET", "/health"), Health)
        if answer.worker_id != self.worker.worker_id:
            name = "nobody" if answer.worker_id is None else repr(answer.worker_id[:64])
            raise WrongIdentityError(f"what answers there calls itself {name}, not the listed worker")
        return HealthAnswer(
            status=answer.status,
            worker_id=answer.worker_id,
            capacity=CLAIMED_OFFER,
            active_jobs=len(self._memory.open()),
        )

    async def submit(self, order: Order, open_input: OpenInput) -> AcceptedAnswer:
        """Send an attempt, once: when its reply is lost, later calls raise UnansweredError and send nothing."""
        known = self._memory.find(order.job_id, order.attempt)
        if known is not None:
            return AcceptedAnswer(job_id=known.report.remote_id, started_at=known.report.started_at)
        key = (order.job_id, order.attempt)
        if key in self._sent:
            raise UnansweredError("its reply was lost before; it is not sent again, for it might run twice")
        manifest = flat(asked(order.manifest))
        await self._recognise()
        packed = await pack(order.inputs, open_input, self._blobs)
        try:
            if packed.file.size > MAX_PARCEL:
                raise RefusedError(_TOO_LARGE, f"its files take {packed.file.size} bytes; such a worker takes 100 MB")
            remote_id = await self._deliver(key, msgspec.structs.replace(order, manifest=manifest), packed)
        finally:
            await packed.close()
        self._taken(remote_id, order, open_input)
        return AcceptedAnswer(job_id=remote_id)

    async def _recognise(self) -> None:
        """Raise NotSentError unless the listed worker answers, as far as a name can tell."""
        try:
            answer = await self.health()
        except NotSentError:
            raise
        except LinkError as error:
            raise NotSentError(f"asked before the job was sent: {error}") from None
        if answer.status != "healthy":
            raise NotSentError(f"it says that it is {answer.status or 'unwell'}")

    async def _deliver(self, key: tuple[str, int], order: Order, packed: Packed) -> str:
        loop, pace = asyncio.get_running_loop(), self._pace
        deadline = asyncio.timeout(pace.call_s)
        answered = False

        def on_progress() -> None:
            if not answered and not deadline.expired():
                deadline.reschedule(loop.time() + pace.reply_s)

        body = SubmitBody(msgspec.structs.replace(order, inputs=(packed.file,)), packed.open, on_progress)
        self._sent.add(key)
        try:
            raw = await self._line.call("POST", "/submit", {}, limit=MAX_ANSWER, deadline=deadline, body=body)
            remote_id = decoded(raw, Submitted).job_id
            if not 0 < len(remote_id) <= MAX_REMOTE_ID:
                raise UnansweredError("it took the job and named no usable id for it")
        except FullError as error:
            self._sent.discard(key)
            wait_s = self._full_s if error.retry_after_s is None else error.retry_after_s
            self._full_s = min(pace.full_max_s, self._full_s * 2)
            raise FullError(str(error), wait_s) from None
        except (NotSentError, RefusedError, BlobsError):
            self._sent.discard(key)  # it has no whole job, or does not want it
            raise
        finally:
            answered = True  # a body that is still being written has no say any more
        self._full_s = pace.full_s
        return remote_id

    def _taken(self, remote_id: str, order: Order, open_input: OpenInput) -> None:
        old = self._memory.held.get(remote_id)
        if old is not None and old.open:
            # Ids begin anew with the worker: what had this one is gone.
            self._memory.interrupted(old, "the worker gave its id to another job: it was restarted")
        report = AttemptReport(
            job_id=order.job_id,
            attempt=order.attempt,
            remote_id=remote_id,
            state=AttemptState.ACCEPTED,
            accepted_at=self._clock.now(),
        )
        self._memory.keep(Held(report, order, open_input))
        self._sent.discard((order.job_id, order.attempt))

    async def adopt(self, sent: Sequence[Sent], open_input: OpenInput) -> None:
        """Take over what an earlier process, or an earlier line, had sent. What is known already stays as it is."""
        for one in sent:
            if self._memory.find(one.order.job_id, one.order.attempt) is None:
                self._taken(one.remote_id, one.order, open_input)

    async def events(self, journal_id: str, after: int) -> AsyncIterator[WorkerMessage]:
        """Ask again and again for what was sent, and tell what changed. Without any job the worker is left alone."""
        memory, loop = self._memory, asyncio.get_running_loop()
        told = after if journal_id == memory.journal_id else memory.seq
        yield Hello(journal_id=memory.journal_id, seq=memory.seq)
        beat = loop.time() + HEARTBEAT_S
        while True:
            bell = memory.bell
            await self._poll()
            for event in memory.news(told):
                told = event.seq
                yield event
            if loop.time() >= beat:
                beat = loop.time() + HEARTBEAT_S
                yield Heartbeat(active_jobs=len(memory.open()))
            try:
                async with asyncio.timeout(self._pace.poll_s if memory.open() else HEARTBEAT_S):
                    await bell.wait()
            except TimeoutError:
                pass

    async def _poll(self) -> None:
        """Ask for every open attempt once. Raises NotSentError when nobody is there to ask."""
        if self._closed:
            raise NotSentError("the line to it is closed")
        asks = [self._look(held) for held in self._memory.open()]
        failures = [e for e in await asyncio.gather(*asks, return_exceptions=True) if isinstance(e, BaseException)]
        if failures:
            raise failures[0]

    async def _look(self, held: Held) -> None:
        remote_id, memory = held.report.remote_id, self._memory
        try:
            status = await self._fetch.status(remote_id, self._pace.status_s)
            if status.status == STARTED and held.report.started_at is None:
                memory.started(held, self._clock.now())
            elif status.status in OVER:
                await self._end(held, status)
        except GoneError:
            memory.interrupted(held, "its worker does not know it any more: it was restarted, or has deleted it")
        except NotSentError:
            raise
        except LinkError as error:
            # It may be busy; whether it lives at all is what health checks find out.
            _log.debug("Job %s cannot be asked for: %s", remote_id, error)

    async def _end(self, held: Held, status: Status) -> None:
        if held.report.started_at is None:
            ran_s = max(0.0, status.execution_metadata.wall_time_ms) / 1000
            self._memory.started(held, self._clock.now() - ran_s)
        remote_id = held.report.remote_id
        try:
            results = await self._fetch.results(
                remote_id, status, held.order, held.open_input, cancelled=held.cancelled
            )
        except (GoneError, NotSentError):
            raise
        except (LinkError, BlobsError) as error:
            held.failures += 1
            _log.warning("Results of %s cannot be copied yet (%d): %s", remote_id, held.failures, error)
            if held.failures >= MAX_FAILURES and isinstance(error, LinkError):
                self._memory.interrupted(held, f"it ended, and its results cannot be had: {error}")
            return
        await self._memory.ended(held, results)

    async def attempts(self) -> AttemptsAnswer:
        """Tell what was sent and what polls have found. The worker itself keeps no list."""
        if self._closed:
            raise NotSentError("the line to it is closed")
        reports = [held.report for held in self._memory.held.values()]
        return AttemptsAnswer(journal_id=self._memory.journal_id, seq=self._memory.seq, attempts=reports)

    async def cancel(self, remote_id: str) -> None:
        """Ask to end a job. A worker that cannot runs it to its end; its results are then thrown away."""
        held = self._memory.held.get(remote_id)
        if held is not None and not held.open:
            return
        try:
            await self._small("POST", f"/cancel/{quote(remote_id, safe='')}", may_be_gone=True)
        except (GoneError, RefusedError, UnansweredError):
            # Either the job is gone, or the worker has no such call (existing ones have none), or it is busy.
            try:
                await self._fetch.status(remote_id, self._pace.call_s)
            except UnansweredError as error:
                _log.debug("Job %s cannot be asked for: %s", remote_id, error)
            _log.warning("The worker cannot end job %s; it runs on, and its results will not be kept", remote_id)
        if held is not None:
            held.cancelled = True

    async def release(self, remote_id: str) -> None:
        """Forget the copy of an attempt's results. The worker deletes its own by itself."""
        await self._memory.forget(remote_id)

    async def outputs(self, remote_id: str) -> tuple[OutputFile, ...]:
        """List the outputs in the copy."""
        held = self._memory.held.get(remote_id)
        if held is None or held.report.outcome is None:
            raise GoneError(f"there is no job {remote_id!r} that has ended")
        return held.report.outcome.outputs

    async def output(self, remote_id: str, path: str) -> AsyncIterator[bytes]:
        """Read one output file, from the copy."""
        held = self._memory.held.get(remote_id)
        staged = held.results.files.get(path) if held is not None and held.results is not None else None
        if staged is None:
            raise GoneError(f"there is no output {path!r} of {remote_id!r}")
        async for piece in _staged(staged.read()):
            yield piece

    async def log(self, remote_id: str, start: int, *, follow: bool) -> AsyncIterator[bytes]:
        """Read the framed log, from the copy: until a job has ended, such a worker's log is empty."""
        while True:
            bell = self._memory.bell
            held = self._memory.held.get(remote_id)
            if held is None or self._closed:
                raise GoneError(f"there is no job {remote_id!r}")
            if held.results is not None and held.results.log is not None:
                break
            if not follow or not held.open:
                return
            await bell.wait()
        skip = start
        async for piece in _staged(held.results.log.read()):
            if skip < len(piece):
                yield piece[skip:]
            skip = max(0, skip - len(piece))

    async def close(self) -> None:
        """Cut all connections, then let go of all copies."""
        self._closed = True
        await self._line.close()
        self._memory.ring()
        for remote_id in list(self._memory.held):
            await self._memory.forget(remote_id)

    async def _small(self, method: str, path: str, *, may_be_gone: bool = False) -> bytes:
        deadline = asyncio.timeout(self._pace.call_s)
        return await self._line.call(method, path, {}, limit=MAX_ANSWER, deadline=deadline, may_be_gone=may_be_gone)


async def _staged(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Read a copy. What cannot be read any more is gone, as far as anybody outside can tell."""
    try:
        async for piece in pieces:
            yield piece
    except BlobsError as error:
        raise GoneError(f"the copy cannot be read: {error}") from None
