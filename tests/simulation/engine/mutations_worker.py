"""Deliberate bugs of the worker."""

import asyncio
from typing import Any

import msgspec

from simulation.engine.mutant import Patches, mutant
from trusted_pool.core.words import AttemptState, OnWorkerLoss
from trusted_pool.journal.memory import MemoryJournal
from trusted_pool.ports.journal import Entry
from trusted_pool.protocol.manifest import parse, resolve
from trusted_pool.worker.admission import Admission, Over
from trusted_pool.worker.attempts import Attempts
from trusted_pool.worker.bell import Bell
from trusted_pool.worker.slots import Slots


@mutant("started twice", "too many starts")
def the_worker_forgets_what_it_was_sent() -> Patches:
    """The same attempt again is a new one."""

    async def admit(self: Attempts, key: Any) -> Admission:
        while (pending := self._pending.get(key)) is not None:
            await asyncio.wait({pending})
        slot = self._slots.take()
        self._pending[key] = asyncio.get_running_loop().create_future()
        return Admission(key, slot)

    async def accept(self: MemoryJournal, entry: Entry, kind: str | None = None) -> Entry:
        kept = await self._turn()
        kept.entries[entry.remote_id] = entry
        await self.put(entry, kind)
        return entry

    return {(Attempts, "admit"): admit, (MemoryJournal, "accept"): accept}


@mutant("started twice", "too many starts")
def a_released_attempt_is_forgotten() -> Patches:
    """A late copy of a submit finds nothing that reminds of it."""
    return {(Over, "add"): lambda *_: None}


@mutant("slots")
def the_worker_frees_a_slot_twice() -> Patches:
    """Two programs get the same slot."""
    real = Slots.give_back

    def give_back(self: Slots, slot: int) -> None:
        real(self, slot)
        self._free.append(slot)

    return {(Slots, "give_back"): give_back}


@mutant("started twice", "too many starts")
def the_worker_runs_interrupted_attempts_again() -> Patches:
    """After a restart it goes on as if nothing had been."""
    real = Attempts.start

    async def start(self: Attempts) -> None:
        before = [e for e in await self.journal.entries() if e.state is AttemptState.RUNNING]
        await real(self)
        for entry in before[:1]:
            resolved = resolve(parse(entry.manifest.encode()), {f.name for f in entry.inputs}, OnWorkerLoss.RETRY)
            resolved = msgspec.structs.replace(resolved)
            again = msgspec.structs.replace(entry, inputs=())
            self._entries[entry.remote_id] = again
            self._log_bells[entry.remote_id] = Bell()
            self._spawn(self._run(again, resolved, self._slots.take()))

    return {(Attempts, "start"): start}
