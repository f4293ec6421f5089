"""The dispatcher: queued jobs to workers that can take them now."""

import asyncio
import logging

from trusted_pool.coordinator.jobs import Jobs, event_of
from trusted_pool.coordinator.owner_limits import OwnerLimits
from trusted_pool.coordinator.roster import Roster
from trusted_pool.coordinator.send import Sender
from trusted_pool.coordinator.tasks import Tasks
from trusted_pool.core import happenings as h
from trusted_pool.core.advance import IllegalTransitionError, advance
from trusted_pool.core.fair import CHARGE
from trusted_pool.core.job import Job
from trusted_pool.core.placement import choose
from trusted_pool.core.words import JobState
from trusted_pool.ports.clock import Clock
from trusted_pool.ports.store import Caps, Store, StoreError, Unit, Versioned

_log = logging.getLogger(__name__)

BATCH = 64
RESERVE_S = 30.0
TICK_S = 5.0
ERROR_PAUSE_S = 1.0


class Dispatcher:
    """Places queued jobs whenever something may have changed: a new job, a free slot, a worker's health, time."""

    def __init__(
        self,
        *,
        store: Store,
        jobs: Jobs,
        roster: Roster,
        sender: Sender,
        tasks: Tasks,
        clock: Clock,
        holder: str,
        limits: OwnerLimits,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._roster = roster
        self._sender = sender
        self._tasks = tasks
        self._clock = clock
        self._holder = holder
        self._limits = limits
        self._wake = asyncio.Event()
        self._wake.set()
        self.paused = False
        self._waiting: set[str] = set()  #: shapes for which nobody was found, said once

    def wake(self) -> None:
        """Look again soon."""
        self._wake.set()

    def noticed(self, _before: Job | None, after: Job) -> None:
        """Look again when a job is queued and somebody could take it, or ends and its owner may have few at once."""
        if after.final and self._limits.running is not None:
            self._wake.set()
        if after.state is JobState.QUEUED:
            if self._roster.somebody():
                self._wake.set()
            elif after.shape not in self._waiting:
                self._waiting.add(after.shape)
                _log.warning("No available workers for job %s", after.job_id)

    async def run(self) -> None:
        """Place jobs until cancelled."""
        while True:
            try:
                await self._expire()
                while await self._round():
                    pass
                await self._sleep()
            except StoreError as error:
                _log.error("Dispatching waits: %s", error)
                await asyncio.sleep(ERROR_PAUSE_S)
            except Exception:  # noqa: BLE001 - whatever it is, others wait to be placed
                _log.exception("Dispatching stumbled and goes on")
                await asyncio.sleep(ERROR_PAUSE_S)

    async def _sleep(self) -> None:
        now = self._clock.now()
        moments = [await self._store.next_due(now), self._roster.next_ask(now)]
        due = min((m for m in moments if m is not None), default=now + TICK_S)
        try:
            async with asyncio.timeout(max(0.01, min(TICK_S, due - now))):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _expire(self) -> None:
        for row in await self._store.expired(self._clock.now(), BATCH):
            try:
                await self._jobs.apply(row.job.job_id, h.Expired(), patient=False)
            except IllegalTransitionError:
                continue  # it was started in the meantime

    async def _round(self) -> bool:
        """Place up to a batch; return whether there may be more to place."""
        self._wake.clear()
        if self.paused:
            return False
        now = self._clock.now()
        pool = self._roster.able(now)
        free = sum(max(0, worker.slots - load.active) for worker, load in pool)
        if not free:
            return False
        shapes = await self._store.shapes()
        placeable = [s.shape for s in shapes if choose(s.request, pool) is not None]
        if not placeable:
            return False
        self._waiting.clear()
        caps, until = self._limits.running, now + RESERVE_S
        rows = await self._store.reserve(placeable, min(free, BATCH), self._holder, now, until, caps=caps)
        placed: list[tuple[Versioned, Job]] = []
        for tick, row in enumerate(rows):
            worker = choose(row.job.request, pool)
            if worker is None or row.job.state is not JobState.QUEUED:
                continue
            next(load for w, load in pool if w is worker).take(row.job.request, 10**12 + tick)
            event = h.Placed(attempt=len(row.job.attempts) + 1, worker_id=worker.worker_id)
            placed.append((row, advance(row.job, event, now)))
        return await self._commit(placed, now)

    async def _commit(self, placed: list[tuple[Versioned, Job]], now: float) -> bool:
        """Commit placements and send those that were kept; return whether there may be more to place."""
        units, running = [], self._limits.running
        # Whoever was removed since they were chosen is given nothing; their jobs are placed in the next round.
        placed = [(row, job) for row, job in placed if job.attempts[-1].worker_id in self._roster.members]
        for row, job in placed:
            attempt = job.attempts[-1]
            event = event_of(job, h.Placed(attempt=attempt.number, worker_id=attempt.worker_id), now)
            caps = None if running is None else Caps(running=running.cap(job.owner))
            units.append(Unit(job=job, expects=row.version, before=row.job, events=(event,), charge=CHARGE, caps=caps))
        if not units:
            return False
        coming = {(job.job_id, len(job.attempts)) for _, job in placed}
        self._sender.coming |= coming
        try:
            answers = await self._store.commit(units)
            for (row, job), committed in zip(placed, answers, strict=True):
                if committed.ok:
                    coming.discard((job.job_id, len(job.attempts)))
                    self._jobs.learn(row.job, Versioned(job, committed.version))
                    self._tasks.spawn(self._sender.send(job), f"send {job.job_id}")
        finally:
            self._sender.coming -= coming
        return any(committed.conflict != "running" for committed in answers)  # another coordinator was there first
