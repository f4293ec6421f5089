"""Routes about the pool itself."""

from typing import Any

from litestar import Request, get
from litestar.handlers import HTTPRouteHandler

from trusted_pool import __version__
from trusted_pool.coordinator.service import Coordinator
from trusted_pool.protocol.answers import PoolAnswer, ServiceAnswer
from trusted_pool.protocol.manifest import json_schema
from trusted_pool.web.caller import PUBLIC, VIEWER, caller_of
from trusted_pool.web.describe import describe

Req = Request[Any, Any, Any]


def service_answer(coordinator: Coordinator) -> ServiceAnswer:
    """Say who answers."""
    return ServiceAnswer(status="healthy", service="trusted-pool", version=__version__, pool_id=coordinator.pool_id)


def pool_routes(coordinator: Coordinator) -> list[HTTPRouteHandler]:
    """Return the routes, bound to a coordinator."""

    @get("/pool", summary="Workers and counts", opt=VIEWER)
    async def pool(request: Req) -> PoolAnswer:
        """The counts are everybody's. Where workers are, only those see who see everybody's jobs."""
        return await coordinator.read.pool(inside=caller_of(request).sees_owner is None)

    @get(["/", "/health"], summary="Whether the coordinator is up", opt=PUBLIC)
    async def health() -> ServiceAnswer:
        """Answered as long as the process serves."""
        return service_answer(coordinator)

    @get("/manifest.schema.json", summary="The JSON Schema of manifests", opt=PUBLIC)
    async def manifest_schema() -> dict[str, Any]:
        """Draft 2020-12."""
        return json_schema()

    @get("/openapi.json", include_in_schema=False, opt=PUBLIC)
    async def openapi(request: Req) -> dict[str, Any]:
        """Describe this API."""
        return describe(request.app)

    return [pool, health, manifest_schema, openapi]
