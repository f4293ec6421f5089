"""`GET /metrics`, and the layer that counts requests for it."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from litestar import Response, get
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.routes import BaseRoute
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from trusted_pool.coordinator.metrics import CONTENT_TYPE, Metrics
from trusted_pool.ports.blobs import BlobsError, BlobsFullError
from trusted_pool.ports.store import StoreError, StoreFullError
from trusted_pool.protocol.errors import PoolError, StorageFullError, UnavailableError
from trusted_pool.web.caller import VIEWER_OF_ALL
from trusted_pool.web.describe import sends
from trusted_pool.web.direct import SUBMIT

#: Requests that no route takes count as one: their paths are a stranger's words.
UNKNOWN = "unknown"


def metrics_routes(metrics: Metrics) -> list[HTTPRouteHandler]:
    """Return the route, bound to what is measured."""

    @get("/metrics", summary="What is measured, for Prometheus", opt=VIEWER_OF_ALL | sends("text/plain"))
    async def expose() -> Response[bytes]:
        """In Prometheus' text format."""
        return Response(await metrics.expose(), headers={"content-type": CONTENT_TYPE})

    return [expose]


def code_of(error: Exception) -> str:
    """Return the code that a submit is refused with for this error."""
    match error:
        case PoolError():
            return error.code
        case HTTPException():
            return "bad_request"
        case StoreFullError() | BlobsFullError():
            return StorageFullError.code
        case StoreError() | BlobsError():
            return UnavailableError.code
        case _:
            return PoolError.code


def on_failure(metrics: Metrics) -> Callable[[Exception, Scope], Awaitable[None]]:
    """Return the hook that counts refused submits."""

    async def failed(error: Exception, scope: Scope) -> None:
        if scope.get("path_template") == SUBMIT:
            metrics.submit_refused(code_of(error))

    return failed


class Counted:
    """An ASGI layer that counts every answer by its route."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        for route in routes:
            metrics.serve(route.path_format)
        metrics.serve(UNKNOWN)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count when the answer begins: one that never ends has begun as well."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route: Any = scope.get("path_template") or UNKNOWN
                self._metrics.answered(route, message["status"])
            await send(message)

        await self._app(scope, receive, counted)
