"""A worker as the pool knows it: its health machine and what placement looks at."""

import msgspec

from trusted_pool.core.request import Capacity
from trusted_pool.core.words import Duty, WorkerHealth

#: A worker's health after a check that was answered or not, within the grace or after it; or that it refused because
#: another coordinator has it. Such a worker is never lost: what it runs is the other's to collect, not ours to repeat.
HEALTH: dict[tuple[WorkerHealth, str], WorkerHealth] = {
    (WorkerHealth.UNKNOWN, "answered"): WorkerHealth.HEALTHY,
    (WorkerHealth.UNKNOWN, "silent"): WorkerHealth.SUSPECT,
    (WorkerHealth.UNKNOWN, "grace_over"): WorkerHealth.LOST,
    (WorkerHealth.HEALTHY, "answered"): WorkerHealth.HEALTHY,
    (WorkerHealth.HEALTHY, "silent"): WorkerHealth.SUSPECT,
    (WorkerHealth.HEALTHY, "grace_over"): WorkerHealth.LOST,
    (WorkerHealth.SUSPECT, "answered"): WorkerHealth.HEALTHY,
    (WorkerHealth.SUSPECT, "silent"): WorkerHealth.SUSPECT,
    (WorkerHealth.SUSPECT, "grace_over"): WorkerHealth.LOST,
    (WorkerHealth.LOST, "answered"): WorkerHealth.HEALTHY,
    (WorkerHealth.LOST, "silent"): WorkerHealth.LOST,
    (WorkerHealth.LOST, "grace_over"): WorkerHealth.LOST,
    (WorkerHealth.UNKNOWN, "fenced"): WorkerHealth.FENCED,
    (WorkerHealth.HEALTHY, "fenced"): WorkerHealth.FENCED,
    (WorkerHealth.SUSPECT, "fenced"): WorkerHealth.FENCED,
    (WorkerHealth.LOST, "fenced"): WorkerHealth.FENCED,
    (WorkerHealth.FENCED, "fenced"): WorkerHealth.FENCED,
    (WorkerHealth.FENCED, "answered"): WorkerHealth.HEALTHY,
    (WorkerHealth.FENCED, "silent"): WorkerHealth.FENCED,
    (WorkerHealth.FENCED, "grace_over"): WorkerHealth.FENCED,
}

DEFAULT_SLOTS = 4
#: What a worker of claimed identity offers, before it is asked and after: it runs one job at a time and proves nothing.
CLAIMED_OFFER = Capacity(slots=1, isolation=0, gpus=(), binds=())


class Worker(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of the allowlist with what the pool knows of it."""

    worker_id: str
    endpoint: str
    max_concurrent_jobs: int | None = None  #: the allowlist's ceiling
    labels: dict[str, str] = {}  #: the allowlist's; they win over the worker's own
    proven: bool = True  #: False: "identity": "claimed"
    health: WorkerHealth = WorkerHealth.UNKNOWN
    words: str = ""  #: why it is not healthy, for people
    duty: Duty = Duty.ACTIVE
    drain_by: float | None = None  #: when a drain ends what still runs
    capacity: Capacity = Capacity()  #: as it last said
    version: str = ""
    leaving: bool = False  #: it says that it finishes what it has and goes
    last_health_check: float | None = None  #: when a check last ended, answered or not
    last_answer_at: float | None = None
    silent_since: float | None = None  #: first failed check of the present silence

    @property
    def slots(self) -> int:
        """How many jobs it is given at once: what it offers, capped by the allowlist, else 4."""
        known = [n for n in (self.capacity.slots, self.max_concurrent_jobs) if n is not None]
        return min(known, default=DEFAULT_SLOTS)

    @property
    def offer(self) -> Capacity:
        """Its capacity with the allowlist's labels and slots laid over its own."""
        return msgspec.structs.replace(self.capacity, slots=self.slots, labels={**self.capacity.labels, **self.labels})


def heard(worker: Worker, capacity: Capacity, version: str, now: float, *, leaving: bool = False) -> Worker:
    """Return the worker after a check that was answered by the listed key."""
    return msgspec.structs.replace(
        worker,
        health=HEALTH[worker.health, "answered"],
        words="",
        capacity=capacity,
        version=version,
        leaving=leaving,
        last_health_check=now,
        last_answer_at=now,
        silent_since=None,
    )


def silent(worker: Worker, words: str, grace_s: float, now: float) -> Worker:
    """Return the worker after a check that failed. It is lost when silent for longer than the grace."""
    since = worker.silent_since if worker.silent_since is not None else now
    kind = "grace_over" if now - since >= grace_s else "silent"
    health = HEALTH[worker.health, kind]
    return msgspec.structs.replace(
        worker,
        health=health,
        words=worker.words if health is WorkerHealth.FENCED else words,
        last_health_check=now,
        silent_since=since,
    )


def fenced(worker: Worker, words: str, now: float) -> Worker:
    """Return the worker after it refused a call because another coordinator of this pool has it."""
    return msgspec.structs.replace(
        worker, health=HEALTH[worker.health, "fenced"], words=words, last_health_check=now, silent_since=None
    )
