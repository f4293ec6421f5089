"""A worker in memory that runs nothing: a test or a simulation says when an attempt starts and how it ends.

No sockets, no threads; it waits only on the running loop, so that virtual time works.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from trusted_pool.core.job import Outcome, OutputFile
from trusted_pool.core.request import Capacity
from trusted_pool.core.words import AttemptState
from trusted_pool.ports.link import Order
from trusted_pool.protocol.errors import NotFoundError, PoolError
from trusted_pool.protocol.messages import (
    HEARTBEAT_S,
    AcceptedAnswer,
    AttemptReport,
    AttemptsAnswer,
    EndedEvent,
    HealthAnswer,
    Heartbeat,
    Hello,
    InterruptedEvent,
    StartedEvent,
    WorkerMessage,
    brief,
)

OPEN = (AttemptState.ACCEPTED, AttemptState.RUNNING)


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """A submit as it arrived: who sent it, what for, and every byte."""

    pool_id: str
    epoch: int
    order: Order
    files: tuple[tuple[str, bytes], ...]  #: name, content


class WorkerEnd(Protocol):
    """The worker's end of a wire. Refusals are PoolErrors; their status is the HTTP status."""

    worker_id: str

    async def health(self) -> HealthAnswer:
        """`GET /health`."""

    async def submit(self, parcel: Parcel) -> AcceptedAnswer:
        """`POST /submit`."""

    def events(self, journal_id: str, after: int) -> AsyncIterator[WorkerMessage]:
        """`GET /events`."""

    async def attempts(self) -> AttemptsAnswer:
        """`GET /attempts`."""

    async def cancel(self, remote_id: str) -> None:
        """`POST /cancel/{id}`."""

    async def release(self, remote_id: str) -> None:
        """`POST /release/{id}`."""

    async def outputs(self, remote_id: str) -> tuple[OutputFile, ...]:
        """`GET /outputs/{id}`."""

    def output(self, remote_id: str, path: str) -> AsyncIterator[bytes]:
        """`GET /outputs/{id}/{path}`."""

    def log(self, remote_id: str, start: int, *, follow: bool) -> AsyncIterator[bytes]:
        """`GET /logs/{id}/frames`."""


class Held:
    """One attempt that the fake has, with its results."""

    def __init__(self, parcel: Parcel, report: AttemptReport) -> None:
        self.parcel = parcel
        self.report = report
        self.log = b""
        self.files: dict[str, bytes] = {}


class FakeWorker:
    """A `WorkerEnd` with levers: `start`, `end`, `interrupt`, `say`; `refusal` is raised by the next submits."""

    def __init__(self, worker_id: str, *, slots: int = 4, journal_id: str = "journal") -> None:
        self.worker_id = worker_id
        self.journal_id = journal_id
        self.slots = slots
        self.draining = False
        self.refusal: PoolError | None = None
        self.parcels: list[Parcel] = []  #: every submit that arrived, repeats included
        self.held: dict[str, Held] = {}
        self._known: dict[tuple[str, str, int], str] = {}
        self._events: list[StartedEvent | EndedEvent | InterruptedEvent] = []
        self._seq = 0
        self._bell = asyncio.Event()

    async def health(self) -> HealthAnswer:
        """Answer how it is."""
        return HealthAnswer(
            status="healthy",
            worker_id=self.worker_id,
            api=1,
            capacity=Capacity(slots=self.slots),
            active_jobs=self._busy,
            draining=self.draining,
        )

    @property
    def _busy(self) -> int:
        return sum(held.report.state in OPEN for held in self.held.values())

    async def submit(self, parcel: Parcel) -> AcceptedAnswer:
        """Take an attempt; the same again is answered the same. Raises `refusal` while it is set."""
        self.parcels.append(parcel)
        if self.refusal is not None:
            raise self.refusal
        key = (parcel.pool_id, parcel.order.job_id, parcel.order.attempt)
        remote_id = self._known.setdefault(key, f"remote-{len(self._known) + 1}")
        if remote_id not in self.held:
            report = AttemptReport(
                job_id=parcel.order.job_id,
                attempt=parcel.order.attempt,
                remote_id=remote_id,
                state=AttemptState.ACCEPTED,
                accepted_at=0.0,
            )
            self.held[remote_id] = Held(parcel, report)
        return AcceptedAnswer(job_id=remote_id, started_at=self.held[remote_id].report.started_at)

    async def events(self, journal_id: str, after: int) -> AsyncIterator[WorkerMessage]:
        """Say hello, then what came after, then what comes."""
        told = after if journal_id == self.journal_id else self._seq
        yield Hello(journal_id=self.journal_id, seq=self._seq)
        while True:
            bell = self._bell
            news = [event for event in self._events if event.seq > told]
            for event in news:
                told = event.seq
                yield event
            if not news:
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await bell.wait()
                except TimeoutError:
                    yield Heartbeat(active_jobs=self._busy, draining=self.draining)

    async def attempts(self) -> AttemptsAnswer:
        """Report all that it has, without long lists of outputs."""
        reports = brief(held.report for held in self.held.values())
        return AttemptsAnswer(journal_id=self.journal_id, seq=self._seq, attempts=reports)

    async def cancel(self, remote_id: str) -> None:
        """End an attempt as cancelled."""
        if self._of(remote_id).report.state in OPEN:
            self.end(remote_id, Outcome(detail="cancelled"))

    async def release(self, remote_id: str) -> None:
        """Forget an attempt and its events."""
        self._of(remote_id)
        del self.held[remote_id]
        self._events = [event for event in self._events if event.remote_id != remote_id]

    async def outputs(self, remote_id: str) -> tuple[OutputFile, ...]:
        """List the outputs of an attempt."""
        outcome = self._of(remote_id).report.outcome
        return outcome.outputs if outcome is not None else ()

    async def output(self, remote_id: str, path: str) -> AsyncIterator[bytes]:
        """Read an output."""
        files = self._of(remote_id).files
        if path not in files:
            raise NotFoundError(f"there is no output {path!r}")
        yield files[path]

    async def log(self, remote_id: str, start: int, *, follow: bool) -> AsyncIterator[bytes]:
        """Read the log; with `follow` until the attempt ended."""
        held = self._of(remote_id)
        while True:
            bell = self._bell
            if piece := held.log[start:]:
                start += len(piece)
                yield piece
            elif follow and held.report.state in OPEN:
                await bell.wait()
            else:
                return

    def start(self, remote_id: str, at: float = 1.0) -> None:
        """Let an attempt start."""
        report = self._change(remote_id, state=AttemptState.RUNNING, started_at=at)
        self._tell(
            StartedEvent(seq=self._seq + 1, job_id=report.job_id, attempt=report.attempt, remote_id=remote_id, at=at)
        )

    def say(self, remote_id: str, data: bytes) -> None:
        """Append framed bytes to an attempt's log."""
        self._of(remote_id).log += data
        self._ring()

    def end(
        self, remote_id: str, outcome: Outcome, files: dict[str, bytes] | None = None, *, inline: bool = False
    ) -> None:
        """Let an attempt end; `inline`: its results travel in the event."""
        held = self._of(remote_id)
        held.files = files or {}
        report = self._change(remote_id, state=AttemptState.ENDED, outcome=outcome)
        event = EndedEvent(
            seq=self._seq + 1, job_id=report.job_id, attempt=report.attempt, remote_id=remote_id, outcome=outcome
        )
        self._tell(msgspec.structs.replace(event, log=held.log, files=held.files) if inline else event)

    def interrupt(self, remote_id: str, words: str) -> None:
        """Say that a restart ended an attempt."""
        report = self._change(remote_id, state=AttemptState.INTERRUPTED, words=words)
        self._tell(
            InterruptedEvent(
                seq=self._seq + 1, job_id=report.job_id, attempt=report.attempt, remote_id=remote_id, words=words
            )
        )

    def _of(self, remote_id: str) -> Held:
        if remote_id not in self.held:
            raise NotFoundError(f"there is no job {remote_id!r}")
        return self.held[remote_id]

    def _change(self, remote_id: str, **changes: object) -> AttemptReport:
        held = self._of(remote_id)
        held.report = msgspec.structs.replace(held.report, **changes)
        return held.report

    def _tell(self, event: StartedEvent | EndedEvent | InterruptedEvent) -> None:
        self._seq = event.seq
        self._events.append(event)
        self._ring()

    def _ring(self) -> None:
        """Wake whoever waits; the next to wait takes a new bell."""
        self._bell.set()
        self._bell = asyncio.Event()
