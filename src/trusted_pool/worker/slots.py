"""The worker's slots: which are free, and how much memory and disk those that run were promised."""

import msgspec

from trusted_pool.core.request import Capacity, fitting_gpus, obstacles
from trusted_pool.ports.sandbox import Sandbox
from trusted_pool.protocol.errors import BusyError, PoolError
from trusted_pool.protocol.manifest import Resolved

#: What a submit that finds no room is told to wait. Slots free up at any moment.
RETRY_AFTER_S = 1.0


class Slots:
    """Numbers from 0 to slots - 1, each of which one attempt holds at a time."""

    def __init__(self, capacity: Capacity, worker_id: str, sandbox: Sandbox | None = None) -> None:
        """`sandbox`: is asked how much disk there is; None: nobody asks for disk yet."""
        self.capacity = capacity  #: as last measured
        self._sandbox = sandbox
        self._worker_id = worker_id
        self.total = capacity.slots or 1
        self._free = list(range(self.total))
        self._promised_mb: dict[int, int] = {}
        self._promised_disk_mb: dict[int, int] = {}
        self._gpus: dict[int, tuple[int, ...]] = {}

    @property
    def taken(self) -> int:
        """How many are held."""
        return self.total - len(self._free)

    def take(self) -> int:
        """Return a free slot. Raises BusyError."""
        if not self._free:
            raise BusyError("all slots are taken", hint="send it again later", retry_after_s=RETRY_AFTER_S)
        return self._free.pop(0)

    def give_back(self, slot: int) -> None:
        """Free a slot and what was promised with it."""
        self._promised_mb.pop(slot, None)
        self._promised_disk_mb.pop(slot, None)
        self._gpus.pop(slot, None)
        self._free.append(slot)

    def gpus(self, slot: int) -> tuple[int, ...]:
        """Return the numbers of the GPUs that were promised with a slot."""
        return self._gpus.get(slot, ())

    def promise(self, slot: int, resolved: Resolved) -> None:
        """Promise a job what it asks for.

        Raises:
            BusyError: too little memory or disk is free just now, or too few GPUs.
            PoolError: 422, this worker could never run it.
        """
        # The pool may lay labels of its own over the worker's, so they are not judged here.
        request = msgspec.structs.replace(resolved.request, labels={})
        found = obstacles(request, self.capacity, self._worker_id)
        if found:
            raise PoolError(
                f"this worker cannot run it: {'; '.join(o.message for o in found)}",
                status=422,
                code="unplaceable",
                hint="ask for less, or send it to another worker",
            )
        has, given = self.capacity.memory_mb, sum(self._promised_mb.values())
        if has is not None and given and given + resolved.memory_mb > has:
            raise BusyError(f"{has - given} of {has} MB of memory are free", retry_after_s=RETRY_AFTER_S)
        if self.capacity.disk_mb is not None and self._sandbox is not None:
            left = max(0, self._sandbox.disk_there_mb() - sum(self._promised_disk_mb.values()))
            if resolved.disk_mb > left:
                raise BusyError(
                    f"{left} of {self.capacity.disk_mb} MB of disk are free; it asks for {resolved.disk_mb}",
                    hint="send it again later, or lower disk_mb in the manifest",
                    retry_after_s=RETRY_AFTER_S,
                )
        if request.gpus:
            taken = {number for numbers in self._gpus.values() for number in numbers}
            free = [number for number in fitting_gpus(request, self.capacity) if number not in taken]
            if len(free) < request.gpus:
                raise BusyError(
                    f"{len(free)} gpus that fit are free; it asks for {request.gpus}", retry_after_s=RETRY_AFTER_S
                )
            self._gpus[slot] = tuple(sorted(free[: request.gpus]))
        self._promised_mb[slot] = resolved.memory_mb
        self._promised_disk_mb[slot] = resolved.disk_mb
