"""What is measured: for the pool by the pinned line, and for this machine's Prometheus without TLS."""

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from trusted_pool.worker.metrics import CONTENT_TYPE, Metrics


@get("/metrics", sync_to_thread=False)
def metrics(measured: NamedDependency[Metrics]) -> Response[bytes]:
    """Return all metrics in Prometheus' text format."""
    return Response(measured.expose(), headers={"content-type": CONTENT_TYPE})


def plain_metrics(measured: Metrics) -> ASGIApp:
    """Return an application that has `GET /metrics` and nothing else: it is served without a guard."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            return
        found = scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD")
        body = measured.expose() if found else b"there is only GET /metrics here\n"
        headers = [(b"content-type", (CONTENT_TYPE if found else "text/plain").encode())]
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return app
