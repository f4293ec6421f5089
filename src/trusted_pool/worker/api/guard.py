"""The guard before every route: only a pool that proved its key and is listed here gets in."""

from typing import Any

from litestar import Request
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from trusted_pool.protocol.certificates import PEER
from trusted_pool.protocol.errors import ForbiddenError, PoolError
from trusted_pool.protocol.messages import POOL_HEADER
from trusted_pool.worker.api.failures import encode, headers_of
from trusted_pool.worker.pools import Pools

_POOL_HEADER = POOL_HEADER.encode()


def guarded(app: ASGIApp, pools: Pools) -> ASGIApp:
    """Wrap an application. A request is judged anew each time, before a byte of its body is read."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        try:
            pool_id = pools.admit(scope.get("state", {}).get(PEER))
            said = dict(scope["headers"]).get(_POOL_HEADER)
            if said is not None and said != pool_id.encode():
                raise ForbiddenError(
                    f"the header {POOL_HEADER} names another pool than the key that was proven",
                    hint=f"the key proves {pool_id}",
                )
        except PoolError as error:
            await _refuse(error, send)
            return
        await app(scope, receive, send)

    return guard


async def _refuse(error: PoolError, send: Send) -> None:
    body = encode(error.body)
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    raw = [(k.lower().encode(), v.encode()) for k, v in (headers | headers_of(error)).items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def pool_of(request: Request[Any, Any, Any]) -> str:
    """Return the pool that asks."""
    pool_id: str = request.scope["state"][PEER]
    return pool_id
