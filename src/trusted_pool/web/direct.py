"""`POST /submit` without the framework around it, which takes as long as all the rest of a small submit.

The route in `job_routes` documents it and answers all but the plain case: parameters, and whatever fails. So errors are
written, counted and logged in one place.
"""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from litestar import Request
from litestar.enums import ScopeType
from litestar.exceptions import InternalServerException
from litestar.types import ASGIApp, HTTPResponseBodyEvent, HTTPResponseStartEvent, Receive, Scope, Send

from trusted_pool.coordinator.service import Coordinator
from trusted_pool.core.access import Role
from trusted_pool.core.job import Job
from trusted_pool.protocol.answers import SubmitAnswer
from trusted_pool.protocol.errors import BadRequestError
from trusted_pool.web.caller import allow, caller_of
from trusted_pool.web.upload import receive as receive_form

SUBMIT = "/submit"
MAX_KEY = 255
_FAILED = "failed_submit"  # in the request's state: what the route shall raise
_encode = msgspec.json.Encoder().encode


class DirectSubmit:
    """An ASGI layer that answers plain submits itself."""

    def __init__(self, app: ASGIApp, coordinator: Coordinator) -> None:
        self._app = app
        self._coordinator = coordinator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the job in, or have the application answer."""
        if scope["type"] != ScopeType.HTTP or scope["path"] != SUBMIT or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if scope["query_string"]:
            await self._app(scope, receive, send)
            return
        try:
            allow(scope, self._coordinator.keys, Role.SUBMITTER)
            request: Request[Any, Any, Any] = Request(scope, receive, send)
            job = await submitted(request, _pieces(receive), self._coordinator)
        except Exception as error:  # noqa: BLE001  # raised again by the route
            scope.setdefault("state", {})[_FAILED] = error
            await self._app(scope, receive, send)
            return
        scope["path_template"] = SUBMIT
        body = _encode(SubmitAnswer(job_id=job.job_id, status=job.state))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        start: HTTPResponseStartEvent = {"type": "http.response.start", "status": 200, "headers": headers}
        end: HTTPResponseBodyEvent = {"type": "http.response.body", "body": body, "more_body": False}
        await send(start)
        await send(end)


async def submitted(request: Request[Any, Any, Any], body: AsyncIterator[bytes], coordinator: Coordinator) -> Job:
    """Keep the job that a request brings. Raises PoolError."""
    content_type, length, key = said(request)
    owner = caller_of(request).owner
    intake = await coordinator.admission.submit(owner, length, key)
    try:
        received = await receive_form(content_type, body, intake, length)
        return await coordinator.submit(owner, received.manifest, received.files, key)
    finally:
        intake.end()


def said(request: Request[Any, Any, Any]) -> tuple[str, int | None, str | None]:
    """Return type and length of the body of a submit, and its idempotency key. Raises BadRequestError."""
    content_type, length, key = "", None, None
    for name, value in reversed(list(request.scope["headers"])):  # so that the first one counts
        if name == b"content-type":
            content_type = value.decode("latin-1")
        elif name == b"content-length":
            length = int(value) if value.isdigit() else None
        elif name == b"idempotency-key":
            key = value.decode("latin-1")
    if key is not None and not 0 < len(key) <= MAX_KEY:
        raise BadRequestError(f"Idempotency-Key must have 1 to {MAX_KEY} characters")
    return content_type, length, key


def failure_of(request: Request[Any, Any, Any]) -> Exception | None:
    """Return what a direct submit failed with."""
    found: Exception | None = request.scope["state"].get(_FAILED)
    return found


async def _pieces(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        event = await receive()
        if event["type"] != "http.request":
            raise InternalServerException("client disconnected prematurely")
        if event["body"]:
            yield event["body"]
        if not event["more_body"]:
            return
