"""The workers of the pool, with their load: what the dispatcher and `/pool` look at."""

import logging
from collections.abc import Callable, Iterable

import msgspec

from trusted_pool.core.job import Job
from trusted_pool.core.placement import Load
from trusted_pool.core.words import WorkerHealth
from trusted_pool.core.worker import Worker
from trusted_pool.ports.link import LinkTo, WorkerLink

_log = logging.getLogger(__name__)


def short(worker_id: str) -> str:
    """Write a worker id for a log line."""
    return worker_id[:12] + "..."


class Member:
    """One worker with its line, its load and the jobs it holds."""

    def __init__(self, worker: Worker, link: WorkerLink) -> None:
        self.worker = worker
        self.link = link
        self.load = Load()
        self.retired = False  #: not in the allowlist any more: followed until it has no jobs, given none
        self.streams = 0  #: event streams that were begun
        self.full_until = 0.0  #: it said that it is full; not asked before
        self.full_times = 0  #: in a row


class Roster:
    """Members by worker id. Loads are counted from committed changes only."""

    def __init__(self, link_to: LinkTo) -> None:
        self._link_to = link_to
        self.members: dict[str, Member] = {}
        self._ticks = 0
        self.on_change: Callable[[], None] = lambda: None  #: somebody may be able to take a job now

    def admit(self, workers: Iterable[Worker], known: dict[str, Worker]) -> tuple[list[Member], list[Member]]:
        """Make the allowlist true: return who is new (or has moved) and whose line is replaced by that.

        `known`: what the store remembers of workers, laid under new entries.
        """
        listed = {worker.worker_id: worker for worker in workers}
        new, replaced = [], []
        for worker_id, entry in listed.items():
            member = self.members.get(worker_id)
            worker = _merge(entry, member.worker if member else _forgotten(known.get(worker_id)))
            if member is None or _dialled(member.worker) != _dialled(entry):
                fresh = Member(worker, self._link_to(worker))
                if member is not None:
                    fresh.load = member.load
                    replaced.append(member)
                self.members[worker_id] = fresh
                new.append(fresh)
                _log.info("Added trusted worker: %s at %s", short(worker_id), worker.endpoint)
                if not worker.proven:
                    _log.warning(
                        "Worker %s is unproven: anybody can claim its name, and read on the way what it is sent",
                        short(worker_id),
                    )
            else:
                member.worker = worker
                member.retired = False
        for worker_id, member in self.members.items():
            if worker_id not in listed and not member.retired:
                member.retired = True
                _log.info("Removed worker: %s", short(worker_id))
        self.on_change()
        return new, replaced

    def follow(self, worker: Worker) -> Member:
        """Take up a worker that was removed from the allowlist and still has jobs."""
        member = self.members[worker.worker_id] = Member(_unheard(worker), self._link_to(worker))
        member.retired = True
        return member

    def listed(self) -> list[Member]:
        """Return the members that the allowlist holds."""
        return [m for m in self.members.values() if not m.retired]

    def workers(self) -> list[Worker]:
        """Return the workers that the allowlist holds."""
        return [m.worker for m in self.listed()]

    def able(self, now: float) -> list[tuple[Worker, Load]]:
        """Return who may be asked to take a job, with copies of their loads for the caller to count in."""
        return [
            (m.worker, msgspec.structs.replace(m.load))
            for m in self.listed()
            if m.full_until <= now and m.worker.health is WorkerHealth.HEALTHY
        ]

    def somebody(self) -> bool:
        """Whether any worker is healthy."""
        return any(m.worker.health is WorkerHealth.HEALTHY for m in self.members.values() if not m.retired)

    def update(self, worker: Worker) -> None:
        """Replace what is known of a worker."""
        member = self.members.get(worker.worker_id)
        if member is not None:
            member.worker = worker
            self.on_change()

    def next_ask(self, now: float) -> float | None:
        """Return when the next full worker may be asked again."""
        return min((m.full_until for m in self.listed() if m.full_until > now), default=None)

    def account(self, before: Job | None, after: Job) -> None:
        """Count slots by a committed change of a job."""
        held = before is not None and before.holds_slot
        if before is not None and held and (not after.holds_slot or after.assigned_to != before.assigned_to):
            self._release(before)
            held = False
        if after.holds_slot and not held:
            member = self.members.get(after.assigned_to or "")
            if member is not None:
                self._ticks += 1
                member.load.take(after.request, self._ticks)

    def _release(self, job: Job) -> None:
        member = self.members.get(job.assigned_to or "")
        if member is not None:
            member.load.free(job.request)
            self.on_change()


def _dialled(worker: Worker) -> tuple[str, bool]:
    """Return where a worker is reached and how: another line is needed when that changes."""
    return worker.endpoint, worker.proven


def _merge(entry: Worker, old: Worker | None) -> Worker:
    """Lay what is known of a worker under its entry of the allowlist."""
    if old is None:
        return entry
    if old.proven != entry.proven:
        # It is another kind of worker: what it offered, and how it was, is found out anew.
        return msgspec.structs.replace(entry, duty=old.duty, drain_by=old.drain_by)
    return msgspec.structs.replace(
        old,
        endpoint=entry.endpoint,
        max_concurrent_jobs=entry.max_concurrent_jobs,
        labels=entry.labels,
        proven=entry.proven,
    )


def _forgotten(old: Worker | None) -> Worker | None:
    """Keep what a worker offered, not how it was: that is found out anew."""
    return None if old is None else _unheard(old)


def _unheard(worker: Worker) -> Worker:
    return msgspec.structs.replace(worker, health=WorkerHealth.UNKNOWN, words="", silent_since=None)
