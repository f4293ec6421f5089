"""Membership made true: who is listed is watched; who is not any more is cut off at once."""

import asyncio
import logging
from collections.abc import Iterable

import msgspec

from trusted_pool.coordinator.duties import Duties
from trusted_pool.coordinator.jobs import Jobs
from trusted_pool.coordinator.reconcile import Reconciler
from trusted_pool.coordinator.removal import Left, Removal
from trusted_pool.coordinator.roster import Member, Roster, short
from trusted_pool.coordinator.tasks import Tasks
from trusted_pool.coordinator.watch import Watcher
from trusted_pool.core.worker import Worker
from trusted_pool.ports.clock import Clock, Dice
from trusted_pool.ports.store import Store, StoreError, Unit, Versioned

_log = logging.getLogger(__name__)

#: A line that does not let go within this time has been cut all the same; nobody waits for it any longer.
CLOSE_S = 5.0
#: The jobs of a removed worker wait for so long until who was speaking to it has noticed.
CUT_S = 1.0


#: For each worker that was removed, what tells of its jobs; None when nothing is begun any more.
Leaving = dict[str, "asyncio.Task[Left] | None"]


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How workers are watched, in seconds."""

    check_interval_s: float
    grace_s: float


class Membership:
    """Watchers and lines of the workers that are listed."""

    def __init__(
        self,
        *,
        store: Store,
        jobs: Jobs,
        roster: Roster,
        reconciler: Reconciler,
        removal: Removal,
        duties: Duties,
        tasks: Tasks,
        clock: Clock,
        dice: Dice,
        pace: Pace,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._roster = roster
        self._reconciler = reconciler
        self._removal = removal
        self._duties = duties
        self._tasks = tasks
        self._clock = clock
        self._dice = dice
        self._pace = pace
        self._watchers: dict[str, tuple[Watcher, asyncio.Task[None] | None]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def start(self, allowlist: Iterable[Worker], kept: Iterable[Worker], open_jobs: Iterable[Versioned]) -> None:
        """Take up the work. `kept`: what the store remembers of workers.

        A worker that was removed while nobody served is treated as one that is removed now.
        """
        self._roster.remember(kept)
        self.make_true(allowlist)
        assigned = {row.job.assigned_to for row in open_jobs}
        for worker_id in sorted(w for w in assigned if w is not None and w not in self._roster.members):
            self._leave(worker_id)

    def make_true(self, allowlist: Iterable[Worker]) -> Leaving:
        """Make an allowlist true in one step. Returns what tells of the jobs of those that were removed.

        When this returns, a removed worker is given nothing more and nothing that it says counts; its line is cut in
        the next turn of the loop.
        """
        admission = self._roster.admit(allowlist)
        closing = {}
        for member in (*admission.removed, *admission.replaced):
            self._unwatch(member.worker.worker_id)
            self._duties.drop(member)
            closing[member.worker.worker_id] = self._close(member)
        for member in admission.new:
            self._watch(member)
        self._duties.take_up(admission.new)
        removed = (member.worker.worker_id for member in admission.removed)
        return {worker_id: self._leave(worker_id, closing[worker_id]) for worker_id in removed}

    def trouble(self, worker_id: str, words: str) -> None:
        """Take note of a failed call to a worker."""
        watcher = self._watchers.get(worker_id)
        if watcher is not None:
            watcher[0].trouble(words)

    def _watch(self, member: Member) -> None:
        worker_id = member.worker.worker_id
        watcher = Watcher(
            member=member,
            store=self._store,
            jobs=self._jobs,
            roster=self._roster,
            reconciler=self._reconciler,
            clock=self._clock,
            dice=self._dice,
            interval_s=self._pace.check_interval_s,
            grace_s=self._pace.grace_s,
        )
        self._watchers[worker_id] = (watcher, self._tasks.spawn(watcher.run(), f"watch {worker_id[:12]}"))

    def _unwatch(self, worker_id: str) -> None:
        _, task = self._watchers.pop(worker_id)
        if task is not None:
            task.cancel()

    def _leave(self, worker_id: str, closing: "asyncio.Task[None] | None" = None) -> "asyncio.Task[Left] | None":
        return self._tasks.spawn(self._left(worker_id, closing), f"leave {worker_id[:12]}")

    async def _left(self, worker_id: str, closing: "asyncio.Task[None] | None") -> Left:
        if closing is not None:  # whoever was sending knows best whether anything was sent
            await asyncio.wait({closing}, timeout=CUT_S)
        await self._keep(worker_id)
        left = await self._removal(worker_id)
        # Listed again meanwhile, it may have told of what is unwanted since, and would not tell again.
        self.trouble(worker_id, "it was removed, and is listed again")
        return left

    async def _keep(self, worker_id: str) -> None:
        """Keep that a removed worker has no duty any more: listed again, it begins anew."""
        worker = self._roster.known(worker_id)
        if worker is None:
            return
        try:
            await self._store.commit([Unit(workers=(worker,))])
        except StoreError as error:
            _log.warning("What is known of %s is not kept: %s", short(worker_id), error)

    def _close(self, member: Member) -> "asyncio.Task[None]":
        task = asyncio.create_task(_closed(member), name=f"close {member.worker.worker_id[:12]}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    async def close(self) -> None:
        """Let go of all lines. Comes after the tasks have ended. Idempotent."""
        await asyncio.gather(*self._closing, *(_closed(member) for member in self._roster.listed()))


async def _closed(member: Member) -> None:
    try:
        async with asyncio.timeout(CLOSE_S):
            await member.link.close()
    except TimeoutError:
        _log.warning("The line to %s was cut and does not let go", member.worker.endpoint)
