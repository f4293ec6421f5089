"""Every error as JSON: what failed, whose fault it is, what to do next."""

import logging
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from trusted_pool.core.words import Fault
from trusted_pool.ports.journal import JournalError
from trusted_pool.protocol.errors import ErrorAnswer, ErrorBody, PoolError, TooSlowError, UnavailableError

_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
_SERVER = 500

_log = logging.getLogger(__name__)


def headers_of(error: PoolError) -> dict[str, str]:
    """Return the headers that go with an error."""
    if isinstance(error, TooSlowError):
        return {"Connection": "close"}  # the rest of its body has no taker
    if error.retry_after_s is None:
        return {}
    return {"Retry-After": str(max(1, round(error.retry_after_s)))}


def encode(body: ErrorBody) -> bytes:
    """Write an error's body."""
    return msgspec.json.encode(ErrorAnswer(body))


def _answer(error: PoolError) -> Response[bytes]:
    return Response(
        encode(error.body), status_code=error.status, media_type="application/json", headers=headers_of(error)
    )


def _on_pool_error(_request: Request[Any, Any, Any], error: PoolError) -> Response[bytes]:
    return _answer(error)


def _on_http_error(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer what the framework raised: no such route, wrong method, wrong parameter."""
    status = error.status_code
    body = ErrorBody(
        code=_CODES.get(status, "bad_request" if status < _SERVER else "internal"),
        message=str(error.detail) or "the request cannot be answered",
        fault=Fault.USER if status < _SERVER else Fault.WORKER,
    )
    headers = dict(error.headers or {})
    return Response(encode(body), status_code=status, media_type="application/json", headers=headers)


def _on_journal_error(_request: Request[Any, Any, Any], error: JournalError) -> Response[bytes]:
    _log.error("The journal failed: %s", error)
    return _answer(UnavailableError(f"the worker's journal failed: {error}", hint="see the worker's log"))


def _on_any_error(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer what nobody expected. The details are in the log, not in the answer."""
    _log.error("A request failed", exc_info=error)
    body = ErrorBody(
        code="internal", message="the worker failed on this request", hint="see the worker's log", fault=Fault.WORKER
    )
    return Response(encode(body), status_code=_SERVER, media_type="application/json")


HANDLERS: dict[int | type[Exception], Any] = {
    PoolError: _on_pool_error,
    HTTPException: _on_http_error,
    JournalError: _on_journal_error,
    Exception: _on_any_error,
}
