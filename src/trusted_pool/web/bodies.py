"""An end to patience with bodies that do not come: a client may be slow, but not silent."""

import asyncio

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPReceiveMessage, Message, Receive, Scope, Send

from trusted_pool.protocol.errors import TooSlowError

#: A body of which nothing comes for this long is given up.
SILENCE_S = 30.0


class PatientBodies:
    """An ASGI layer that times the pieces of a body. Who reads a late one gets TooSlowError."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        # The body is whole, or its request is answered: what is waited for then is the end of the line.
        over = _is_here(receive)

        async def timed() -> HTTPReceiveMessage:
            nonlocal over
            if over:
                return await receive()  # type: ignore[return-value]  # of HTTP, as the scope says
            try:
                async with asyncio.timeout(SILENCE_S):
                    message = await receive()
            except TimeoutError:
                raise TooSlowError(f"nothing of the body came for {SILENCE_S:g} s", hint="send it again") from None
            over = message["type"] != "http.request" or not message.get("more_body", False)
            return message  # type: ignore[return-value]  # likewise

        async def noted(message: Message) -> None:
            nonlocal over
            over = True
            await send(message)

        await self._app(scope, timed, noted)


def _is_here(receive: Receive) -> bool:
    """Whether the whole body came with the head, as a small one does: then nothing has to be timed.

    Uvicorn's `receive` is a method of what knows that; another server's is timed always. A timer costs 4 % of a small
    submit.
    """
    return getattr(getattr(receive, "__self__", None), "more_body", True) is False
