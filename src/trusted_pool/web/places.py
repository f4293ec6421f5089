"""What a request holds until its answer is over, however that ends."""

from contextlib import AbstractContextManager, ExitStack
from typing import Any

from litestar import Request
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

_HELD = "held"  # in the request's state


def hold(request: Request[Any, Any, Any], place: AbstractContextManager[None]) -> None:
    """Enter a place, and leave it when the answer is over: a stream may never begin. Raises what entering raises."""
    held: ExitStack = request.scope["state"].setdefault(_HELD, ExitStack())
    held.enter_context(place)


class Places:
    """An ASGI layer that leaves what was held."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        try:
            await self._app(scope, receive, send)
        finally:
            if (held := state.pop(_HELD, None)) is not None:
                held.close()
