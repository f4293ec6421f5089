"""What the store without files keeps, and the parts of it that no job has to do with."""

from abc import ABC, abstractmethod

import msgspec

from trusted_pool.core.access import ApiKey
from trusted_pool.core.job import Job
from trusted_pool.core.worker import Worker
from trusted_pool.ports.store import Blob, Event, Idempotency, JobQuery, Result, Unit, Versioned
from trusted_pool.protocol.audit import AuditEntry
from trusted_pool.store.rows import worker_id_of


class Tables(msgspec.Struct, kw_only=True):
    """What is kept. The records are frozen, so shallow copies share them."""

    jobs: dict[str, Versioned] = {}
    events: list[Event] = []
    results: dict[str, Result] = {}
    blobs: dict[str, Blob] = {}
    refs: dict[tuple[str, str], int] = {}  #: size of the blobs that an owner's jobs refer to, by owner and digest
    keys: dict[tuple[str, str], Idempotency] = {}
    workers: dict[str, Worker] = {}
    virtual: dict[str, float] = {}  #: virtual time by owner
    settings: dict[str, str] = {}
    api_keys: dict[str, ApiKey] = {}
    key_uses: dict[str, float] = {}
    audit: dict[tuple[str, int], AuditEntry] = {}


class RareTables(ABC):
    """Settings, keys and the audit trail."""

    _tables: Tables

    @abstractmethod
    async def _alive(self) -> None:
        """Go on if this store still works."""

    def _put_rare(self, unit: Unit) -> None:
        tables = self._tables
        tables.api_keys |= {key.key_id: key for key in unit.api_keys}
        for key_id, at in unit.key_uses.items():
            tables.key_uses[key_id] = max(at, tables.key_uses.get(key_id, 0.0))
        tables.audit |= {(entry.chain, entry.seq): entry for entry in unit.audit}
        for name, value in unit.settings.items():
            if value is None:
                tables.settings.pop(name, None)
            else:
                tables.settings[name] = value

    async def settings(self) -> dict[str, str]:
        """Return all kept settings."""
        await self._alive()
        return dict(self._tables.settings)

    async def api_keys(self) -> list[tuple[ApiKey, float | None]]:
        """Load all keys ever made, oldest first, with the time each was last shown."""
        await self._alive()
        made = sorted(self._tables.api_keys.values(), key=lambda key: (key.created_at, key.key_id))
        return [(key, self._tables.key_uses.get(key.key_id)) for key in made]

    async def audit(self, chain: str, after: int, n: int) -> list[AuditEntry]:
        """Load up to n entries of a chain behind number `after`, in order."""
        await self._alive()
        found = sorted(seq for name, seq in self._tables.audit if name == chain and seq > after)
        return [self._tables.audit[chain, seq] for seq in found[: max(n, 0)]]

    async def audit_end(self, chain: str) -> AuditEntry | None:
        """Load the newest entry of a chain."""
        await self._alive()
        last = max((seq for name, seq in self._tables.audit if name == chain), default=None)
        return None if last is None else self._tables.audit[chain, last]


def in_turn(waiting: dict[str, list[Versioned]], virtual: dict[str, float]) -> list[Versioned]:
    """Return all of them as they are picked: each pick moves its owner on by 1."""
    turns = [
        (virtual.get(owner, 0.0) + pick, owner, row) for owner, rows in waiting.items() for pick, row in enumerate(rows)
    ]
    return [row for _, _, row in sorted(turns, key=lambda turn: turn[:2])]


def matches(job: Job, query: JobQuery) -> bool:
    """Whether a filter meets a job."""
    return (
        (not query.states or job.state in query.states)
        and (query.owner is None or job.owner == query.owner)
        and (query.worker_id is None or worker_id_of(job) == query.worker_id)
        and (query.name is None or job.name == query.name)
        and all(job.labels.get(name) == value for name, value in query.labels.items())
        and (query.since is None or job.submitted_at >= query.since)
        and (query.until is None or job.submitted_at < query.until)
    )
