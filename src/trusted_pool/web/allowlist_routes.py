"""Routes about who may be a worker: add, remove, read the file again."""

from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, post
from litestar.handlers import HTTPRouteHandler

from trusted_pool.coordinator.entries import MAX_SLOTS
from trusted_pool.coordinator.removal import Left
from trusted_pool.coordinator.service import Coordinator
from trusted_pool.protocol.answers import LeftJobs, ReloadAnswer, RemovedAnswer, WorkerAnswer
from trusted_pool.protocol.errors import BadRequestError, ConflictError, NotFoundError
from trusted_pool.protocol.identity import IdentityError, from_path
from trusted_pool.web.caller import ADMIN, caller_of
from trusted_pool.web.describe import fails

Req = Request[Any, Any, Any]

MIN_PREFIX = 4


class EntryBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Body of `POST /workers`: an entry of `workers.json`."""

    worker_id: str
    endpoint: str
    max_concurrent_jobs: Annotated[int, msgspec.Meta(ge=1, le=MAX_SLOTS)] | None = None
    labels: dict[str, str] = {}
    identity: Literal["proven", "claimed"] = "proven"


def worker_named(coordinator: Coordinator, text: str) -> str:
    """Return the id of the worker that is meant by its URL-safe id, or by the beginning of it."""
    try:
        return from_path(text)
    except IdentityError as error:
        plain = text.rstrip("=").replace("-", "+").replace("_", "/")
        meant = [w.worker_id for w in coordinator.roster.workers() if w.worker_id.startswith(plain)]
        if len(plain) >= MIN_PREFIX and len(meant) == 1:
            return meant[0]
        if len(meant) > 1:
            raise BadRequestError(f"{text!r} is the beginning of several workers' ids") from None
        raise NotFoundError(f"{text[:60]!r} is no worker: {error}", hint="tpool workers list") from None


def endpoint_of(coordinator: Coordinator, worker_id: str) -> str:
    """Return where a worker is, or was last said to be."""
    worker = coordinator.roster.known(worker_id)
    return "" if worker is None else worker.endpoint


def allowlist_routes(coordinator: Coordinator) -> list[HTTPRouteHandler]:
    """Return the routes, bound to a coordinator."""

    def removed(worker_id: str, left: Left | None) -> RemovedAnswer:
        jobs = LeftJobs(settled=False) if left is None else LeftJobs(**msgspec.structs.asdict(left))
        return RemovedAnswer(worker_id=worker_id, endpoint=endpoint_of(coordinator, worker_id), jobs=jobs)

    @post("/workers", status_code=200, summary="List one more worker", opt=ADMIN | fails(409))
    async def add(request: Req, data: EntryBody) -> WorkerAnswer:
        """It is written into the allowlist's file; it gets jobs when it has proved its key."""
        await coordinator.allowlist.add(caller_of(request).access, msgspec.to_builtins(data))
        for worker in coordinator.read.workers():
            if worker.worker_id == data.worker_id:
                return worker
        raise ConflictError("it was removed again in this moment", hint="see what is listed: tpool workers list")

    @post("/workers/reload", status_code=200, summary="Read the allowlist again", opt=ADMIN | fails(409))
    async def reload(request: Req) -> ReloadAnswer:
        """A file that cannot be understood changes nothing."""
        change = await coordinator.allowlist.reload(caller_of(request).access)
        return ReloadAnswer(
            workers=len(coordinator.roster.members),
            added=change.added,
            removed=[removed(worker_id, left) for worker_id, left in change.left.items()],
            changed=change.changed,
        )

    @post("/workers/{worker:str}/remove", status_code=200, summary="Take a worker off the list", opt=ADMIN | fails(409))
    async def remove(request: Req, worker: str) -> RemovedAnswer:
        """At once: its connections are cut, and what runs there goes the way of its retry policy."""
        worker_id = worker_named(coordinator, worker)
        change = await coordinator.allowlist.remove(caller_of(request).access, worker_id)
        return removed(worker_id, change.left.get(worker_id, Left()))

    return [add, reload, remove]
