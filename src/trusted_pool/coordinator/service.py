"""The coordinator as one service: what it is made of, and its one lifecycle."""

import logging
from collections.abc import Iterable

import msgspec

from trusted_pool.coordinator.admission import Admission
from trusted_pool.coordinator.allowlist import Allowlist
from trusted_pool.coordinator.allowlist_trail import Trail
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
from trusted_pool.coordinator.membership import Membership, Pace
from trusted_pool.coordinator.owner_limits import OwnerLimits
from trusted_pool.coordinator.read import Read
from trusted_pool.coordinator.reconcile import Reconciler
from trusted_pool.coordinator.removal import Removal
from trusted_pool.coordinator.roster import Roster
from trusted_pool.coordinator.send import Sender
from trusted_pool.coordinator.submit import Submit
from trusted_pool.coordinator.tasks import Tasks
from trusted_pool.core.access import BY_CONSOLE, Access
from trusted_pool.core.limits import Limits
from trusted_pool.core.words import OnWorkerLoss
from trusted_pool.core.worker import Worker
from trusted_pool.ports.allowlist import AllowlistFile
from trusted_pool.ports.blobs import Blobs
from trusted_pool.ports.clock import Clock, Dice
from trusted_pool.ports.link import LinkTo
from trusted_pool.ports.store import Store, Unit
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
        workers_file: AllowlistFile | None = None,
    ) -> None:
        """`sign`: by the pool's key. `anchor`: where the head of the audit trail is kept beside the store.

        `without_key`: what somebody may do who shows no API key, once there are some; None: nothing.
        `workers_file`: where the allowlist is kept; without it no command can change the allowlist.
        """
        self.pool_id = pool_id
        self.settings = settings
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._dice = dice
        self._tasks = Tasks()
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
        self._collector = Collector(self.jobs, self.contents, clock, dice)
        reconciler = Reconciler(
            store=store,
            jobs=self.jobs,
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
        self.removal = Removal(store, self.jobs, self.roster, self._sender)
        self._membership = Membership(
            store=store,
            jobs=self.jobs,
            roster=self.roster,
            reconciler=reconciler,
            removal=self.removal,
            duties=self.duties,
            tasks=self._tasks,
            clock=clock,
            dice=dice,
            pace=Pace(check_interval_s=settings.check_interval_s, grace_s=settings.grace_s),
        )
        self._trail = Trail(store, self.audit, self._tasks)
        self.allowlist = Allowlist(workers_file, self._membership, self._trail)
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
        self._sender.on_trouble = self._collector.on_trouble = self._membership.trouble
        self.roster.on_change = self.limits.on_change = self._dispatcher.wake
        self.bulletin.listen(self.admission.noticed)
        self.bulletin.listen(self.roster.account)
        self.bulletin.listen(self.removal.noticed)
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
        for row in rows:
            self.roster.account(None, row.job)
            self.removal.noticed(None, row.job)
        listed = list(allowlist)
        await self._trail.start(listed)
        self._membership.start(listed, await self._store.workers(), rows)
        self._set_paused(paused=(await self._store.settings()).get(PAUSED) is not None)
        self._tasks.spawn(self._dispatcher.run(), "dispatcher")
        self._tasks.spawn(self.keys.keep_uses(), "uses of keys")
        self._tasks.spawn(self.allowlist.watch(), "watch of the allowlist")

    async def reload(self, allowlist: Iterable[Worker]) -> None:
        """Make an allowlist true: who is new is watched, and who is not in it any more is cut off at once."""
        await self.allowlist.make_true(list(allowlist))

    async def pause(self, *, paused: bool, by: Access = BY_CONSOLE) -> None:
        """Dispatch nothing until it is resumed; what runs goes on. Kept over restarts."""
        unit = Unit(settings={PAUSED: "yes" if paused else None})
        await self.audit.commit(by, "pool.pause" if paused else "pool.resume", "", {}, unit)
        self._set_paused(paused=paused)
        _log.info("The pool is %s", "paused" if paused else "resumed")

    def _set_paused(self, *, paused: bool) -> None:
        self.explain.paused = self._dispatcher.paused = paused
        self._dispatcher.wake()

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
        await self._membership.close()
