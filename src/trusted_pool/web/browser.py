"""What keeps other people's web pages from using the pool through a visitor's browser.

Any page can post a form to localhost, and any name can be made to resolve to 127.0.0.1. So a foreign `Origin` is
refused everywhere, and a foreign `Host` is refused where the pool serves loopback only.
"""

from urllib.parse import urlsplit

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from trusted_pool.protocol.errors import ForbiddenError
from trusted_pool.web.failures import send_error

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

#: On every answer that does not say otherwise itself.
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class BrowserGuard:
    """An ASGI layer around the whole application."""

    def __init__(self, app: ASGIApp, *, loopback_only: bool) -> None:
        self._app = app
        self._loopback_only = loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what comes from foreign pages; add the security headers."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        origin = host = None
        for name, value in scope["headers"]:
            if name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"host":
                host = value.decode("latin-1")
        error = self._foreign(origin, host)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                names = {name.lower() for name, _ in headers}
                headers.extend(pair for pair in _HEADERS if pair[0] not in names)
                message["headers"] = headers
            await send(message)

        if error is None:
            await self._app(scope, receive, send_with_headers)
            return
        await send_error(error, send_with_headers)

    def _foreign(self, origin: str | None, host: str | None) -> ForbiddenError | None:
        if origin is not None and (host is None or _netloc(origin) != host.lower()):
            return ForbiddenError(
                f"requests from the web page {origin!r} are refused",
                code="foreign_origin",
                hint="a page can use the pool only when the pool itself served it",
            )
        if self._loopback_only and host is not None and _hostname(host) not in LOOPBACK_NAMES:
            return ForbiddenError(
                f"this pool serves this machine only and is not called {host!r}",
                code="foreign_host",
                hint="use http://127.0.0.1 or http://localhost, or start the coordinator with --host",
            )
        return None


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
