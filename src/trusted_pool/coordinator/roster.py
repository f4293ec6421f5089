"""The workers of the pool, with their load: what the dispatcher and `/pool` look at."""

import logging
from collections.abc import Callable, Iterable

import msgspec

from trusted_pool.core.job import Job
from trusted_pool.core.placement import Load
from trusted_pool.core.words import Duty, WorkerHealth
from trusted_pool.core.worker import Worker
from trusted_pool.ports.link import LinkTo, WorkerLink

_log = logging.getLogger(__name__)


def short(worker_id: str) -> str:
    """Write a worker id for a log line."""
    return worker_id[:12] + "..."


class ClosedLineError(Exception):
    """It was said by a worker that is not listed any more, or over a line that was replaced. It does not count."""


class Member:
    """One worker with its line, its load and the jobs it holds."""

    def __init__(self, worker: Worker, link: WorkerLink, load: Load) -> None:
        self.worker = worker
        self.link = link
        self.load = load
        self.closed = False  #: it was removed, or has another line now: what it still says is not taken
        self.streams = 0  #: event streams that were begun
        self.full_until = 0.0  #: it said that it is full; not asked before
        self.full_times = 0  #: in a row

    def fence(self) -> None:
        """Raise ClosedLineError when nothing that it says counts any more."""
        if self.closed:
            raise ClosedLineError(f"the line to {short(self.worker.worker_id)} is closed")


class Admission(msgspec.Struct, frozen=True):
    """What an allowlist changed."""

    new: list[Member]  #: they have a new line: they were not listed before, or have moved
    replaced: list[Member]  #: whose line the new one of the same worker replaces
    removed: list[Member]


class Roster:
    """Members by worker id: the workers that the allowlist holds. Loads are counted from committed changes only."""

    def __init__(self, link_to: LinkTo) -> None:
        self._link_to = link_to
        self.members: dict[str, Member] = {}
        self._loads: dict[str, Load] = {}  #: also of workers that are not listed: jobs may be held there
        self._known: dict[str, Worker] = {}  #: those that are not listed
        self._ticks = 0
        self.on_change: Callable[[], None] = lambda: None  #: somebody may be able to take a job now

    def remember(self, workers: Iterable[Worker]) -> None:
        """Take up, at start, what is kept of workers."""
        self._known = {worker.worker_id: worker for worker in workers}

    def known(self, worker_id: str) -> Worker | None:
        """Return a worker that is, or once was, in the allowlist."""
        member = self.members.get(worker_id)
        return member.worker if member is not None else self._known.get(worker_id)

    def admit(self, workers: Iterable[Worker]) -> Admission:
        """Make the allowlist true, in one step: who is not in it is nobody from here on."""
        listed = {worker.worker_id: worker for worker in workers}
        admission = Admission([], [], [])
        for worker_id in [name for name in self.members if name not in listed]:
            admission.removed.append(self._remove(worker_id))
        for worker_id, entry in listed.items():
            member = self.members.get(worker_id)
            if member is not None and _dialled(member.worker) == _dialled(entry):
                member.worker = _merge(entry, member.worker)
                continue
            worker = _merge(entry, member.worker if member else _unheard(self._known.pop(worker_id, None)))
            fresh = Member(worker, self._link_to(worker), self._load(worker_id))
            if member is not None:
                member.closed = True
                admission.replaced.append(member)
            self.members[worker_id] = fresh
            admission.new.append(fresh)
            _log.info("Added trusted worker: %s at %s", short(worker_id), worker.endpoint)
            if not worker.proven:
                _log.warning(
                    "Worker %s is unproven: anybody can claim its name, and read on the way what it is sent",
                    short(worker_id),
                )
        # Nothing is taken over for those that are not listed at a start: who is listed again begins anew.
        self._known = {name: _off_duty(worker) for name, worker in self._known.items()}
        self.on_change()
        return admission

    def _remove(self, worker_id: str) -> Member:
        member = self.members.pop(worker_id)
        member.closed = True
        self._known[worker_id] = member.worker
        _log.info("Removed worker: %s", short(worker_id))
        return member

    def _load(self, worker_id: str) -> Load:
        return self._loads.setdefault(worker_id, Load())

    def listed(self) -> list[Member]:
        """Return the members."""
        return list(self.members.values())

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
        return any(m.worker.health is WorkerHealth.HEALTHY for m in self.members.values())

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
            self._ticks += 1
            self._load(after.assigned_to or "").take(after.request, self._ticks)

    def _release(self, job: Job) -> None:
        self._load(job.assigned_to or "").free(job.request)
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


def _unheard(worker: Worker | None) -> Worker | None:
    """Keep what a worker offered, not how it was: that is found out anew."""
    if worker is None:
        return None
    return msgspec.structs.replace(worker, health=WorkerHealth.UNKNOWN, words="", silent_since=None)


def _off_duty(worker: Worker) -> Worker:
    return msgspec.structs.replace(worker, duty=Duty.ACTIVE, drain_by=None)
