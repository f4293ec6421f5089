"""The guard before every route: only the newest coordinator of a pool that proved its key and is let in passes."""

import re
from collections.abc import Callable
from typing import Any

from litestar import Request
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from trusted_pool.ports.journal import JournalError
from trusted_pool.protocol.certificates import HANG_UP, PEER
from trusted_pool.protocol.errors import BadRequestError, ForbiddenError, PoolError, UnavailableError
from trusted_pool.protocol.messages import EPOCH_HEADER, POOL_HEADER
from trusted_pool.worker.api.failures import encode, headers_of
from trusted_pool.worker.api.standing import Standing
from trusted_pool.worker.pools import Pools

#: The route that checks the epoch by itself: it has to remember what it refuses.
SUBMIT = "/submit"

_POOL_HEADER = POOL_HEADER.encode()
_EPOCH_HEADER = EPOCH_HEADER.encode()
_NUMBER = re.compile(rb"\d{1,15}\Z")
_EPOCH = "epoch"  #: key in the request's `scope["state"]`


def guarded(app: ASGIApp, pools: Pools) -> ASGIApp:
    """Wrap an application. A request is judged anew each time, before a byte of its body is read."""
    standing = Standing(pools)

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        try:
            pool_id, epoch = await _judge(scope, pools)
        except PoolError as error:
            await _refuse(error, send)
            return
        state[_EPOCH] = epoch
        hang_up: Callable[[], None] = state.get(HANG_UP, _stay)
        with standing.answering(pool_id, epoch, hang_up):
            await app(scope, receive, send)

    return guard


async def _judge(scope: Any, pools: Pools) -> tuple[str, int | None]:
    """Return the pool that asks and the epoch that it says. Raises PoolError."""
    pool_id = pools.admit(scope["state"].get(PEER))
    headers = dict(scope["headers"])
    said = headers.get(_POOL_HEADER)
    if said is not None and said != pool_id.encode():
        raise ForbiddenError(
            f"the header {POOL_HEADER} names another pool than the key that was proven",
            hint=f"the key proves {pool_id}",
        )
    raw = headers.get(_EPOCH_HEADER)
    if raw is None:
        if scope["method"] == "POST":  # it changes something
            raise BadRequestError(
                f"the header {EPOCH_HEADER} is missing", hint="it says which of the pool's coordinators asks"
            )
        return pool_id, None
    if not _NUMBER.match(raw):
        raise BadRequestError(f"the header {EPOCH_HEADER} must be a number")
    epoch = int(raw)
    if scope["path"] != SUBMIT:
        try:
            await pools.check_epoch(pool_id, epoch)
        except JournalError as error:
            raise UnavailableError(f"the worker's journal failed: {error}", hint="see the worker's log") from error
        pools.check(pool_id, epoch)  # keeping it took its time
    return pool_id, epoch


def _stay() -> None:
    """Do nothing: there is no connection that could be ended."""


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


def epoch_of(request: Request[Any, Any, Any]) -> int:
    """Return the epoch that the pool's coordinator says; every request that changes something says one."""
    epoch: int = request.scope["state"][_EPOCH]
    return epoch
