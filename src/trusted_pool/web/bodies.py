"""Bodies of requests: they must come, and be read in one way only."""

import asyncio
from typing import Any

from litestar import Request
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPReceiveMessage, Message, Receive, Scope, Send

from trusted_pool.protocol import strict
from trusted_pool.protocol.errors import BadRequestError, TooSlowError

#: A body of which nothing comes for this long is given up, unless another time is said.
SILENCE_S = 30.0


class PatientBodies:
    """An ASGI layer that times the pieces of a body. Who reads a late one gets TooSlowError."""

    def __init__(self, app: ASGIApp, silence_s: float | None = None) -> None:
        """`silence_s`: None for the usual time, 0 for any."""
        self._app = app
        self._silence_s = silence_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer."""
        silence_s = SILENCE_S if self._silence_s is None else self._silence_s
        if scope["type"] != ScopeType.HTTP or not silence_s:
            await self._app(scope, receive, send)
            return
        # The body is whole, or its request is answered: what is waited for then is the end of the line.
        over = _is_here(receive)

        async def timed() -> HTTPReceiveMessage:
            nonlocal over
            if over:
                return await receive()  # type: ignore[return-value]  # of HTTP, as the scope says
            try:
                async with asyncio.timeout(silence_s):
                    message = await receive()
            except TimeoutError:
                words = f"nothing of the body came for {silence_s:g} s"
                raise TooSlowError(words, hint="send it again", retry_after_s=1.0) from None
            over = message["type"] != "http.request" or not message.get("more_body", False)
            return message  # type: ignore[return-value]  # likewise

        async def noted(message: Message) -> None:
            nonlocal over
            over = True
            await send(message)

        await self._app(scope, timed, noted)


async def read_strictly(request: Request[Any, Any, Any]) -> None:
    """Refuse a body of JSON that two readers might read in two ways. Raises BadRequestError.

    It is called when the one who asks may: nobody else's body is read.
    """
    if "data" not in request.route_handler.parsed_fn_signature.parameters:
        return
    if body := await request.body():
        try:
            strict.read(body)
        except strict.DuplicateKeyError as error:
            raise BadRequestError(f"the body has the key {error} twice") from None
        except ValueError as error:
            raise BadRequestError(f"the body is not valid JSON: {str(error)[:200]}") from None


def _is_here(receive: Receive) -> bool:
    """Whether the whole body came with the head, as a small one does: then nothing has to be timed.

    Uvicorn's `receive` is a method of what knows that; another server's is timed always. A timer costs 4 % of a small
    submit.
    """
    return getattr(getattr(receive, "__self__", None), "more_body", True) is False
