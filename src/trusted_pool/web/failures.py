"""Every error is answered as JSON: what failed, whose fault it is, what to do next."""

import logging
import math
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.status_codes import HTTP_413_REQUEST_ENTITY_TOO_LARGE
from litestar.types import HTTPResponseBodyEvent, HTTPResponseStartEvent, Send

from trusted_pool.core.words import Fault
from trusted_pool.ports.blobs import BlobMissingError, BlobsError, BlobsFullError
from trusted_pool.ports.store import StoreError, StoreFullError
from trusted_pool.protocol.errors import (
    ErrorAnswer,
    ErrorBody,
    PoolError,
    StorageFullError,
    TooLargeError,
    TooSlowError,
    UnauthenticatedError,
    UnavailableError,
)

_log = logging.getLogger(__name__)

#: Bytes of a body at most, where it is held in memory: everywhere but for uploads, which are streamed.
MAX_BODY = 1024 * 1024

_HINTS = {
    404: "see what there is: GET /openapi.json",
    405: "see which methods there are: GET /openapi.json",
    400: "see how this is asked: GET /openapi.json",
}

#: What to do next where the error itself does not say it, by its code.
_NEXT = {
    "bad_request": "see how this is asked: GET /openapi.json",
    "bad_manifest": "see what a manifest holds: GET /manifest.schema.json",
    "bad_archive": "pack the files anew, regular files and directories only: tar czf project.tar.gz -C PROJECT .",
    "too_large": "send less",
}


def answer(error: PoolError) -> Response[bytes]:
    """Write an error of the pool."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = 'Bearer realm="trusted-pool"'
    if isinstance(error, TooSlowError):
        headers["Connection"] = "close"  # the rest of its body has no taker
    body = error.body
    if not body.hint:
        body = msgspec.structs.replace(body, hint=_NEXT.get(body.code, ""))
    text = msgspec.json.encode(ErrorAnswer(body))
    return Response(text, status_code=error.status, media_type="application/json", headers=headers)


async def send_error(error: PoolError, send: Send) -> None:
    """Answer an error from outside the framework."""
    response = answer(error)
    body = bytes(response.content)
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    headers |= {name.lower(): value for name, value in response.headers.items()}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    start: HTTPResponseStartEvent = {"type": "http.response.start", "status": error.status, "headers": raw}
    await send(start)
    end: HTTPResponseBodyEvent = {"type": "http.response.body", "body": body, "more_body": False}
    await send(end)


def on_pool_error(_request: Request[Any, Any, Any], error: PoolError) -> Response[bytes]:
    """Answer an error that a use case raised."""
    return answer(error)


def on_http_error(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer an error that the framework raised: no such route, wrong method, wrong parameter."""
    status = error.status_code
    if status == HTTP_413_REQUEST_ENTITY_TOO_LARGE:
        return answer(TooLargeError(f"the body of the request is larger than {MAX_BODY // 2**20} MiB"))
    user = 400 <= status < 500  # noqa: PLR2004 - the class of client errors
    body = ErrorBody(
        code={404: "not_found", 405: "method_not_allowed"}.get(status, "bad_request" if user else "internal"),
        message=_words(error),
        hint=_HINTS.get(status, ""),
        fault=Fault.USER if user else Fault.COORDINATOR,
    )
    return Response(
        msgspec.json.encode(ErrorAnswer(body)),
        status_code=status,
        media_type="application/json",
        headers=dict(error.headers or {}),
    )


def _words(error: HTTPException) -> str:
    """Say what is wrong, with the parameters that are."""
    extra = error.extra if isinstance(error.extra, list) else []
    wrong = "; ".join(f"{e.get('key', '')}: {e.get('message', '')}" for e in extra if isinstance(e, dict))
    return wrong or error.detail or "the request cannot be answered"


def on_storage_error(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer an error of the store or the blobs."""
    if isinstance(error, StoreFullError | BlobsFullError):
        return answer(StorageFullError("the coordinator's disk is full", hint="the operator must free space"))
    _log.error("Storage: %s", error)
    if isinstance(error, BlobMissingError):
        return answer(UnavailableError("the bytes are missing in the coordinator's store", code="blob_missing"))
    # Its words are the operator's: they name files of this machine.
    return answer(UnavailableError("the coordinator's store failed", hint="try again; see the coordinator's log"))


def on_any_error(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer what nobody expected. The details are in the log, not in the answer."""
    _log.error("A request failed", exc_info=error)
    return answer(PoolError("the coordinator failed on this request", hint="see the coordinator's log"))


HANDLERS: dict[int | type[Exception], Any] = {
    PoolError: on_pool_error,
    HTTPException: on_http_error,
    StoreError: on_storage_error,
    BlobsError: on_storage_error,
    Exception: on_any_error,
}
