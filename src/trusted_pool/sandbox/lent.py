"""Binds and GPUs, from the operator's word to what one job is given of them."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from trusted_pool.ports.sandbox import SandboxError, Task
from trusted_pool.protocol.equipment import BINDS
from trusted_pool.sandbox import binds as lent_binds
from trusted_pool.sandbox import gpus as lent_gpus
from trusted_pool.sandbox import policy, seccomp
from trusted_pool.sandbox.owner import Owner
from trusted_pool.sandbox.slots import Bind

_log = logging.getLogger(__name__)


class Equipment(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator lends. `private`: directories that no bind may show, beside the sandbox's own."""

    binds: Mapping[str, Path] = {}
    private: tuple[Path, ...] = ()
    gpus: bool = False
    gpu_devices: Path = lent_gpus.DEVICES
    nvml: str = lent_gpus.LIBRARY


class Lent:
    """What was found of it. `gpu_filter_fd`: the filter of jobs with a GPU; -1 where there is none."""

    def __init__(self) -> None:
        self.binds: dict[str, str] = {}
        self.gpus = lent_gpus.Found()
        self.gpu_filter: str | None = None  #: its name
        self.gpu_filter_fd = -1

    @classmethod
    async def make(cls, equipment: Equipment, root: Path) -> "Lent":
        """Check the binds and look for GPUs. Raises SandboxError."""
        lent = cls()
        lent.binds = lent_binds.resolve(equipment.binds, (*equipment.private, root))
        if equipment.gpus:
            lent.gpus = await asyncio.to_thread(lent_gpus.find, equipment.gpu_devices, equipment.nvml)
            if lent.gpus.words:
                _log.warning("GPUs: %s", lent.gpus.words)
        if lent.gpus.gpus:
            with contextlib.suppress(SandboxError):  # no job is filtered here, which is told elsewhere
                compiled = seccomp.compiled(gpu=True)
                lent.gpu_filter, lent.gpu_filter_fd = compiled.name, compiled.memfd()
        return lent

    def staged(self) -> list[Bind]:
        """Return the binds as a slot with a uid of its own must be shown them."""
        return [Bind(path, _staged(name), read_only=True) for name, path in self.binds.items()]

    async def require_readable(self, owner: Owner) -> None:
        """See that jobs will be able to look into the binds. Raises SandboxError."""
        for name, path in self.binds.items():
            try:
                fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise SandboxError(f"--bind {name}={path}: {error.strerror}") from None
            try:
                await owner.call(lent_binds.require_readable, name, path, fd)
            finally:
                os.close(fd)

    def why_not(self, task: Task, running: Iterable[Task]) -> str:
        """Say why a task cannot be given what it asks for; nothing when it can."""
        unknown = [name for name in task.manifest.binds if name not in self.binds]
        if unknown:
            return f"this worker has no bind {unknown[0]!r}"
        known = {gpu.index for gpu in self.gpus.gpus}
        if len(set(task.gpus)) != task.manifest.gpus.count or not known.issuperset(task.gpus):
            return f"the task was given gpus {task.gpus}; it asks for {task.manifest.gpus.count} of {sorted(known)}"
        taken = set(task.gpus) & {number for other in running for number in other.gpus}
        return f"gpu {min(taken)} is in use" if taken else ""

    def equipment(self, stage: str | None, binds: Sequence[str], gpus: Sequence[int]) -> policy.Equipment:
        """Return what one job is given, as its slot sees it."""
        outside = {name: f"{stage}/{_staged(name)}" if stage else self.binds[name] for name in binds}
        return policy.Equipment(
            binds=[(path, f"{BINDS}/{name}") for name, path in outside.items()],
            devices=self.gpus.files(gpus) if gpus else (),
        )

    def variables(self, binds: Sequence[str], gpus: Sequence[int]) -> dict[str, str]:
        """Tell a job what it was given."""
        return {**lent_binds.variables(binds), **(self.gpus.variables(gpus) if gpus else {})}

    def close(self) -> None:
        """Let go. Idempotent."""
        if self.gpu_filter_fd >= 0:
            os.close(self.gpu_filter_fd)
            self.gpu_filter_fd = -1


def _staged(name: str) -> str:
    return f"bind-{name}"
