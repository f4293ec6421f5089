"""Routes for operators: cordon, drain, pause, readiness."""

from typing import Annotated, Any

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import Parameter

from trusted_pool.coordinator.service import Coordinator
from trusted_pool.core.words import Duty
from trusted_pool.protocol.answers import HeldAnswer, PauseAnswer, ServiceAnswer, WorkerAnswer, WorkersAnswer
from trusted_pool.web.allowlist_routes import endpoint_of, worker_named
from trusted_pool.web.caller import OPERATOR, PUBLIC, VIEWER, caller_of
from trusted_pool.web.pool_routes import service_answer

Req = Request[Any, Any, Any]

MAX_DEADLINE_S = 30 * 86400.0


def operator_routes(coordinator: Coordinator) -> list[HTTPRouteHandler]:
    """Return the routes, bound to a coordinator."""

    async def set_duty(request: Req, worker: str, duty: Duty, deadline_s: float | None = None) -> WorkerAnswer:
        worker_id = worker_named(coordinator, worker)
        await coordinator.duties.set(worker_id, duty, deadline_s, caller_of(request).access)
        return next(w for w in coordinator.read.workers() if w.worker_id == worker_id)

    @get("/workers", summary="The workers of the pool", opt=VIEWER)
    async def workers(request: Req) -> WorkersAnswer:
        """As in /pool."""
        inside = caller_of(request).sees_owner is None
        held = coordinator.removal.held.items() if inside else ()
        removed = [HeldAnswer(worker_id=w, endpoint=endpoint_of(coordinator, w), held=len(jobs)) for w, jobs in held]
        return WorkersAnswer(workers=coordinator.read.workers(inside=inside), removed=removed)

    @post("/workers/{worker:str}/cordon", status_code=200, summary="Give a worker no new jobs", opt=OPERATOR)
    async def cordon(request: Req, worker: str) -> WorkerAnswer:
        """What it has goes on."""
        return await set_duty(request, worker, Duty.CORDONED)

    @post("/workers/{worker:str}/uncordon", status_code=200, summary="Give a worker jobs again", opt=OPERATOR)
    async def uncordon(request: Req, worker: str) -> WorkerAnswer:
        """Ends a drain as well."""
        return await set_duty(request, worker, Duty.ACTIVE)

    @post(
        "/workers/{worker:str}/drain",
        status_code=200,
        summary="Let a worker finish what it has",
        opt=OPERATOR,
    )
    async def drain(
        request: Req, worker: str, deadline: Annotated[float | None, Parameter(ge=0, le=MAX_DEADLINE_S)] = None
    ) -> WorkerAnswer:
        """After `deadline` seconds, what still runs there goes elsewhere as its retry policy allows."""
        return await set_duty(request, worker, Duty.DRAINING, deadline)

    @post("/pause", status_code=200, summary="Dispatch nothing until resumed", opt=OPERATOR)
    async def pause(request: Req) -> PauseAnswer:
        """What runs goes on."""
        await coordinator.pause(paused=True, by=caller_of(request).access)
        return PauseAnswer(paused=True)

    @post("/resume", status_code=200, summary="Dispatch again", opt=OPERATOR)
    async def resume(request: Req) -> PauseAnswer:
        """Ends a pause."""
        await coordinator.pause(paused=False, by=caller_of(request).access)
        return PauseAnswer(paused=False)

    @get("/ready", summary="Whether the coordinator can take jobs", opt=PUBLIC)
    async def ready() -> ServiceAnswer:
        """503 when the store does not answer."""
        await coordinator.read.pool()
        return service_answer(coordinator)

    return [workers, cordon, uncordon, drain, pause, resume, ready]
