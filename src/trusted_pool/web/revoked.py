"""Answers that take long, to somebody who may not have them any more: they end in the moment in which that is so."""

import logging
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from trusted_pool.coordinator.keys import Keys
from trusted_pool.protocol.errors import UnauthenticatedError
from trusted_pool.web.caller import ACCESS

_log = logging.getLogger(__name__)


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

        async def send_while_allowed(message: Message) -> None:
            nonlocal begun
            access = state.get(ACCESS)
            if access is not None and not self._keys.still(access):
                state.pop(ACCESS)  # what is answered to that is for anybody
                raise UnauthenticatedError("the API key was good when this was asked, and is not any more")
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_while_allowed)
        except UnauthenticatedError as error:
            if not begun:
                raise
            _log.info("An answer was cut: %s", error)  # the server closes what was not answered whole
