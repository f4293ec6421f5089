"""Which worker gets a job: the one with the fewest active jobs among those that can run it now."""

import msgspec

from trusted_pool.core.request import Obstacle, Request, obstacles
from trusted_pool.core.words import Duty, WorkerHealth
from trusted_pool.core.worker import Worker


class Load(msgspec.Struct, kw_only=True):
    """What a worker's slots hold now. Mutable: the dispatcher counts as it places."""

    active: int = 0
    memory_mb: int = 0
    gpus: int = 0
    last_used: int = 0  #: a counter of placements; the lower, the longer ago

    def take(self, request: Request, tick: int) -> None:
        """Count one more job."""
        self.active += 1
        self.memory_mb += request.memory_mb
        self.gpus += request.gpus
        self.last_used = max(self.last_used, tick)

    def free(self, request: Request) -> None:
        """Count one job less."""
        self.active -= 1
        self.memory_mb -= request.memory_mb
        self.gpus -= request.gpus


def why_not(request: Request, worker: Worker, load: Load) -> list[Obstacle]:
    """Say all that keeps the worker from taking such a job now; empty when it can."""
    found = obstacles(request, worker.offer, worker.worker_id)

    def later(code: str, message: str) -> None:
        found.append(Obstacle(code, message, impossible=False))

    if worker.health is not WorkerHealth.HEALTHY:
        later("health", f"it is {worker.health}" + (f": {worker.words}" if worker.words else ""))
    if worker.duty is not Duty.ACTIVE:
        later("duty", f"it is {worker.duty}")
    if worker.leaving:
        later("leaving", "it finishes what it has and goes")
    if load.active >= worker.slots:
        later("slots", f"all {worker.slots} slots are taken")
    memory = worker.capacity.memory_mb
    if memory is not None and load.active and load.memory_mb + request.memory_mb > memory:
        later("memory_taken", f"{memory - load.memory_mb} of {memory} MB of memory are free")
    gpus = worker.capacity.gpus
    if request.gpus and gpus is not None and load.gpus and load.gpus + request.gpus > len(gpus):
        later("gpus_taken", f"{len(gpus) - load.gpus} of {len(gpus)} gpus are free")
    return found


def choose(request: Request, pool: list[tuple[Worker, Load]]) -> Worker | None:
    """Return the worker for such a job, or None: fewest active jobs; ties by the longest unused."""
    able = [(load.active, load.last_used, worker.worker_id, worker) for worker, load in pool
            if not why_not(request, worker, load)]  # fmt: skip
    return min(able)[3] if able else None


def could_ever(request: Request, workers: list[Worker]) -> bool:
    """Whether some worker of the allowlist might run such a job one day, by its last known capacity."""
    return any(not obstacles(request, worker.offer, worker.worker_id) for worker in workers)
