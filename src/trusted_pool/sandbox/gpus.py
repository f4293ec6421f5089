"""Which GPUs this machine has, and which device files a job needs for those that it is given.

NVIDIA's own library (NVML) says what they are, through ctypes: eight functions of an interface that has been stable
for a decade are no reason for a dependency. Where it is not installed, the device files alone tell how many there are.
"""

import contextlib
import ctypes
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from trusted_pool.core.request import Gpu

LIBRARY = "libnvidia-ml.so.1"
DEVICES = Path("/dev")
_MB = 1024 * 1024
_TEXT_BYTES = 96  #: what the library's names and ids fit in
#: Device files that every job with a GPU needs, when they are there.
_SHARED = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
_NUMBERED = re.compile(r"nvidia(\d{1,4})\Z")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `words`: what is wrong, for the worker's log."""

    gpus: tuple[Gpu, ...] = ()
    cuda: str = ""
    uuids: dict[int, str] = {}
    devices: str = str(DEVICES)
    words: str = ""

    def files(self, indexes: Iterable[int]) -> list[tuple[str, str]]:
        """Return the device files for these GPUs, each with its place in the sandbox."""
        names = [*(name for name in _SHARED if Path(self.devices, name).exists()), *(f"nvidia{n}" for n in indexes)]
        return [(f"{self.devices}/{name}", f"/dev/{name}") for name in names]

    def variables(self, indexes: Iterable[int]) -> dict[str, str]:
        """Tell a job which GPUs are its own. CUDA counts them from 0, whatever their numbers are."""
        chosen = list(indexes)
        visible = [self.uuids.get(n, str(place)) for place, n in enumerate(chosen)]
        return {"TRUSTED_POOL_GPUS": ",".join(map(str, chosen)), "CUDA_VISIBLE_DEVICES": ",".join(visible)}


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _NvmlError(Exception):
    """The library said no."""


def find(devices: Path = DEVICES, library: str = LIBRARY) -> Found:
    """Look for GPUs. Blocks: the first look at a sleeping driver takes seconds. Raises nothing.

    `devices`: the directory of their device files.
    """
    try:
        numbers = sorted(int(m[1]) for m in (_NUMBERED.match(path.name) for path in devices.iterdir()) if m)
    except OSError as error:
        return Found(words=f"no GPU was looked for: {devices}: {error.strerror}")
    if not numbers:
        return Found()
    bare = Found(gpus=tuple(Gpu(index=n) for n in numbers), devices=str(devices))
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return msgspec.structs.replace(bare, words=f"{library} cannot be loaded: the GPUs' memory is not known")
    try:
        return _ask(nvml, set(numbers), str(devices))
    except (_NvmlError, AttributeError) as error:
        # A driver that cannot answer cannot run a job either.
        return Found(words=f"the {len(numbers)} GPUs are not offered: {library}: {error}")


def _ask(nvml: Any, numbers: set[int], devices: str) -> Found:
    _call(nvml, "nvmlInit_v2")
    try:
        count, version = ctypes.c_uint(), ctypes.c_int()
        _call(nvml, "nvmlDeviceGetCount_v2", ctypes.byref(count))
        _call(nvml, "nvmlSystemGetCudaDriverVersion_v2", ctypes.byref(version))
        gpus, uuids = [], {}
        for place in range(count.value):
            handle, minor, memory = ctypes.c_void_p(), ctypes.c_uint(), _Memory()
            name, uuid = ctypes.create_string_buffer(_TEXT_BYTES), ctypes.create_string_buffer(_TEXT_BYTES)
            _call(nvml, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(place), ctypes.byref(handle))
            _call(nvml, "nvmlDeviceGetMinorNumber", handle, ctypes.byref(minor))
            with contextlib.suppress(_NvmlError):  # those that share the machine's memory have none of their own
                _call(nvml, "nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
            _call(nvml, "nvmlDeviceGetName", handle, name, ctypes.c_uint(_TEXT_BYTES))
            _call(nvml, "nvmlDeviceGetUUID", handle, uuid, ctypes.c_uint(_TEXT_BYTES))
            if minor.value in numbers:  # a container may see fewer devices than the driver has
                label = name.value.decode(errors="replace")
                gpus.append(Gpu(index=minor.value, memory_mb=memory.total // _MB, name=label))
                uuids[minor.value] = uuid.value.decode(errors="replace")
    finally:
        nvml.nvmlShutdown()
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Found(gpus=tuple(sorted(gpus, key=lambda gpu: gpu.index)), cuda=cuda, uuids=uuids, devices=devices)


def _call(nvml: Any, function: str, *args: Any) -> None:
    code = getattr(nvml, function)(*args)
    if code != 0:
        raise _NvmlError(f"{function} failed with {code}")
