"""Routes about who may use the pool, and about what was done with it: keys, the audit trail."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import Parameter
from litestar.response import Stream

from trusted_pool.coordinator.service import Coordinator
from trusted_pool.core.access import KeyWish, Role, Scope
from trusted_pool.protocol.answers import (
    AuditAnswer,
    KeyAnswer,
    KeysAnswer,
    NewKeyAnswer,
    WhoAnswer,
)
from trusted_pool.protocol.manifest import duration_s
from trusted_pool.web.caller import ADMIN, ADMIN_OF_ALL, VIEWER, caller_of
from trusted_pool.web.describe import fails, sends

Req = Request[Any, Any, Any]

MAX_PAGE = 1000


class KeyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `POST /keys`."""

    owner: str
    role: Role = Role.SUBMITTER
    scope: Scope | None = None  #: own for viewers and submitters, all for operators and admins
    name: str = ""
    expires_in: float | str | None = None  #: a duration, as `30d`


def access_routes(coordinator: Coordinator) -> list[HTTPRouteHandler]:
    """Return the routes, bound to a coordinator."""

    @get("/whoami", summary="Who the key belongs to", opt=VIEWER)
    async def whoami(request: Req) -> WhoAnswer:
        """And what it may."""
        access = caller_of(request).access
        return WhoAnswer(
            owner=access.owner,
            role=access.role,
            scope=access.scope,
            key_id=access.key_id or None,
            expires_at=access.expires_at,
        )

    @get("/keys", summary="All API keys", opt=ADMIN)
    async def keys() -> KeysAnswer:
        """Oldest first, those that open nothing any more too. No answer but the first one holds a key itself."""
        return KeysAnswer(keys=coordinator.keys.view())

    @post("/keys", status_code=200, summary="Make an API key", opt=ADMIN | fails(409))
    async def create(request: Req, data: KeyBody) -> NewKeyAnswer:
        """The key is in this answer and nowhere else."""
        wish = KeyWish(
            owner=data.owner,
            role=data.role,
            scope=data.scope,
            name=data.name,
            expires_in_s=None if data.expires_in is None else duration_s(data.expires_in, "expires_in"),
        )
        return await coordinator.keys.create(caller_of(request).access, wish)

    @post("/keys/{key_id:str}/revoke", status_code=200, summary="Revoke an API key", opt=ADMIN | fails(409))
    async def revoke(request: Req, key_id: str) -> KeyAnswer:
        """It opens nothing any more, on kept connections either."""
        return await coordinator.keys.revoke(caller_of(request).access, key_id)

    @get("/audit", summary="Who did what", opt=ADMIN_OF_ALL)
    async def audit(
        after: Annotated[int, Parameter(ge=0)] = 0, limit: Annotated[int, Parameter(ge=1, le=MAX_PAGE)] = 100
    ) -> AuditAnswer:
        """Oldest first; `after` is the number of the last entry that is known."""
        entries = await coordinator.audit.page(after, limit)
        return AuditAnswer(entries=entries, head=coordinator.audit.head())

    @get("/audit/export", summary="The whole audit trail", opt=ADMIN_OF_ALL | sends("application/x-ndjson"))
    async def export() -> Stream:
        """One JSON object a line, the signed head last."""
        head = coordinator.audit.head()

        async def lines() -> AsyncIterator[bytes]:
            async for entry in coordinator.audit.entries():
                if entry.seq > head.seq:
                    break
                yield msgspec.json.encode(entry) + b"\n"
            yield msgspec.json.encode(head) + b"\n"

        headers = {"Content-Disposition": 'attachment; filename="audit.jsonl"'}
        return Stream(lines(), media_type="application/x-ndjson", headers=headers)

    return [whoami, keys, create, revoke, audit, export]
