"""Routes for operators: cordon, drain, pause, readiness."""

from typing import Annotated

from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import Parameter

from trusted_pool.coordinator.service import Coordinator
from trusted_pool.core.words import Duty
from trusted_pool.protocol.answers import PauseAnswer, ServiceAnswer, WorkerAnswer, WorkersAnswer
from trusted_pool.protocol.errors import BadRequestError, NotFoundError
from trusted_pool.protocol.identity import IdentityError, from_path
from trusted_pool.web.pool_routes import service_answer

MAX_DEADLINE_S = 30 * 86400.0
MIN_PREFIX = 4


def operator_routes(coordinator: Coordinator) -> list[HTTPRouteHandler]:
    """Return the routes, bound to a coordinator."""

    def worker_named(text: str) -> str:
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

    async def set_duty(worker: str, duty: Duty, deadline_s: float | None = None) -> WorkerAnswer:
        worker_id = worker_named(worker)
        await coordinator.duties.set(worker_id, duty, deadline_s)
        return next(w for w in coordinator.read.workers() if w.worker_id == worker_id)

    @get("/workers", summary="The workers of the pool")
    async def workers() -> WorkersAnswer:
        """As in /pool."""
        return WorkersAnswer(workers=coordinator.read.workers())

    @post("/workers/{worker:str}/cordon", status_code=200, summary="Give a worker no new jobs")
    async def cordon(worker: str) -> WorkerAnswer:
        """What it has goes on."""
        return await set_duty(worker, Duty.CORDONED)

    @post("/workers/{worker:str}/uncordon", status_code=200, summary="Give a worker jobs again")
    async def uncordon(worker: str) -> WorkerAnswer:
        """Ends a drain as well."""
        return await set_duty(worker, Duty.ACTIVE)

    @post("/workers/{worker:str}/drain", status_code=200, summary="Let a worker finish what it has")
    async def drain(
        worker: str, deadline: Annotated[float | None, Parameter(ge=0, le=MAX_DEADLINE_S)] = None
    ) -> WorkerAnswer:
        """After `deadline` seconds, what still runs there goes elsewhere as its retry policy allows."""
        return await set_duty(worker, Duty.DRAINING, deadline)

    @post("/pause", status_code=200, summary="Dispatch nothing until resumed")
    async def pause() -> PauseAnswer:
        """What runs goes on."""
        await coordinator.pause(paused=True)
        return PauseAnswer(paused=True)

    @post("/resume", status_code=200, summary="Dispatch again")
    async def resume() -> PauseAnswer:
        """Ends a pause."""
        await coordinator.pause(paused=False)
        return PauseAnswer(paused=False)

    @get("/ready", summary="Whether the coordinator can take jobs")
    async def ready() -> ServiceAnswer:
        """503 when the store does not answer."""
        await coordinator.read.pool()
        return service_answer(coordinator)

    return [workers, cordon, uncordon, drain, pause, resume, ready]
