"""From what went wrong on the wire to the errors of the port."""

import asyncio
import re
import ssl

import aiohttp
import msgspec

from trusted_pool.ports.link import (
    FencedError,
    FullError,
    GoneError,
    LinkError,
    NotSentError,
    RefusedError,
    UnansweredError,
    WrongIdentityError,
)
from trusted_pool.protocol.decoding import DecodingError, decode
from trusted_pool.protocol.errors import StaleEpochError

MAX_WORDS = 500
_LATER = (408, 425, 429, 503)
_GONE = (404, 410)
_CONFLICT = 409
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class _Inner(msgspec.Struct):
    code: str = ""
    message: str = ""
    hint: str = ""


class _Outer(msgspec.Struct):
    error: _Inner | str = ""
    detail: str = ""


def _code_of(body: bytes) -> str:
    try:
        answer: _Outer = decode(body, _Outer)
    except DecodingError:
        return ""
    return answer.error.code if isinstance(answer.error, _Inner) else ""


def words_of(body: bytes) -> str:
    """Return what the worker said, as one line of at most 500 characters."""
    try:
        answer: _Outer = decode(body, _Outer)
    except DecodingError:
        said = body.decode(errors="replace")
    else:
        match answer.error:
            case _Inner(message=message, hint=hint):
                said = f"{message}; {hint}" if hint else message
            case text:
                said = text or answer.detail
    return _CONTROL.sub(" ", said).strip()[:MAX_WORDS]


def of_status(status: int, body: bytes, retry_after: str | None, *, may_be_gone: bool) -> LinkError:
    """Say what an answer other than 2xx means. `may_be_gone`: the call names something that may not be there."""
    words = words_of(body) or f"it answered {status} without a word"
    if status in _LATER:
        wait_s = float(retry_after) if retry_after and re.fullmatch(r"\d{1,6}", retry_after) else None
        return FullError(words, wait_s)
    if may_be_gone and status in _GONE:
        return GoneError(words)
    if status == _CONFLICT and _code_of(body) == StaleEpochError.code:
        return FencedError(words)
    if 400 <= status < 500:  # noqa: PLR2004 - the class of refusals
        return RefusedError(status, words)
    if 300 <= status < 400:  # noqa: PLR2004 - the class of redirects
        return UnansweredError(f"it answered {status}, a redirect, which is not followed; correct its endpoint")
    return UnansweredError(f"it answered {status}: {words}")


def of_error(error: BaseException, *, begun: bool) -> LinkError:
    """Say what an exception of the HTTP client means. `begun`: bytes of the request may have been written."""
    match error:
        case LinkError():
            return error
        case aiohttp.ClientConnectorCertificateError():
            return WrongIdentityError(f"what answers there is not the listed worker: {_reason(error)}")
        case aiohttp.ClientSSLError():
            if "ALERT" in _reason(error).upper():
                return NotSentError(f"it refused the handshake: {_reason(error)}")
            return WrongIdentityError(f"what answers there does not prove the listed key: {_reason(error)}")
        case aiohttp.ClientConnectorDNSError():
            return NotSentError(f"its host name is not known: {error.host}")
        case aiohttp.ClientConnectorError():
            return NotSentError(f"cannot connect: {error.os_error.strerror or error.os_error or 'connection reset'}")
        case aiohttp.ConnectionTimeoutError():
            return NotSentError("cannot connect: no answer in time")
        case ValueError() if not begun:  # UnicodeError is one
            return NotSentError(f"its endpoint cannot be dialled: {_reason(error)}")
        case TimeoutError() | asyncio.TimeoutError():
            return (UnansweredError if begun else NotSentError)("no answer in time")
    if begun and not _handshake_alert(error):
        return UnansweredError(f"the line broke before the answer was whole: {_reason(error)}")
    return NotSentError(f"it ended the connection at its start: {_reason(error)}; do both clocks agree?")


def _reason(error: BaseException) -> str:
    """Return the innermost words of an error."""
    inner = error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        inner = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        inner = error.os_error
    if isinstance(inner, ssl.SSLError):
        return getattr(inner, "verify_message", "") or getattr(inner, "reason", "") or str(inner.args[-1])
    return str(inner) or type(inner).__name__


def _handshake_alert(error: BaseException) -> bool:
    """Whether the worker's TLS refused our certificate: in TLS 1.3 that arrives only after our first bytes.

    The worker's HTTP side has then seen nothing of them.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError) and re.search("ALERT_.*(CERT|CA)", getattr(seen, "reason", "") or ""):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
