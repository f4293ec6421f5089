"""What operators do with workers and with the pool: cordon, drain, pause. All of it is kept over restarts."""

import asyncio
import logging
from collections.abc import Iterable

import msgspec

from trusted_pool.coordinator.audit import Audit
from trusted_pool.coordinator.jobs import Jobs
from trusted_pool.coordinator.roster import Member, Roster, short
from trusted_pool.coordinator.tasks import Tasks
from trusted_pool.core import happenings as h
from trusted_pool.core.access import BY_CONSOLE, Access
from trusted_pool.core.advance import IllegalTransitionError
from trusted_pool.core.words import Duty, Reason, WorkerHealth
from trusted_pool.ports.clock import Clock
from trusted_pool.ports.link import LinkError
from trusted_pool.ports.store import Store, StoreError, Unit, Versioned
from trusted_pool.protocol.errors import NotFoundError

_log = logging.getLogger(__name__)

PAUSED = "paused"
_DID = {Duty.ACTIVE: "uncordon", Duty.CORDONED: "cordon", Duty.DRAINING: "drain"}
STORE_PAUSE_S = 1.0


class Duties:
    """Sets duties and ends drains."""

    def __init__(self, *, store: Store, jobs: Jobs, roster: Roster, tasks: Tasks, clock: Clock, audit: Audit) -> None:
        self._store = store
        self._audit = audit
        self._jobs = jobs
        self._roster = roster
        self._tasks = tasks
        self._clock = clock
        self._drains: dict[str, asyncio.Task[None] | None] = {}

    def take_up(self, members: Iterable[Member]) -> None:
        """Go on with the drains of these workers that were under way."""
        for member in members:
            self._watch_drain(member)

    def drop(self, member: Member) -> None:
        """Forget the drain of a worker that was removed: what becomes of its jobs is decided already."""
        old = self._drains.pop(member.worker.worker_id, None)
        if old is not None:
            old.cancel()

    async def set(self, worker_id: str, duty: Duty, deadline_s: float | None = None, by: Access = BY_CONSOLE) -> Member:
        """Give a worker another duty, durably. `deadline_s`: when a drain ends what still runs there.

        Raises:
            NotFoundError: the allowlist has no such worker.
        """
        member = self._roster.members.get(worker_id)
        if member is None:
            raise NotFoundError(f"there is no worker {worker_id}", hint="list them: tpool workers list")
        by_time = None if duty is not Duty.DRAINING or deadline_s is None else self._clock.now() + deadline_s
        self._roster.update(msgspec.structs.replace(member.worker, duty=duty, drain_by=by_time))
        facts = {} if by_time is None else {"drain_by": by_time}
        await self._audit.commit(by, f"worker.{_DID[duty]}", worker_id, facts, Unit(workers=(member.worker,)))
        _log.info("Worker %s is %s", short(worker_id), duty)
        self._watch_drain(member)
        return member

    def _watch_drain(self, member: Member) -> None:
        worker_id = member.worker.worker_id
        if member.closed:
            return  # it was removed in this moment, or has moved and is taken up there
        self.drop(member)
        if member.worker.duty is Duty.DRAINING and member.worker.drain_by is not None:
            self._drains[worker_id] = self._tasks.spawn(self._end_drain(member), f"drain {worker_id[:12]}")

    async def _open_jobs(self, worker_id: str) -> list[Versioned]:
        while True:
            try:
                return await self._store.open_jobs(worker_id)
            except StoreError as error:
                _log.warning("The end of a drain waits for the store: %s", error)
                await asyncio.sleep(STORE_PAUSE_S)

    async def _end_drain(self, member: Member) -> None:
        """Wait for the deadline, then let what still runs there go elsewhere."""
        await asyncio.sleep(max(0.0, (member.worker.drain_by or 0.0) - self._clock.now()))
        if member.closed:
            return
        for row in await self._open_jobs(member.worker.worker_id):
            attempt = row.job.attempt
            if attempt is None or not row.job.holds_slot or member.worker.health is WorkerHealth.FENCED:
                continue
            words = "its worker was drained and the deadline has passed"
            event = h.Interrupted(attempt=attempt.number, words=words, not_before=0.0, reason=Reason.DRAINED)
            try:
                await self._jobs.apply(row.job.job_id, event)
            except IllegalTransitionError:
                continue  # it ended in this moment
            _log.warning("Job %s leaves the drained worker %s", row.job.job_id, short(member.worker.worker_id))
            if attempt.remote_id is not None:
                try:
                    await member.link.cancel(attempt.remote_id)
                except LinkError as error:
                    _log.info("The drained worker cannot be told: %s", error)
