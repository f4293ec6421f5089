"""Equipment: what a worker's operator lends beside processors, memory and disk. Directories (binds) and GPUs."""

import math
import re
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from trusted_pool.core.request import cuda_number
from trusted_pool.protocol.errors import BadManifestError

#: What a bind may be called. Its path in a job is `/binds/NAME`.
BIND_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")
BIND_NAME_WORDS = "lower-case letters, digits, '.', '_' and '-', at most 63"
BINDS = "/binds"
MAX_BINDS = 32
_MB_IN_GB = 1024


class GpuSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`gpu`: the fields of the sandrun manifest. Unless `required` is false, each asks for one GPU at least."""

    required: bool | None = None
    device_id: Annotated[int, Meta(ge=0, le=1023)] | None = None
    count: Annotated[int, Meta(ge=0, le=64)] = 0
    min_vram_gb: Annotated[float, Meta(ge=0, le=2**20)] = 0
    cuda_version: Annotated[str, Meta(max_length=32)] | None = None


class Gpus(msgspec.Struct, frozen=True, kw_only=True):
    """What a manifest asks for, in the words of a request."""

    count: int = 0
    memory_mb: int = 0  #: of each
    device: int | None = None  #: that one and no other
    cuda: str = ""  #: lowest version that the driver must support


def read_gpus(section: GpuSection | bool | None) -> Gpus:
    """Read the manifest's `gpu`.

    Raises:
        BadManifestError: its fields contradict each other, or a version is none.
    """
    if not isinstance(section, GpuSection):
        return Gpus(count=1 if section else 0)
    if section.required is False and section.count:
        raise BadManifestError("gpu: required is false, and count asks for gpus", hint="leave out one of them")
    if section.required is False or section == GpuSection():
        return Gpus()
    if section.device_id is not None and section.count > 1:
        raise BadManifestError(
            "gpu: device_id names one gpu, count asks for more", hint="leave out device_id, or count"
        )
    cuda = section.cuda_version or ""
    if cuda and cuda_number(cuda) is None:
        raise BadManifestError(f"gpu: cuda_version {cuda!r} is no version", hint='write it like "12.2"')
    return Gpus(
        count=max(1, section.count),
        memory_mb=math.ceil(section.min_vram_gb * _MB_IN_GB),
        device=section.device_id,
        cuda=cuda,
    )


def write_gpus(gpus: Gpus) -> dict[str, object]:
    """Write it as the manifest's `gpu` again."""
    fields: dict[str, object] = {"required": True, "count": gpus.count}
    if gpus.memory_mb:
        fields["min_vram_gb"] = gpus.memory_mb / _MB_IN_GB
    if gpus.device is not None:
        fields["device_id"] = gpus.device
    if gpus.cuda:
        fields["cuda_version"] = gpus.cuda
    return fields


def read_binds(names: Iterable[str]) -> list[str]:
    """Read the manifest's `binds`: each name once, sorted.

    Raises:
        BadManifestError: one is no name of a bind.
    """
    found = sorted(set(names))
    for name in found:
        if not BIND_NAME.match(name):
            raise BadManifestError(f"binds: {name[:80]!r} is no name of a bind", hint=f"it has {BIND_NAME_WORDS}")
    return found


def bind_variable(name: str) -> str:
    """The environment variable that tells a job where a bind is."""
    return "TRUSTED_POOL_BIND_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
