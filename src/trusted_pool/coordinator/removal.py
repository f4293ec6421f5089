"""What becomes of the jobs at a worker that was taken off the allowlist: it is lost at once, not after the grace."""

import asyncio
import logging
from collections.abc import Iterable

import msgspec

from trusted_pool.coordinator.jobs import Jobs
from trusted_pool.coordinator.roster import Roster, short
from trusted_pool.coordinator.send import Sender
from trusted_pool.core.advance import IllegalTransitionError
from trusted_pool.core.job import Job
from trusted_pool.core.retry import on_removal
from trusted_pool.core.words import JobState, Reason
from trusted_pool.ports.store import Store, StoreError, Versioned

_log = logging.getLogger(__name__)

STORE_PAUSE_S = 1.0


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the jobs that were at a removed worker, by how many."""

    retried: int = 0  #: they are queued again
    held: int = 0  #: they stay assigned
    failed: int = 0
    cancelled: int = 0  #: that had been asked for already

    @property
    def all(self) -> int:
        """How many there were."""
        return self.retried + self.held + self.failed + self.cancelled


_COUNTED = {JobState.QUEUED: "retried", JobState.FAILED: "failed", JobState.CANCELLED: "cancelled"}


class Removal:
    """Lets jobs of removed workers go the way of their policies, and knows which are held."""

    def __init__(self, store: Store, jobs: Jobs, roster: Roster, sender: Sender) -> None:
        self._store = store
        self._jobs = jobs
        self._roster = roster
        self._sender = sender
        self.held: dict[str, set[str]] = {}  #: jobs by the removed worker that they stay assigned to

    def noticed(self, _before: Job | None, after: Job) -> None:
        """Take note of a committed change of a job."""
        if not after.attempts:
            return
        worker_id = after.attempts[-1].worker_id
        if after.reason is Reason.WORKER_REMOVED and after.assigned_to is not None:
            self.held.setdefault(worker_id, set()).add(after.job_id)
        elif worker_id in self.held:
            self.held[worker_id].discard(after.job_id)
            if not self.held[worker_id]:
                del self.held[worker_id]

    async def __call__(self, worker_id: str) -> Left:
        """Do it for every job that is assigned to a worker which is not listed.

        While the store fails this waits. When the worker is listed again meanwhile, reconciliation does the rest.
        """
        counts: dict[str, int] = {}
        for row in await self._open_jobs(worker_id):
            if worker_id in self._roster.members:
                break
            job_id = row.job.job_id
            if (job_id, len(row.job.attempts)) in self._sender.coming:
                continue  # it was placed in this moment, and is about to be found unsendable: that spends nothing
            try:
                after = await self._jobs.apply(job_id, on_removal(row.job))
            except IllegalTransitionError:
                continue  # it ended, or left, in this moment
            word = _COUNTED.get(after.state, "held")
            counts[word] = counts.get(word, 0) + 1
            _log.warning("Job %s on removed worker %s: %s", job_id, short(worker_id), after.state)
        return Left(**counts)

    async def _open_jobs(self, worker_id: str) -> Iterable[Versioned]:
        while worker_id not in self._roster.members:
            try:
                rows = await self._store.open_jobs(worker_id)
            except StoreError as error:
                _log.warning("The jobs of removed worker %s wait for the store: %s", short(worker_id), error)
                await asyncio.sleep(STORE_PAUSE_S)
            else:
                return rows
        return ()
