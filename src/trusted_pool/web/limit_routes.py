"""Routes about what owners have of the pool, and what they may have."""

from typing import Annotated, Any

import msgspec
from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler

from trusted_pool.coordinator.service import Coordinator
from trusted_pool.core.access import Scope
from trusted_pool.protocol.answers import LimitsAnswer, UsageAnswer, UsagesAnswer
from trusted_pool.protocol.errors import BadRequestError, ForbiddenError
from trusted_pool.protocol.limits import MOST
from trusted_pool.web.caller import ADMIN, VIEWER, caller_of

Req = Request[Any, Any, Any]

Amount = Annotated[int, msgspec.Meta(ge=0, le=MOST)] | None


class LimitsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `POST /limits/{owner}`. What is left out stays as it is; null: as usual; 0: no limit."""

    queued: Amount | msgspec.UnsetType = msgspec.UNSET
    running: Amount | msgspec.UnsetType = msgspec.UNSET
    bytes: Amount | msgspec.UnsetType = msgspec.UNSET
    submits_per_minute: Amount | msgspec.UnsetType = msgspec.UNSET
    transfers: Amount | msgspec.UnsetType = msgspec.UNSET
    waits: Amount | msgspec.UnsetType = msgspec.UNSET


def limit_routes(coordinator: Coordinator) -> list[HTTPRouteHandler]:
    """Return the routes, bound to a coordinator."""

    @get("/usage", summary="What an owner has of the pool, and may have", opt=VIEWER)
    async def usage(request: Req, owner: str | None = None, all: bool = False) -> UsagesAnswer:  # noqa: A002 - its name on the wire
        """Of the one who asks; of another, or of all, for those who see everybody's jobs."""
        access = caller_of(request).access
        if access.scope is not Scope.ALL and (all or owner not in (None, access.owner)):
            raise ForbiddenError(
                f"this is about others, and the key of {access.owner!r} reaches its own jobs only",
                hint="see your own: tpool usage",
            )
        if all:
            return UsagesAnswer(owners=await coordinator.read.usages())
        return UsagesAnswer(owners=[await coordinator.read.usage(owner or access.owner)])

    @get("/limits", summary="What owners may have", opt=ADMIN)
    async def limits() -> LimitsAnswer:
        """The usual limits, and those that were set for one owner in place of them."""
        return LimitsAnswer(usual=coordinator.limits.usual, owners=dict(coordinator.limits.changes))

    @post("/limits/{owner:str}", status_code=200, summary="Set an owner's limits", opt=ADMIN)
    async def set_limits(request: Req, owner: str, data: LimitsBody) -> UsageAnswer:
        """From now on; what is there already stays. Kept over restarts."""
        said = {name: value for name, value in msgspec.structs.asdict(data).items() if value is not msgspec.UNSET}
        if not said:
            raise BadRequestError("no limit is said", hint='say one: {"queued": 100}; null is the usual one, 0 is none')
        await coordinator.limits.set(caller_of(request).access, owner, said)
        return await coordinator.read.usage(owner)

    return [usage, limits, set_limits]
