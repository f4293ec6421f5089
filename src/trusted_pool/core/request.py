"""What a job needs (request), what a worker offers (capacity), and why the two do not fit."""

import hashlib
from functools import lru_cache

import msgspec


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job needs of a worker; jobs with equal requests are of one shape."""

    interpreter: str
    memory_mb: int = 512
    cpus: float = 1
    disk_mb: int = 1024
    gpus: int = 0
    gpu_memory_mb: int = 0
    isolation: int = 0  #: lowest isolation level the owner accepts; 0 means any
    environment: str | None = None
    labels: dict[str, str] = {}  #: constraints: each must be equal on the worker
    workers: tuple[str, ...] = ()  #: when not empty, only these worker ids
    refused_by: tuple[str, ...] = ()  #: workers that said no to this job, sorted


class Capacity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker offers, as it last said. None means that it has not said."""

    slots: int | None = None
    memory_mb: int | None = None
    cpus: float | None = None
    disk_mb: int | None = None
    gpus: int = 0
    gpu_memory_mb: int = 0
    interpreters: dict[str, str] | None = None  #: name → version
    environments: tuple[str, ...] = ()
    isolation: int | None = None
    policy: str | None = None  #: name of what it lays on jobs: equal names hold them in the same way
    seccomp: str | None = None  #: name of its filter of system calls
    labels: dict[str, str] = {}


class Obstacle(msgspec.Struct, frozen=True):
    """One reason why a worker cannot take a job.

    `impossible` tells *impossible here* from *no capacity now*.
    """

    code: str
    message: str
    impossible: bool


def shape_of(request: Request) -> str:
    """Name the class of all jobs with this request: 16 hex digits."""
    return _shape_of_text(msgspec.json.encode(request))


@lru_cache(maxsize=1024)
def _shape_of_text(text: bytes) -> str:
    """Name it by the request as JSON. A pool sees few requests, each of them often."""
    request = msgspec.json.decode(text, type=Request)
    # Every field is written: which defaults a struct leaves out depends on how it was made.
    fields = {**msgspec.structs.asdict(request), "cpus": float(request.cpus)}
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()[:16]


def obstacles(request: Request, capacity: Capacity, worker_id: str) -> list[Obstacle]:
    """Say all that keeps a worker of this capacity from ever running a job with this request.

    What the worker has not said is no obstacle: it might be able to.
    """
    found: list[Obstacle] = []

    def no(code: str, message: str) -> None:
        found.append(Obstacle(code, message, impossible=True))

    if request.workers and worker_id not in request.workers:
        no("other_worker", "the job asks for another worker")
    if worker_id in request.refused_by:
        no("refused", "it refused this job")
    offered = capacity.interpreters
    if offered is not None and request.interpreter not in offered:
        no("interpreter", f"no {request.interpreter} (it has {', '.join(sorted(offered)) or 'none'})")
    amounts = (
        ("memory", request.memory_mb, capacity.memory_mb, "MB of memory"),
        ("cpus", request.cpus, capacity.cpus, "cpus"),
        ("disk", request.disk_mb, capacity.disk_mb, "MB of disk"),
        ("gpus", request.gpus, capacity.gpus, "gpus"),
        ("gpu_memory", request.gpu_memory_mb, capacity.gpu_memory_mb, "MB of gpu memory"),
        ("isolation", -(capacity.isolation or 0), -request.isolation, ""),
    )
    for code, wanted, has, unit in amounts:
        if has is None or wanted <= has:
            continue
        if code == "isolation":
            if capacity.isolation is not None:
                no(code, f"isolation level {capacity.isolation}, the job asks for {request.isolation}")
        else:
            no(code, f"has {has:g} {unit}, the job asks for {wanted:g}")
    if request.environment is not None and request.environment not in capacity.environments:
        no("environment", f"no environment {request.environment!r}")
    for name, value in sorted(request.labels.items()):
        if capacity.labels.get(name) != value:
            no("label", f"label {name} is {capacity.labels.get(name)!r}, the job asks for {value!r}")
    return found
