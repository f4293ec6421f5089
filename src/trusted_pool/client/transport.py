"""One HTTP exchange with the pool: errors become ClientErrors, answers become typed, nothing grows without bound."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx

from trusted_pool import __version__
from trusted_pool.client.address import parse
from trusted_pool.client.errors import AnswerError, ClientError, RequestError, UnreachableError
from trusted_pool.client.settings import Settings
from trusted_pool.client.tls import check_token, tls_context
from trusted_pool.client.trouble import START_HINT, broken, cannot_connect
from trusted_pool.core.words import Fault
from trusted_pool.protocol.decoding import DecodingError, decode
from trusted_pool.protocol.errors import ErrorAnswer, ErrorBody

#: Largest JSON answer that is read. A page of logs is the largest honest one.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 256 * 1024
CONNECT_S = 10.0

T = TypeVar("T")
Params = Mapping[str, str | int | float | list[str]]


class Transport:
    """Kept connections to one pool. Proxies and netrc of the environment are not used: a token goes nowhere else."""

    def __init__(self, settings: Settings, *, timeout_s: float) -> None:
        """`timeout_s`: longest silence within one exchange. Raises ClientError for settings that cannot be used."""
        check_token(settings)
        self.settings = settings
        self._address = parse(settings.address)
        self._timeout_s = timeout_s
        headers = {"User-Agent": f"trusted-pool/{__version__}", "Accept": "application/json"}
        if settings.token:
            headers["Authorization"] = f"Bearer {settings.token}"
        self._http = httpx.AsyncClient(
            headers=headers,
            verify=tls_context(settings),
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=16),
        )

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and yield its answer, unread. `body`: httpx's data and files.

        Raises:
            RequestError: the pool answered with an error.
            UnreachableError: no answer, or the line broke while it was read.
        """
        silence = silence_s or self._timeout_s
        timeout = httpx.Timeout(silence, connect=CONNECT_S, pool=None)
        address = self._address.text
        try:
            async with self._http.stream(
                method, self._address.url + path, params=params, headers=headers, timeout=timeout, **(body or {})
            ) as response:
                if not response.is_success:
                    raise _refusal(response, await _read(response, MAX_ERROR_BYTES))
                yield response
        except httpx.ConnectError as error:
            raise cannot_connect(self._address, self.settings.cacert, error) from error
        except httpx.ConnectTimeout as error:
            raise UnreachableError(
                f"cannot reach the pool at {address}: no answer within {CONNECT_S:g} s", hint=START_HINT
            ) from error
        except httpx.TimeoutException as error:
            raise UnreachableError(f"the pool at {address} was silent for {silence:g} s", hint="try again") from error
        except (httpx.TransportError, httpx.StreamError, ssl.SSLError) as error:  # the last: altered on the way
            raise broken(self._address, error) from error
        except httpx.InvalidURL as error:
            raise ClientError(f"{address} is no address of a pool: {error}", code="bad_address") from error

    async def ask(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> T:
        """Send a request and decode its JSON answer. Raises as `stream`, and AnswerError."""
        async with self.stream(
            method, path, params=params, headers=headers, silence_s=silence_s, body=body
        ) as response:
            raw = await _read(response, MAX_ANSWER_BYTES)
        try:
            return decode(raw, answer)
        except DecodingError as error:
            raise AnswerError(
                f"{method} {path} answered what this version cannot read: {error}",
                hint=f"does a Trusted Pool coordinator answer at {self.settings.address}? Is one of the two older?",
                status=response.status_code,
            ) from None


def _refusal(response: httpx.Response, raw: bytes) -> RequestError:
    retry_after = response.headers.get("retry-after", "")
    retry_after_s = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
    try:
        answer: ErrorAnswer = decode(raw, ErrorAnswer)
        body = answer.error
    except DecodingError:
        later = response.status_code in (429, 502, 503, 504)
        hint = f"does a Trusted Pool coordinator answer at {response.request.url.copy_with(path='/', query=None)}?"
        if response.is_redirect:
            hint = (
                f"it points to {response.headers.get('location', 'nowhere')}; set TRUSTED_POOL_ADDR to the pool itself"
            )
        body = ErrorBody(
            code="http_error",
            message=f"{response.request.method} {response.request.url.path} answered {response.status_code}",
            hint=hint,
            fault=Fault.OPERATOR,
            retryable=later,
        )
    return RequestError(response.status_code, body, retry_after_s=retry_after_s)


async def _read(response: httpx.Response, most: int) -> bytes:
    parts, size = [], 0
    async for piece in response.aiter_bytes():
        size += len(piece)
        if size > most:
            raise AnswerError(f"the answer to {response.request.url.path} is larger than {most} bytes")
        parts.append(piece)
    return b"".join(parts)
