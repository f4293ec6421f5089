"""Every change of a job goes through here: load, advance, commit by compare-and-swap, tell."""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import msgspec

from trusted_pool.coordinator.bulletin import Bulletin
from trusted_pool.core import happenings as h
from trusted_pool.core.advance import advance
from trusted_pool.core.job import Job
from trusted_pool.ports.clock import Clock
from trusted_pool.ports.store import Blob, Event, Result, Store, StoreError, Unit, Versioned
from trusted_pool.protocol.errors import NotFoundError

_log = logging.getLogger(__name__)

MAX_CONFLICTS = 50
KNOWN_JOBS = 20_000
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


class TooManyConflictsError(Exception):
    """Somebody else changes the job all the time; this should not happen."""


def story(happening: h.Happening) -> dict[str, Any]:
    """Say what a job's history keeps of a happening: its facts without the bulky ones."""
    facts: dict[str, Any] = msgspec.to_builtins(happening)
    facts.pop("attempt", None)
    outcome = facts.get("outcome")
    if isinstance(outcome, dict):
        outcome["outputs"] = len(outcome.get("outputs", ()))
    return facts


def event_of(job: Job, happening: h.Happening, now: float) -> Event:
    """Write a happening down as a line of the job's story."""
    attempt = happening.attempt if isinstance(happening, h.OfAttempt) else 0
    return Event(job_id=job.job_id, at=now, kind=type(happening).__name__, attempt=attempt, data=story(happening))


class Jobs:
    """The jobs of the pool as this coordinator sees them.

    Keeps the newest version of open jobs at hand. That is only a shortcut: a stale one makes the commit conflict, and
    then it is loaded again.
    """

    def __init__(self, store: Store, clock: Clock, bulletin: Bulletin) -> None:
        self._store = store
        self._clock = clock
        self._bulletin = bulletin
        self._known: OrderedDict[str, Versioned] = OrderedDict()
        self._locks: dict[str, tuple[asyncio.Lock, list[None]]] = {}

    async def load(self, job_id: str) -> Versioned | None:
        """Load a job, or None when there is none."""
        return self._known.get(job_id) or await self._store.job(job_id)

    async def get(self, job_id: str) -> Job:
        """Load a job. Raises NotFoundError."""
        found = await self.load(job_id)
        if found is None:
            raise NotFoundError(f"there is no job {job_id}", hint="list the jobs: tpool jobs")
        return found.job

    def learn(self, before: Job | None, after: Versioned) -> None:
        """Take note of a commit made elsewhere in this process, and tell."""
        self._remember(after)
        self._bulletin.publish(before, after.job)

    @contextlib.contextmanager
    def next_change(self, job_id: str) -> Iterator[asyncio.Future[None]]:
        """Give a future that is done at the job's next change from here on."""
        change = self._bulletin.expect(job_id)
        try:
            yield change
        finally:
            self._bulletin.forget(change, job_id)

    async def apply(
        self,
        job_id: str,
        *happenings: h.Happening,
        result: Result | None = None,
        blobs: Sequence[Blob] = (),
        patient: bool = True,
        fence: Callable[[], None] | None = None,
    ) -> Job:
        """Advance the job by the happenings, in one commit, and return it.

        When a happening changes nothing, nothing is written for it. What happened has happened: while the store cannot
        keep it, this waits. With `patient` False, for somebody who asks and can be told, it raises instead.

        `fence` is called in the instant before the commit: what it raises is passed on, and nothing was changed.

        Raises:
            NotFoundError: there is no such job.
            IllegalTransitionError, StaleAttemptError: as `advance`; nothing was changed.
            StoreError: not patient, and the store cannot keep it.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await self._apply(job_id, happenings, result, blobs, fence)
            except StoreError as error:
                if not patient:
                    raise
                _log.warning("A change of job %s waits for the store: %s", job_id, error)
                await asyncio.sleep(pause_s)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    async def _apply(
        self,
        job_id: str,
        happenings: Sequence[h.Happening],
        result: Result | None,
        blobs: Sequence[Blob],
        fence: Callable[[], None] | None,
    ) -> Job:
        async with self._alone(job_id):
            for _ in range(MAX_CONFLICTS):
                found = await self.load(job_id)
                if found is None:
                    raise NotFoundError(f"there is no job {job_id}", hint="list the jobs: tpool jobs")
                now = self._clock.now()
                job, events = found.job, []
                for happening in happenings:
                    after = advance(job, happening, now)
                    if after is not job:
                        events.append(event_of(after, happening, now))
                    job = after
                if job is found.job:
                    return job
                unit = Unit(
                    job=job,
                    expects=found.version,
                    before=found.job,
                    events=tuple(events),
                    result=result,
                    blobs=tuple(blobs),
                )
                # Whoever asked for it may be cancelled; what is kept must be known all the same.
                if await asyncio.shield(asyncio.ensure_future(self._keep(unit, found.job, job, fence))):
                    return job
                self._known.pop(job_id, None)
        raise TooManyConflictsError(job_id)

    async def _keep(self, unit: Unit, before: Job, after: Job, fence: Callable[[], None] | None) -> bool:
        """Commit, and take note in the same breath."""
        if fence is not None:
            fence()
        (committed,) = await self._store.commit([unit])
        if committed.ok:
            self.learn(before, Versioned(after, committed.version))
        return committed.ok

    def _remember(self, row: Versioned) -> None:
        self._known.pop(row.job.job_id, None)
        if not row.job.final:
            self._known[row.job.job_id] = row
            if len(self._known) > KNOWN_JOBS:
                self._known.popitem(last=False)

    @contextlib.asynccontextmanager
    async def _alone(self, job_id: str) -> AsyncIterator[None]:
        """Keep two changes of one job in this process from conflicting with each other."""
        lock, users = self._locks.setdefault(job_id, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._locks[job_id]
