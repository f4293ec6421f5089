"""The coordinator's ports in the simulation: the memory store, watched, and ports that pass through the process."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from simulation.engine.ledger import Ledger
from trusted_pool.ports.store import Committed, Unit
from trusted_pool.store.memory import MemoryStore, Tables


class SimStore(MemoryStore):
    """Shows every kept unit to the ledger."""

    def __init__(self, ledger: Ledger, tables: Tables | None = None) -> None:
        super().__init__(syncs=True, tables=tables)
        self._ledger = ledger
        ledger.jobs = lambda: {name: row.job for name, row in self._tables.jobs.items()}

    def _apply(self, unit: Unit) -> Committed:
        row = self._tables.jobs.get(unit.job.job_id) if unit.job else None
        committed = super()._apply(unit)
        if committed.ok:
            self._ledger.committed(row.job if row else None, unit)
        return committed

    def crashed(self, kept: int) -> "SimStore":
        """Go dead; return what the next process finds."""
        return SimStore(self._ledger, self.crash(kept)._tables)


class Port:
    """Any port, with an extra turn before and after each call, in which a crash or another task may come.

    `fault` is asked before each call and may raise what the port raises.
    """

    def __init__(self, inner: Any, fault: Callable[[str], None] = lambda _: None) -> None:
        self.__dict__.update(inner=inner, fault=fault)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.inner, name, value)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name == "stage" or not asyncio.iscoroutinefunction(found):  # nobody else could end a stage that is lost
            return found

        async def call(*args: Any, **options: Any) -> Any:
            self.fault(name)
            await asyncio.sleep(0)
            answer = await found(*args, **options)
            await asyncio.sleep(0)
            return answer

        return call


class Listening:
    """The coordinator's store, heard in the instant in which it is told to commit."""

    def __init__(self, inner: Any, ledger: Ledger, listed: Callable[[str], bool]) -> None:
        self._inner = inner
        self._ledger = ledger
        self._listed = listed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def commit(self, units: Sequence[Unit]) -> list[Committed]:
        """Commit, unless it is somebody's word who is nobody."""
        for unit in units:
            self._ledger.told(unit, self._listed)
        return list(await self._inner.commit(units))
