"""The coordinator as one service: what it is made of, and its one lifecycle."""

import asyncio
import logging
from collections.abc import Iterable

import msgspec

from trusted_pool.coordinator.admission import Admission
from trusted_pool.coordinator.audit import Anchor, Audit
from trusted_pool.coordinator.bulletin import Bulletin
from trusted_pool.coordinator.cancel import Cancel
from trusted_pool.coordinator.collect import Collector
from trusted_pool.coordinator.contents import Contents
from trusted_pool.coordinator.dispatch import Dispatcher
from trusted_pool.coordinator.duties import PAUSED, Duties
from trusted_pool.coordinator.explain import Explain
from trusted_pool.coordinator.jobs import Jobs
from trusted_pool.coordinator.keys import Keys
from trusted_pool.coordinator.logs import Logs
from trusted_pool.coordinator.owner_limits import OwnerLimits
from trusted_pool.coordinator.read import Read
from trusted_pool.coordinator.reconcile import Reconciler
from trusted_pool.coordinator.roster import Member, Roster
from trusted_pool.coordinator.send import Sender
from trusted_pool.coordinator.submit import Submit
from trusted_pool.coordinator.tasks import Tasks
from trusted_pool.coordinator.watch import Watcher
from trusted_pool.core.access import BY_CONSOLE, Access
from trusted_pool.core.limits import Limits
from trusted_pool.core.words import OnWorkerLoss
from trusted_pool.core.worker import Worker
from trusted_pool.ports.blobs import Blobs
from trusted_pool.ports.clock import Clock, Dice
from trusted_pool.ports.link import LinkTo
from trusted_pool.ports.store import Store, Unit, Versioned
from trusted_pool.protocol.audit import Sign

_log = logging.getLogger(__name__)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator may set. Times in seconds."""

    check_interval_s: float = 30.0
    grace_s: float = 120.0
    on_worker_loss: OnWorkerLoss = OnWorkerLoss.RETRY
    limits: Limits = Limits()  #: of every owner that has none of its own


class Coordinator:
    """Submits, dispatches, watches, collects. `start` once, `stop` once."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        link_to: LinkTo,
        clock: Clock,
        dice: Dice,
        pool_id: str,
        sign: Sign,
        settings: Settings,
        anchor: Anchor | None = None,
        without_key: Access | None = None,
    ) -> None:
        """`sign`: by the pool's key. `anchor`: where the head of the audit trail is kept beside the store.

        `without_key`: what somebody may do who shows no API key, once there are some; None: nothing.
        """
        self.pool_id = pool_id
        self.settings = settings
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._dice = dice
        self._tasks = Tasks()
        self._watchers: dict[str, tuple[Watcher, asyncio.Task[None] | None]] = {}
        self.bulletin = Bulletin()
        self.roster = Roster(link_to)
        self.contents = Contents(blobs, store)
        self.jobs = Jobs(store, clock, self.bulletin)
        self.audit = Audit(store=store, clock=clock, dice=dice, pool_id=pool_id, sign=sign, anchor=anchor)
        self.keys = Keys(store=store, audit=self.audit, clock=clock, dice=dice, without_key=without_key)
        self.limits = OwnerLimits(store=store, audit=self.audit, usual=settings.limits)
        self.admission = Admission(store=store, contents=self.contents, limits=self.limits, clock=clock)
        self.submit = Submit(
            store=store,
            contents=self.contents,
            roster=self.roster,
            bulletin=self.bulletin,
            admission=self.admission,
            owner_limits=self.limits,
            clock=clock,
            dice=dice,
            on_worker_loss=settings.on_worker_loss,
        )
        self._sender = Sender(self.jobs, self.roster, self.contents, clock, dice)
        self._collector = Collector(self.jobs, self.roster, self.contents, clock, dice)
        self._reconciler = Reconciler(
            store=store,
            jobs=self.jobs,
            roster=self.roster,
            sender=self._sender,
            collector=self._collector,
            tasks=self._tasks,
            clock=clock,
            dice=dice,
        )
        self._dispatcher = Dispatcher(
            store=store,
            jobs=self.jobs,
            roster=self.roster,
            sender=self._sender,
            tasks=self._tasks,
            clock=clock,
            holder=dice.token(8),
            limits=self.limits,
        )
        self.cancel = Cancel(self.jobs, self._sender, self._tasks)
        self.explain = Explain(self.roster, clock)
        self.duties = Duties(
            store=store, jobs=self.jobs, roster=self.roster, tasks=self._tasks, clock=clock, audit=self.audit
        )
        self.read = Read(
            store=store,
            jobs=self.jobs,
            roster=self.roster,
            explain=self.explain,
            limits=self.limits,
            admission=self.admission,
            clock=clock,
            pool_id=pool_id,
        )
        self.logs = Logs(store, self.jobs, self.roster, self.contents, self.bulletin)
        self._sender.on_trouble = self._collector.on_trouble = self._trouble
        self.roster.on_change = self.limits.on_change = self._dispatcher.wake
        self.bulletin.listen(self.admission.noticed)
        self.bulletin.listen(self.roster.account)
        self.bulletin.listen(self._dispatcher.noticed)

    async def start(self, allowlist: Iterable[Worker]) -> None:
        """Take up the work where the store says that it was."""
        await self.audit.start()
        await self.keys.start()
        await self.limits.start()
        swept = await self._blobs.sweep()
        if swept:
            _log.info("Removed %d unfinished uploads", swept)
        rows = await self._store.open_jobs()  # before anybody changes them
        self._sender.inherit(row.job for row in rows)
        listed = list(allowlist)
        await self._follow_removed(rows, {worker.worker_id for worker in listed})
        await self.reload(listed)
        for row in rows:
            self.roster.account(None, row.job)
        self._set_paused(paused=(await self._store.settings()).get(PAUSED) is not None)
        self.duties.take_up()
        self._tasks.spawn(self._dispatcher.run(), "dispatcher")
        self._tasks.spawn(self.keys.keep_uses(), "uses of keys")

    async def _follow_removed(self, rows: Iterable[Versioned], listed: set[str]) -> None:
        """Watch the workers that are not listed any more and still have jobs: what runs there goes on, or is lost."""
        assigned = {row.job.assigned_to for row in rows} - listed
        for worker in await self._store.workers():
            if worker.worker_id in assigned:
                await self._watch(self.roster.follow(worker))

    async def reload(self, allowlist: Iterable[Worker]) -> None:
        """Make an allowlist true; what runs goes on."""
        known = {w.worker_id: w for w in await self._store.workers()}
        new, replaced = self.roster.admit(allowlist, known)
        for member in new:
            await self._watch(member)
        for member in replaced:
            await member.link.close()

    async def _watch(self, member: Member) -> None:
        worker_id = member.worker.worker_id
        old = self._watchers.pop(worker_id, None)
        if old is not None and old[1] is not None:
            old[1].cancel()
        watcher = Watcher(
            member=member,
            store=self._store,
            jobs=self.jobs,
            roster=self.roster,
            reconciler=self._reconciler,
            clock=self._clock,
            dice=self._dice,
            interval_s=self.settings.check_interval_s,
            grace_s=self.settings.grace_s,
        )
        self._watchers[worker_id] = (watcher, self._tasks.spawn(watcher.run(), f"watch {worker_id[:12]}"))

    async def pause(self, *, paused: bool, by: Access = BY_CONSOLE) -> None:
        """Dispatch nothing until it is resumed; what runs goes on. Kept over restarts."""
        unit = Unit(settings={PAUSED: "yes" if paused else None})
        await self.audit.commit(by, "pool.pause" if paused else "pool.resume", "", {}, unit)
        self._set_paused(paused=paused)
        _log.info("The pool is %s", "paused" if paused else "resumed")

    def _set_paused(self, *, paused: bool) -> None:
        self.explain.paused = self._dispatcher.paused = paused
        self._dispatcher.wake()

    def _trouble(self, worker_id: str, words: str) -> None:
        watcher = self._watchers.get(worker_id)
        if watcher is not None:
            watcher[0].trouble(words)

    def login_failed(self, where: str, words: str) -> None:
        """Have it written down that somebody showed a key that opens nothing."""
        self._tasks.spawn(self.keys.failed(where, words), "failed login")

    def hang_up(self) -> None:
        """Let the answers that take long, end: long polls and followed logs. Comes before the server stops."""
        self.bulletin.hang_up()
        self.logs.hang_up()

    async def stop(self) -> None:
        """End all work in hand. Nothing is lost by it: the store has everything. Idempotent."""
        await self._tasks.close()
        await self.keys.keep_uses_now()
        for member in self.roster.members.values():
            await member.link.close()
