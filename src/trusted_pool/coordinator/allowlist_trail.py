"""What of the allowlist stands in the audit trail, and in the store beside it.

A command is written down before it is done, so that nothing is done that cannot be. What was changed by hand, or could
not be done after all, or was changed while nobody served, is the difference between what is listed and what the trail
knows: it is written down as soon as it is seen.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import msgspec

from trusted_pool.coordinator.audit import Audit
from trusted_pool.coordinator.tasks import Tasks
from trusted_pool.core.access import BY_CONSOLE, Access
from trusted_pool.core.worker import Worker
from trusted_pool.ports.store import Store, StoreError, Unit

_log = logging.getLogger(__name__)

LISTED = "allowlist"  #: the setting that keeps what the trail knows to be listed
STORE_PAUSE_S = 5.0

#: What is said of each worker, by its id.
Entries = dict[str, dict[str, Any]]


def entries_of(workers: Iterable[Worker]) -> Entries:
    """Return what an allowlist says of its workers, without what goes without saying."""
    entries: Entries = {}
    for worker in workers:
        facts: dict[str, Any] = {"endpoint": worker.endpoint}
        if worker.max_concurrent_jobs is not None:
            facts["max_concurrent_jobs"] = worker.max_concurrent_jobs
        if worker.labels:
            facts["labels"] = worker.labels
        if not worker.proven:
            facts["identity"] = "claimed"
        entries[worker.worker_id] = facts
    return entries


class Trail:
    """Brings the audit trail up to what is listed. Its user sees to it that its calls do not overlap."""

    def __init__(self, store: Store, audit: Audit, tasks: Tasks) -> None:
        self._store = store
        self._audit = audit
        self._tasks = tasks
        self.now: Entries = {}  #: what is listed
        self._told: Entries = {}  #: what the trail knows
        self._known = False  #: whether it knows anything: a new pool's first list is no change
        self._behind = False  #: somebody is at it
        self._writing = asyncio.Lock()

    async def start(self, listed: Iterable[Worker]) -> None:
        """Take up what is listed. Raises StoreError."""
        self.now = entries_of(listed)
        kept = (await self._store.settings()).get(LISTED)
        if kept is not None:
            self._told, self._known = msgspec.json.decode(kept, type=Entries), True
        self._later(BY_CONSOLE, "start", "allowlist.reload")

    async def intend_to_add(self, by: Access, worker: Worker) -> None:
        """Write down that a worker is about to be listed. Raises StoreError: then it must not be."""
        facts = entries_of([worker])[worker.worker_id]
        async with self._writing:
            told = {**self._base(), worker.worker_id: facts}
            await self._write(by, "allowlist.add", worker.worker_id, facts, told)

    async def intend_to_remove(self, by: Access, worker_id: str) -> None:
        """Write down that a worker is about to be removed. Raises StoreError: then it must not be."""
        async with self._writing:
            told = dict(self._base())
            facts = told.pop(worker_id, None) or self.now.get(worker_id, {})
            await self._write(by, "allowlist.remove", worker_id, facts, told)

    async def catch_up(self, by: Access, how: str, *, action: str = "allowlist.reload", always: bool = False) -> None:
        """Write down what is listed and was not known to be. While the store cannot keep it, that waits.

        `always`: though nothing has changed.
        """
        try:
            async with self._writing:
                await self._catch_up(by, how, action, always=always)
        except StoreError as error:
            _log.error("A change of the allowlist is not in the audit trail yet: %s", error)
            self._later(by, how, action)

    def _base(self) -> Entries:
        return self._told if self._known else self.now

    async def _catch_up(self, by: Access, how: str, action: str, *, always: bool) -> None:
        told, now = self._told, self.now
        if not self._known:
            await self._store.commit([Unit(settings=_kept(now))])
            self._told, self._known = now, True
            return
        facts: dict[str, Any] = {
            "added": {name: now[name] for name in now if name not in told},
            "removed": {name: told[name] for name in told if name not in now},
            "changed": {name: now[name] for name in now if name in told and now[name] != told[name]},
        }
        facts = {name: workers for name, workers in facts.items() if workers}
        if facts or always:
            await self._write(by, action, "", {"how": how, **facts}, now)

    async def _write(self, by: Access, action: str, subject: str, facts: dict[str, Any], told: Entries) -> None:
        await self._audit.commit(by, action, subject, facts, Unit(settings=_kept(told)))
        self._told, self._known = told, True

    def _later(self, by: Access, how: str, action: str) -> None:
        if not self._behind:
            self._behind = True
            self._tasks.spawn(self._until_told(by, how, action), "allowlist into the trail")

    async def _until_told(self, by: Access, how: str, action: str) -> None:
        while True:
            try:
                async with self._writing:
                    await self._catch_up(by, how, action, always=False)
            except StoreError:
                await asyncio.sleep(STORE_PAUSE_S)
            else:
                break
        self._behind = False


def _kept(entries: Entries) -> dict[str, str | None]:
    return {LISTED: msgspec.json.encode(entries).decode()}
