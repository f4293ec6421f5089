"""What the line to a worker without a journal remembers in its place: attempts, their events, their results.

All of it is in memory: after a restart of the coordinator the line is told which attempts the worker was sent.
"""

import asyncio

import msgspec

from trusted_pool.core.words import AttemptState
from trusted_pool.link.sandrun_fetch import Results
from trusted_pool.ports.link import OpenInput, Order
from trusted_pool.protocol.messages import (
    INLINE_BYTES,
    AttemptReport,
    EndedEvent,
    InterruptedEvent,
    StartedEvent,
)

OPEN = (AttemptState.ACCEPTED, AttemptState.RUNNING)
Event = StartedEvent | EndedEvent | InterruptedEvent


class Held:
    """One attempt that the worker was sent, and did not refuse."""

    def __init__(self, report: AttemptReport, order: Order, open_input: OpenInput) -> None:
        self.report = report
        self.order = order  #: as the coordinator gave it
        self.open_input = open_input
        self.cancelled = False  #: a cancel was asked for, whether or not the worker can do it
        self.failures = 0  #: copies of its results that failed, in a row
        self.results: Results | None = None

    @property
    def open(self) -> bool:
        """Whether its end has not been seen."""
        return self.report.state in OPEN


class Memory:
    """Attempts by remote id, and the events of them. `bell` rings when anything is new."""

    def __init__(self, journal_id: str) -> None:
        self.journal_id = journal_id
        self.seq = 0
        self.held: dict[str, Held] = {}
        self._events: list[Event] = []
        self.bell = asyncio.Event()

    def find(self, job_id: str, attempt: int) -> Held | None:
        """Return an attempt."""
        wanted = (job_id, attempt)
        return next((h for h in self.held.values() if (h.report.job_id, h.report.attempt) == wanted), None)

    def open(self) -> list[Held]:
        """Return the attempts whose end has not been seen."""
        return [held for held in self.held.values() if held.open]

    def keep(self, held: Held) -> None:
        """Remember an attempt."""
        self.held[held.report.remote_id] = held
        self.ring()

    def news(self, after: int) -> list[Event]:
        """Return the events after `after`."""
        return [event for event in self._events if event.seq > after]

    def started(self, held: Held, at: float) -> None:
        """Take note that it runs since `at`."""
        held.report = msgspec.structs.replace(held.report, state=AttemptState.RUNNING, started_at=at)
        r = held.report
        self._tell(StartedEvent(seq=self.seq + 1, job_id=r.job_id, attempt=r.attempt, remote_id=r.remote_id, at=at))

    async def ended(self, held: Held, results: Results) -> None:
        """Take note of its end. Small results travel in the event."""
        log, files = await _inline(results)
        held.results = results
        held.report = msgspec.structs.replace(held.report, state=AttemptState.ENDED, outcome=results.outcome)
        r = held.report
        self._tell(
            EndedEvent(
                seq=self.seq + 1,
                job_id=r.job_id,
                attempt=r.attempt,
                remote_id=r.remote_id,
                outcome=results.outcome,
                log=log,
                files=files,
            )
        )

    def interrupted(self, held: Held, words: str) -> None:
        """Take note that there will be no result."""
        held.report = msgspec.structs.replace(held.report, state=AttemptState.INTERRUPTED, words=words)
        r = held.report
        self._tell(
            InterruptedEvent(seq=self.seq + 1, job_id=r.job_id, attempt=r.attempt, remote_id=r.remote_id, words=words)
        )

    async def forget(self, remote_id: str) -> None:
        """Forget an attempt, its events and what was copied of it."""
        held = self.held.pop(remote_id, None)
        self._events = [event for event in self._events if event.remote_id != remote_id]
        if held is not None and held.results is not None:
            await held.results.discard()

    def ring(self) -> None:
        """Wake whoever waits; the next to wait takes a new bell."""
        self.bell.set()
        self.bell = asyncio.Event()

    def _tell(self, event: Event) -> None:
        self.seq = event.seq
        self._events.append(event)
        self.ring()


async def _inline(results: Results) -> tuple[bytes | None, dict[str, bytes] | None]:
    outcome = results.outcome
    if results.log is None or results.log.size + sum(output.size for output in outcome.outputs) > INLINE_BYTES:
        return None, None
    log = b"".join([piece async for piece in results.log.read()])
    files = {path: b"".join([piece async for piece in staged.read()]) for path, staged in results.files.items()}
    return log, files
