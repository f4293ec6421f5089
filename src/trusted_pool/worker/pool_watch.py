"""Whom the worker serves, kept true while it runs: its list is read again, a deleted enrolment is forgotten."""

import asyncio
import logging

from trusted_pool.worker.enrolment import PoolFile
from trusted_pool.worker.pool_list import Mark, PoolList, PoolListError
from trusted_pool.worker.pools import Pools

#: Between two looks. A change counts when two looks in a row have seen it, so that nothing half-written is read.
LOOK_S = 0.5

_log = logging.getLogger(__name__)


class PoolWatch:
    """Looks twice a second. It does so in a thread: a file may be on a network disk that hangs."""

    def __init__(self, pools: Pools, pool_list: PoolList | None, enrolment: PoolFile) -> None:
        self._pools = pools
        self._list = pool_list
        self._enrolment = enrolment
        self._seen: Mark = None
        self._read: Mark = None  #: none yet: what was read at start may have changed since
        self._now = asyncio.Event()

    def look_now(self) -> None:
        """Read the list at once, changed or not."""
        self._now.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._now.wait()
            except TimeoutError:
                pass
            told = self._now.is_set()
            self._now.clear()
            try:
                if self._list is not None:
                    await self._look(self._list, told=told)
                await self._look_for_enrolment()
            except Exception:  # noqa: BLE001 - whatever it is, the next change must be seen
                _log.exception("Looking at the pools stumbled and goes on")

    async def _look(self, pool_list: PoolList, *, told: bool) -> None:
        mark = await asyncio.to_thread(pool_list.mark)
        settled, self._seen = mark == self._seen, mark
        if not told and (mark == self._read or not settled):
            return
        self._read = mark  # what cannot be used is said once
        try:
            ids = await asyncio.to_thread(pool_list.read)
        except PoolListError as error:
            _log.error("%s; the pools stay as they were", error)
            return
        came, went = self._pools.relist(ids)
        changes = [*(f"{pool_id} is in" for pool_id in came), *(f"{pool_id} is out" for pool_id in went)]
        if changes or told:
            _log.warning("Read %s again: %s", pool_list.path, ", ".join(changes) or "the pools are the same")

    async def _look_for_enrolment(self) -> None:
        enrolled = self._pools.enrolled  # first: what is enrolled by now has its file
        if enrolled is not None and not await asyncio.to_thread(self._enrolment.is_there):
            self._pools.forget(enrolled)
