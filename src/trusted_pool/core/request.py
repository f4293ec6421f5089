"""What a job needs (request), what a worker offers (capacity), and why the two do not fit."""

import hashlib
import re
from functools import lru_cache

import msgspec


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job needs of a worker; jobs with equal requests are of one shape."""

    interpreter: str
    memory_mb: int = 512
    cpus: float = 1
    disk_mb: int = 1024
    gpus: int = 0
    gpu_memory_mb: int = 0  #: of each of them
    gpu_device: int | None = None  #: this one of the worker's and no other
    cuda: str = ""  #: lowest version of CUDA that the worker's driver must support
    binds: tuple[str, ...] = ()  #: directories lent by the worker's operator, by name, sorted
    isolation: int = 0  #: lowest isolation level the owner accepts; 0 means any
    environment: str | None = None
    labels: dict[str, str] = {}  #: constraints: each must be equal on the worker
    workers: tuple[str, ...] = ()  #: when not empty, only these worker ids
    refused_by: tuple[str, ...] = ()  #: workers that said no to this job, sorted


class Gpu(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One GPU of a worker."""

    index: int  #: the number of its device
    memory_mb: int = 0  #: 0: its driver did not say
    name: str = ""


class Capacity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker offers, as it last said. None means that it has not said."""

    slots: int | None = None
    memory_mb: int | None = None
    cpus: float | None = None
    disk_mb: int | None = None
    gpus: tuple[Gpu, ...] | None = None
    cuda: str = ""  #: version of CUDA that its driver supports
    binds: tuple[str, ...] | None = None  #: names of the directories that its operator lends
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


_LATER = ("gpu_device", "cuda", "binds")


def shape_of(request: Request) -> str:
    """Name the class of all jobs with this request: 16 hex digits."""
    return _shape_of_text(msgspec.json.encode(request))


@lru_cache(maxsize=1024)
def _shape_of_text(text: bytes) -> str:
    """Name it by the request as JSON. A pool sees few requests, each of them often."""
    request = msgspec.json.decode(text, type=Request)
    # Every field is written: which defaults a struct leaves out depends on how it was made.
    fields = {**msgspec.structs.asdict(request), "cpus": float(request.cpus)}
    for name in _LATER:  # what came later is written only when it says something: shapes that are kept stay as they are
        if fields[name] in (None, "", ()):
            del fields[name]
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
    for code, message in _missing_equipment(request, capacity):
        no(code, message)
    if request.environment is not None and request.environment not in capacity.environments:
        no("environment", f"no environment {request.environment!r}")
    for name, value in sorted(request.labels.items()):
        if capacity.labels.get(name) != value:
            no("label", f"label {name} is {capacity.labels.get(name)!r}, the job asks for {value!r}")
    return found


def _missing_equipment(request: Request, capacity: Capacity) -> list[tuple[str, str]]:
    """Say which binds and GPUs are wanted and not there, as codes and messages."""
    found = []
    if capacity.binds is not None:
        found = [("bind", f"has no bind {name!r}") for name in request.binds if name not in capacity.binds]
    if not request.gpus or capacity.gpus is None:
        return found
    fitting = fitting_gpus(request, capacity)
    if len(fitting) < request.gpus:
        asked = f"{request.gpus}"
        if request.gpu_device is not None:
            asked = f"number {request.gpu_device}"
        if request.gpu_memory_mb:
            asked += f" with {request.gpu_memory_mb} MB"
        found.append(("gpus", f"has {len(capacity.gpus)} gpus, {len(fitting)} that fit; the job asks for {asked}"))
    wanted, has = cuda_number(request.cuda), cuda_number(capacity.cuda)
    if wanted is not None and (has is None or has < wanted):
        found.append(("cuda", f"its driver supports CUDA {capacity.cuda or 'of no version'}, not {request.cuda}"))
    return found


def fitting_gpus(request: Request, capacity: Capacity) -> list[int]:
    """Return the indexes of the GPUs that such a job may be given, the smallest first."""
    able = [
        (gpu.memory_mb, gpu.index)
        for gpu in capacity.gpus or ()
        if gpu.memory_mb >= request.gpu_memory_mb and request.gpu_device in (None, gpu.index)
    ]
    return [index for _, index in sorted(able)]


def cuda_number(version: str) -> tuple[int, ...] | None:
    """Read a version such as "12.2" so that versions can be compared; None when it is none."""
    if not re.fullmatch(r"\d{1,4}(\.\d{1,4}){0,2}", version, re.ASCII):
        return None
    return tuple(int(part) for part in version.split("."))
