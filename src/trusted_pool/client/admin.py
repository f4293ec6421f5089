"""Calls about who may use the pool and what was done with it; part of the client."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import quote

from trusted_pool.client.transport import Params, Transport
from trusted_pool.core.access import Role, Scope
from trusted_pool.protocol.answers import (
    AuditAnswer,
    KeyAnswer,
    KeysAnswer,
    LimitsAnswer,
    NewKeyAnswer,
    ReloadAnswer,
    RemovedAnswer,
    UsageAnswer,
    UsagesAnswer,
    WhoAnswer,
    WorkerAnswer,
)
from trusted_pool.protocol.identity import to_path


class Admin:
    """What an admin asks, and who one is."""

    _transport: Transport

    async def whoami(self) -> WhoAnswer:
        """Ask whose key is shown and what it may."""
        return await self._transport.ask("GET", "/whoami", WhoAnswer)

    async def keys(self) -> KeysAnswer:
        """List all API keys, without themselves."""
        return await self._transport.ask("GET", "/keys", KeysAnswer)

    async def create_key(
        self,
        owner: str,
        role: Role = Role.SUBMITTER,
        *,
        scope: Scope | None = None,
        name: str = "",
        expires_in: str | float | None = None,
    ) -> NewKeyAnswer:
        """Make an API key. The answer is the only place where it ever stands."""
        given = {"owner": owner, "role": role, "scope": scope, "name": name, "expires_in": expires_in}
        body: dict[str, Any] = {"json": {name: value for name, value in given.items() if value is not None}}
        return await self._transport.ask("POST", "/keys", NewKeyAnswer, body=body)

    async def revoke_key(self, key_id: str) -> KeyAnswer:
        """Let a key open nothing any more."""
        return await self._transport.ask("POST", f"/keys/{quote(key_id, safe='')}/revoke", KeyAnswer)

    async def usage(self, owner: str | None = None, *, everybody: bool = False) -> UsagesAnswer:
        """Ask what an owner has of the pool and may have: the one who asks, if not said."""
        params: Params = ({"owner": owner} if owner else {}) | ({"all": "true"} if everybody else {})
        return await self._transport.ask("GET", "/usage", UsagesAnswer, params=params)

    async def limits(self) -> LimitsAnswer:
        """Ask what owners may have."""
        return await self._transport.ask("GET", "/limits", LimitsAnswer)

    async def set_limits(self, owner: str, limits: Mapping[str, int | None]) -> UsageAnswer:
        """Set some of an owner's limits, by their fields in `Limits`. None: the usual one; 0: no limit."""
        path = f"/limits/{quote(owner, safe='')}"
        return await self._transport.ask("POST", path, UsageAnswer, body={"json": dict(limits)})

    async def audit(self, *, after: int = 0, limit: int = 100) -> AuditAnswer:
        """Ask for entries of the audit trail behind number `after`, oldest first."""
        params: Params = {"after": after, "limit": limit}
        return await self._transport.ask("GET", "/audit", AuditAnswer, params=params)

    async def export_audit(self) -> AsyncGenerator[bytes, None]:
        """Yield the whole audit trail as it is exported: one JSON object a line, the signed head last."""
        async with self._transport.stream("GET", "/audit/export", headers={"Accept": "*/*"}) as response:
            async for piece in response.aiter_bytes():
                yield piece

    async def add_worker(
        self,
        worker_id: str,
        endpoint: str,
        *,
        slots: int | None = None,
        labels: Mapping[str, str] | None = None,
        claimed: bool = False,
    ) -> WorkerAnswer:
        """List one more worker. `claimed`: it cannot prove its key, and is trusted by name."""
        body: dict[str, Any] = {"worker_id": worker_id, "endpoint": endpoint}
        if slots is not None:
            body["max_concurrent_jobs"] = slots
        if labels:
            body["labels"] = dict(labels)
        if claimed:
            body["identity"] = "claimed"
        return await self._transport.ask("POST", "/workers", WorkerAnswer, body={"json": body})

    async def remove_worker(self, worker_id: str) -> RemovedAnswer:
        """Take a worker off the list, at once."""
        path = f"/workers/{quote(to_path(worker_id), safe='')}/remove"
        return await self._transport.ask("POST", path, RemovedAnswer)

    async def reload_workers(self) -> ReloadAnswer:
        """Have the allowlist's file read again."""
        return await self._transport.ask("POST", "/workers/reload", ReloadAnswer)
