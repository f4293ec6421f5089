"""Deliberate bugs of the coordinator, of its rules and of its store."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from simulation.engine.mutant import Patches, mutant
from simulation.engine.stored import SimStore
from trusted_pool.coordinator import watch
from trusted_pool.coordinator.cancel import Cancel
from trusted_pool.coordinator.collect import Collector
from trusted_pool.coordinator.dispatch import Dispatcher
from trusted_pool.coordinator.membership import Membership
from trusted_pool.coordinator.reconcile import Reconciler
from trusted_pool.coordinator.removal import Left, Removal
from trusted_pool.coordinator.roster import Member, Roster
from trusted_pool.coordinator.send import Sender
from trusted_pool.coordinator.service import Coordinator
from trusted_pool.coordinator.submit import Submit
from trusted_pool.core import advance as advancing
from trusted_pool.core import happenings as h
from trusted_pool.core.job import Job
from trusted_pool.core.words import AttemptState
from trusted_pool.link.fake import FakeLink
from trusted_pool.ports.link import NotSentError, UnansweredError
from trusted_pool.ports.store import Committed, Unit, Versioned
from trusted_pool.store.memory import MemoryStore


async def _nothing(*_args: Any, **_options: Any) -> None:
    return None


@mutant("fence", "wrong result", "invariant", "placed twice", "started twice", "too many starts", "released early")
def no_fence_in_advance() -> Patches:
    """Whatever is said of any attempt is taken as said of the newest."""
    real = advancing._of_attempt

    def unfenced(job: Job, event: h.OfAttempt, now: float) -> Job:
        newest = len(job.attempts)
        return real(job, msgspec.structs.replace(event, attempt=newest) if newest else event, now)

    return {(advancing, "_of_attempt"): unfenced}


@mutant("wrong result", "fence", "released early")
def a_stale_result_is_accepted() -> Patches:
    """An old attempt's end counts as the end of the newest."""
    real = Collector.ended

    async def ended(self: Collector, member: Any, event: Any) -> None:
        row = await self._jobs.load(event.job_id)
        newest = len(row.job.attempts) if row else event.attempt
        await real(self, member, msgspec.structs.replace(event, attempt=newest))

    return {(Collector, "ended"): ended}


@mutant("slow")
def a_wake_up_of_the_dispatcher_is_lost() -> Patches:
    """Nobody tells it of a slot that was freed."""
    return {(Dispatcher, "wake"): lambda _: None}


@mutant("slow")
def the_dispatcher_is_not_told_of_new_jobs() -> Patches:
    """A new job waits until it looks by itself."""
    return {(Dispatcher, "noticed"): lambda *_: None}


@mutant("placed twice", "invariant", "fence", "started twice", "too many starts")
def two_holders_reserve_the_same_job() -> Patches:
    """Two dispatchers look at the same queue, and the store compares no versions."""
    real_run, real_apply = Dispatcher.run, SimStore._apply

    async def run(self: Dispatcher) -> None:
        await asyncio.gather(real_run(self), real_run(self))

    def apply(self: SimStore, unit: Unit) -> Committed:
        row = self._tables.jobs.get(unit.job.job_id) if unit.job else None
        if row is not None and unit.expects is not None:
            unit = msgspec.structs.replace(unit, expects=row.version)
        return real_apply(self, unit)

    return {(Dispatcher, "run"): run, (SimStore, "_apply"): apply}


@mutant("loads")
def the_pool_frees_a_slot_twice() -> Patches:
    """The end of a job counts for two."""
    real = Roster._release

    def release(self: Roster, job: Job) -> None:
        real(self, job)
        if job.attempt is not None and job.attempt.state is AttemptState.RUNNING:
            real(self, job)

    return {(Roster, "_release"): release}


@mutant("cancel")
def a_cancel_is_acknowledged_and_dropped() -> Patches:
    """The client hears that it was cancelled; nobody else does."""

    async def cancel(self: Cancel, job_id: str, _by: str, allowed: Any) -> Job:
        job = await self._jobs.get(job_id)
        allowed(job)
        return job

    return {(Cancel, "__call__"): cancel}


@mutant("stuck")
def the_worker_never_hears_of_a_cancel() -> Patches:
    """It is written down, and the program runs on."""
    return {(Sender, "cancel"): _nothing}


@mutant("stuck", "leftover")
def reconciliation_is_skipped() -> Patches:
    """What was lost while the line was down stays lost."""

    async def reconcile(_self: Reconciler, member: Any) -> tuple[str, int]:
        answer = await member.link.attempts()
        return answer.journal_id, answer.seq

    return {(Reconciler, "reconcile"): reconcile}


@mutant("lost")
def a_submit_is_acknowledged_before_its_commit() -> Patches:
    """The client has its answer while the commit waits for the disk."""
    real = Submit.__call__

    async def submit(self: Submit, *args: Any, **options: Any) -> Job:
        store, kept = self._store, []

        class Hasty:
            def __getattr__(self, name: str) -> Any:
                return getattr(store, name)

            async def commit(self, units: Sequence[Unit]) -> list[Committed]:
                kept.append(asyncio.ensure_future(store.commit(units)))
                return [Committed(ok=True, version=1) for _ in units]

        hasty = Submit.__new__(Submit)
        hasty.__dict__.update(self.__dict__, _store=Hasty())
        return await real(hasty, *args, **options)

    return {(Submit, "__call__"): submit}


@mutant("released early", "stuck", "leftover", "wrong result")
def results_are_released_before_they_are_kept() -> Patches:
    """The worker may delete them while they are still being copied."""
    real = Collector._ended

    async def ended(self: Collector, member: Any, event: Any) -> None:
        await self.release(member, event.remote_id)
        await real(self, member, event)

    return {(Collector, "_ended"): ended}


@mutant("too many starts", "started twice")
def no_answer_is_taken_for_not_sent() -> Patches:
    """An attempt that may well run is given up and not counted."""
    real = FakeLink.submit

    async def submit(self: FakeLink, *args: Any) -> Any:
        try:
            return await real(self, *args)
        except UnansweredError as error:
            raise NotSentError(str(error)) from None

    return {(FakeLink, "submit"): submit}


@mutant("too many starts")
def an_attempt_is_not_counted() -> Patches:
    """A job may be tried for ever."""
    real = advancing._placed

    def placed(job: Job, event: h.Placed, now: float) -> Job:
        job = real(job, event, now)
        newest = msgspec.structs.replace(job.attempts[-1], spent=False)
        return msgspec.structs.replace(job, attempts=(*job.attempts[:-1], newest))

    return {(advancing, "_placed"): placed}


@mutant("not before")
def backoff_is_ignored() -> Patches:
    """A job is tried again at once."""
    real = MemoryStore.reserve

    async def reserve(
        self: MemoryStore, shapes: Any, n: int, holder: str, *times: float, **options: Any
    ) -> list[Versioned]:
        return await real(self, shapes, n, holder, *(at + 1000.0 for at in times), **options)

    return {(MemoryStore, "reserve"): reserve}


@mutant("grace")
def the_grace_is_ignored() -> Patches:
    """A worker is lost with its first silence."""
    real = watch.silent

    def silent(worker: Any, words: str, _grace_s: float, now: float) -> Any:
        return real(worker, words, 0.0, now)

    return {(watch, "silent"): silent}


@mutant("idempotency", "stuck", "lost")
def the_pool_forgets_idempotency_keys() -> Patches:
    """A submit that is sent again makes another job."""
    real = SimStore._apply

    def apply(self: SimStore, unit: Unit) -> Committed:
        return real(self, msgspec.structs.replace(unit, idempotency=None))

    return {(SimStore, "_apply"): apply}


@mutant("loads", "slow")
def a_restarted_coordinator_counts_no_jobs() -> Patches:
    """Workers that are full look empty."""
    real = Roster.account

    def account(self: Roster, before: Job | None, after: Job) -> None:
        if before is not None:
            real(self, before, after)

    return {(Roster, "account"): account}


@mutant("wrong result")
def a_copy_is_not_compared() -> Patches:
    """What was copied is taken for what was announced."""
    real = Collector._fetch

    async def fetch(self: Collector, link: Any, job: Job, attempt: Any, outcome: Any) -> Any:
        result, blobs = await real(self, link, job, attempt, outcome)
        outputs = tuple(msgspec.structs.replace(o, sha256=o.sha256[::-1]) for o in result.outputs)
        return msgspec.structs.replace(result, outputs=outputs), blobs

    return {(Collector, "_fetch"): fetch}


@mutant("leftover")
def a_lost_release_is_not_told_again() -> Patches:
    """A worker keeps for ever what nobody wants any more."""
    real = Coordinator.__init__

    def init(self: Coordinator, **options: Any) -> None:
        real(self, **options)
        self._collector.on_trouble = lambda *_: None

    return {(Coordinator, "__init__"): init}


@mutant("too many starts")
def an_attempt_may_be_sent_again_before_its_answer_is_kept() -> Patches:
    """That it was not sent is written down after it was sent once more."""
    real = Sender._ask

    async def ask(self: Sender, member: Any, job: Job, attempt: Any, **options: Any) -> Any:
        happenings = await real(self, member, job, attempt, **options)
        self._sending.discard((job.job_id, attempt.number))
        return happenings

    return {(Sender, "_ask"): ask}


@mutant("unlisted")
def a_removed_worker_is_still_listened_to() -> Patches:
    """It is given nothing more; what it says counts on."""

    def unwatch(self: Membership, worker_id: str) -> None:
        self._watchers.pop(worker_id)

    return {
        (Membership, "_unwatch"): unwatch,
        (Membership, "_close"): lambda *_: asyncio.ensure_future(asyncio.sleep(0)),
        (Member, "fence"): lambda _: None,
    }


@mutant("unlisted")
def a_word_that_is_on_its_way_counts_though_its_worker_was_removed() -> Patches:
    """The line is cut; what had come over it is looked at later."""
    return {(Member, "fence"): lambda _: None}


@mutant("kept")
def the_jobs_of_a_removed_worker_stay_with_it() -> Patches:
    """It is lost like any other: nobody looks after its jobs at once, and then nobody does at all."""

    async def removal(_self: Removal, _worker_id: str) -> Left:
        return Left()

    return {(Removal, "__call__"): removal}


@mutant("kept")
def a_worker_that_was_removed_during_a_restart_is_forgotten() -> Patches:
    """Only who is removed before our eyes is gone."""

    def start(self: Membership, allowlist: Any, kept: Any, _open_jobs: Any) -> None:
        self._roster.remember(kept)
        self.make_true(allowlist)

    return {(Membership, "start"): start}
