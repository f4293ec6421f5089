"""Answers that take long, to somebody who may not have them any more: they end in the moment in which that is so."""

import asyncio
import logging
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from trusted_pool.coordinator.keys import Keys
from trusted_pool.protocol.errors import UnauthenticatedError
from trusted_pool.web.caller import ACCESS
from trusted_pool.web.failures import send_error

_log = logging.getLogger(__name__)

AT_ONCE_S = 1.0


class StillAllowed:
    """An ASGI layer that asks again, before each piece of an answer, whether its reader's key is good."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer, as long as that is allowed."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        begun = False
        refused: UnauthenticatedError | None = None
        loop = asyncio.get_running_loop()
        asked_at = loop.time()

        async def send_while_allowed(message: Message) -> None:
            nonlocal begun, refused
            access = state.get(ACCESS)
            # What is answered at once is answered by what was so when it was asked: a key may revoke itself.
            late = begun or loop.time() - asked_at > AT_ONCE_S
            if late and access is not None and not self._keys.still(access):
                refused = UnauthenticatedError("the API key was good when this was asked, and is not any more")
                raise refused
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_while_allowed)
        except Exception as error:  # the framework wraps what is raised while it sends
            if refused is None:
                raise
            if begun:
                _log.info("An answer was cut: %s (%s)", refused, type(error).__name__)  # the server closes the rest
            else:
                await send_error(refused, send)
