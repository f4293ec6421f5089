"""The event stream: what happened to a pool's attempts, for any number of followers.

A follower pulls at its own pace from the journal, so a slow one slows nobody and costs no memory.
"""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

import msgspec

from trusted_pool.core.words import AttemptState
from trusted_pool.ports.journal import Change, Entry, Journal
from trusted_pool.ports.sandbox import Sandbox, SandboxError
from trusted_pool.protocol.messages import (
    HEARTBEAT_S,
    INLINE_BYTES,
    AttemptsAnswer,
    EndedEvent,
    Heartbeat,
    Hello,
    InterruptedEvent,
    StartedEvent,
    WorkerMessage,
    brief,
)
from trusted_pool.worker.attempts import Attempts
from trusted_pool.worker.reports import report_of

#: Messages that are handed to a follower at once, at most: with inline results they hold up to 44 KiB each.
TOGETHER = 16


class Events:
    """Tells followers what the journal holds and what comes to it."""

    def __init__(self, attempts: Attempts, journal: Journal, sandbox: Sandbox) -> None:
        self._attempts = attempts
        self._journal = journal
        self._sandbox = sandbox
        self.followers = 0  #: who listens now

    async def report(self, pool_id: str) -> AttemptsAnswer:
        """Return all that the worker has of this pool."""
        # The number first: an event that comes between is told again, never left out.
        seq = await self._journal.seq()
        kept = {remote_id: await self._journal.entry(remote_id) for remote_id in sorted(self._attempts.writing)}
        entries = (kept.get(entry.remote_id) or entry for entry in self._attempts if entry.pool_id == pool_id)
        reports = brief(report_of(entry) for entry in entries)
        return AttemptsAnswer(journal_id=self._journal.journal_id, seq=seq, attempts=reports)

    async def follow(self, pool_id: str, journal_id: str, after: int) -> AsyncGenerator[list[WorkerMessage], None]:
        """Yield Hello; the events after `after` when the journal is the same, else those from now on; heartbeats.

        What is there at the same time comes together, at most `TOGETHER` messages. Ends when the worker closes.
        """
        self.followers += 1
        self._attempts.bell.ring()
        try:
            async with aclosing(self._follow(pool_id, journal_id, after)) as batches:
                async for messages in batches:
                    yield messages
        finally:
            self.followers -= 1
            self._attempts.bell.ring()

    async def _follow(self, pool_id: str, journal_id: str, after: int) -> AsyncGenerator[list[WorkerMessage], None]:
        bell = self._attempts.bell
        newest = await self._journal.seq()
        yield [Hello(journal_id=self._journal.journal_id, seq=newest)]
        position = min(after, newest) if journal_id == self._journal.journal_id else newest
        while True:
            seen = bell.rings
            together: list[WorkerMessage] = []
            for change in await self._journal.changes(position):
                if change.remote_id in self._attempts.writing:
                    break  # an end that the journal has and the attempts learn of in this moment: then the bell rings
                position = change.seq
                message = await self._message(pool_id, change)
                if message is not None:
                    together.append(message)
                if len(together) == TOGETHER:
                    yield together
                    together = []
            if together:
                yield together
            if self._attempts.closed:
                return
            if not await bell.wait(seen, HEARTBEAT_S):
                yield [Heartbeat(active_jobs=self._attempts.active, draining=self._attempts.draining)]

    async def _message(self, pool_id: str, change: Change) -> WorkerMessage | None:
        """Return the event in words; None when it is another pool's, or its attempt was released meanwhile."""
        entry = self._attempts.find(change.remote_id)
        if entry is None or entry.pool_id != pool_id:
            return None
        seq, job_id, attempt, remote_id = change.seq, entry.job_id, entry.attempt, entry.remote_id
        match change.kind:
            case "started":
                at = entry.started_at or entry.accepted_at
                return StartedEvent(seq=seq, job_id=job_id, attempt=attempt, remote_id=remote_id, at=at)
            case "interrupted":
                return InterruptedEvent(seq=seq, job_id=job_id, attempt=attempt, remote_id=remote_id, words=entry.words)
            case "ended" if entry.state is AttemptState.ENDED and entry.outcome is not None:
                log, files = await self._inline(entry)
                return EndedEvent(
                    seq=seq, job_id=job_id, attempt=attempt, remote_id=remote_id,
                    outcome=entry.outcome, log=log, files=files,
                )  # fmt: skip
            case _:
                return None

    async def _inline(self, entry: Entry) -> tuple[bytes | None, dict[str, bytes] | None]:
        """Return log and outputs when together they are small; what cannot be read is left to the collector."""
        outcome = entry.outcome
        if outcome is None or outcome.log_bytes + sum(f.size for f in outcome.outputs) > INLINE_BYTES:
            return None, None
        log = self._attempts.small_log(entry.remote_id)
        if len(log) != outcome.log_bytes:
            log = await self._journal.read_log(entry.remote_id, 0, outcome.log_bytes)
        files: dict[str, bytes] = {}
        try:
            for file in outcome.outputs:
                pieces = [piece async for piece in self._sandbox.output(entry.remote_id, file.path)]
                files[file.path] = b"".join(pieces)
        except SandboxError:
            return None, None
        return log, files


def to_lines(messages: Iterable[WorkerMessage]) -> bytes:
    """Write messages as lines of NDJSON."""
    return b"".join(msgspec.json.encode(message) + b"\n" for message in messages)
