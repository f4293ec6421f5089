"""One worker's connections: HTTP over TLS that is pinned to its key, with our own leaf renewed in time.

`Calls` is what every line has in common, whatever it runs over: caps, time-outs, no redirects, no proxies.
"""

import asyncio
import contextlib
import errno
import re
import socket
import ssl
import struct
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from yarl import URL

from trusted_pool.link.endpoint import base_url
from trusted_pool.link.multipart import SubmitBody
from trusted_pool.link.trouble import of_error, of_status
from trusted_pool.ports.clock import Clock
from trusted_pool.ports.link import NotSentError, UnansweredError
from trusted_pool.protocol.certificates import LEAF_S, client_context, server_name
from trusted_pool.protocol.identity import identity_of

#: Shorter than a worker keeps an idle connection, so that it is us who let go.
KEEP_ALIVE_S = 15.0
#: What a refusal may say at most.
MAX_REFUSAL = 16 * 1024
_NO_HEADERS = frozenset({"User-Agent", "Accept", "Accept-Encoding"})
#: A dead machine is noticed by the kernel on a quiet connection too: after about 30 s.
_TCP_OPTIONS = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}


def new_socket(info: Any) -> socket.socket:
    """Make a socket whose dead peer is noticed."""
    family, kind, protocol, _, _ = info
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _TCP_OPTIONS.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return sock


def _cut(sock: socket.socket) -> None:
    """End a connection under whoever uses it. Closing it would first send what is still to be sent."""
    with contextlib.suppress(OSError):  # it was never connected, or is closed
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # the kernel forgets the rest
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class Calls(ABC):
    """Requests to one worker. A line says how it connects, and with what each request is secured."""

    def __init__(self, base: str, connect_s: float) -> None:
        """`base`: URL without a slash at its end. `connect_s`: to connect, TLS included."""
        self._base = base
        self._connect_s = connect_s
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._answers: set[aiohttp.ClientResponse] = set()  #: that are being read

    @abstractmethod
    def _connector(self) -> aiohttp.TCPConnector:
        """Return how it connects."""

    @abstractmethod
    def _security(self) -> dict[str, Any]:
        """Return what each request is secured with."""

    def _sessions(self) -> aiohttp.ClientSession:
        if self._closed:
            raise NotSentError("the line to it is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._connector(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    async def _send(
        self, method: str, path: str, headers: dict[str, str], body: SubmitBody | None
    ) -> aiohttp.ClientResponse:
        response = await self._sessions().request(
            method,
            URL(self._base + path, encoded=True),
            data=body,
            headers=headers,
            skip_auto_headers=_NO_HEADERS,
            allow_redirects=False,
            **self._security(),
        )
        if self._closed:
            response.close()
            raise UnansweredError("the line to it is closed")
        self._answers.add(response)
        return response

    def _done(self, response: aiohttp.ClientResponse | None) -> None:
        if response is not None:
            self._answers.discard(response)
            response.close()  # a connection whose answer was read whole is back in the pool already

    async def call(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        *,
        limit: int,
        deadline: asyncio.Timeout,
        body: SubmitBody | None = None,
        may_be_gone: bool = False,
    ) -> bytes:
        """Send a request and return the whole answer, of at most `limit` bytes. Raises LinkError by the port's rules.

        What reading an input of `body` raises is passed on.
        """
        response: aiohttp.ClientResponse | None = None
        try:
            async with deadline:
                response = await self._send(method, path, headers, body)
                answer = await _whole(response, limit)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            if body is not None and body.error is not None:
                raise body.error from None
            begun = not isinstance(error, ValueError) if body is None else body.begun
            raise of_error(error, begun=begun) from error
        finally:
            self._done(response)
        if not response.ok or response.status >= 300:  # noqa: PLR2004 - all but success
            raise of_status(response.status, answer, response.headers.get("Retry-After"), may_be_gone=may_be_gone)
        return answer

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, headers: dict[str, str], *, within_s: float, may_be_gone: bool
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """Open an answer to be read piece by piece (with `read_piece`). Its head must come `within_s`."""
        response: aiohttp.ClientResponse | None = None
        try:
            try:
                async with asyncio.timeout(within_s):
                    response = await self._send("GET", path, headers, None)
                    refusal = None if response.status == 200 else await _whole(response, MAX_REFUSAL)  # noqa: PLR2004
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                raise of_error(error, begun=not isinstance(error, ValueError)) from error
            if refusal is not None:
                said = response.headers.get("Retry-After")
                raise of_status(response.status, refusal, said, may_be_gone=may_be_gone)
            yield response.content
        finally:
            self._done(response)

    def _new_socket(self, info: Any) -> socket.socket:
        if self._closed:
            raise OSError(errno.ECONNABORTED, "the line to it is closed")
        sock = new_socket(info)
        self._sockets.add(sock)
        return sock

    async def close(self) -> None:
        """Cut all connections at once, whatever is under way on them. Idempotent; later calls raise NotSentError."""
        self._closed = True
        for sock in self._sockets:
            _cut(sock)
        for response in self._answers:  # the session would forget those who wait for the next piece
            response.content.set_exception(aiohttp.ClientConnectionError("the line to it is closed"))
        if self._session is not None:
            await self._session.close()


class Line(Calls):
    """Connections to one worker. They are made when needed and kept between calls."""

    def __init__(
        self,
        endpoint: str,
        worker_id: str,
        key: Ed25519PrivateKey,
        clock: Clock,
        connect_s: float,
        *,
        leaf_s: float = LEAF_S,
    ) -> None:
        """`connect_s`: for TCP and TLS together. `leaf_s`: the life of a leaf, renewed when half of it is over.

        Raises ValueError for an endpoint that cannot be dialled.
        """
        super().__init__(base_url(endpoint), connect_s)
        self._worker_id = worker_id
        self._key = key
        self._clock = clock
        self._leaf_s = leaf_s
        self._name = server_name(identity_of(key))
        self._tls: ssl.SSLContext | None = None
        self._tls_at = 0.0

    def _connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, socket_factory=self._new_socket)

    def _security(self) -> dict[str, Any]:
        now = self._clock.now()
        if self._tls is None or not 0 <= now - self._tls_at < self._leaf_s / 2:
            self._tls, self._tls_at = client_context(self._worker_id, self._key, now, self._leaf_s), now
        return {"ssl": self._tls, "server_hostname": self._name}


async def _whole(response: aiohttp.ClientResponse, limit: int) -> bytes:
    if re.fullmatch(r"\d+", response.headers.get("Content-Length", "")) and (response.content_length or 0) > limit:
        raise UnansweredError(f"its answer is longer than {limit} bytes")
    answer = bytearray()
    while piece := await response.content.readany():
        answer += piece
        if len(answer) > limit:
            raise UnansweredError(f"its answer is longer than {limit} bytes")
    return bytes(answer)


async def read_piece(content: aiohttp.StreamReader, until: float | None) -> bytes:
    """Read the next piece of a stream; empty at its end. `until`: the loop's time to wait for at most.

    Raises:
        UnansweredError: nothing came until then, or the line broke.
    """
    try:
        async with asyncio.timeout_at(until):
            return await content.readany()
    except TimeoutError as error:
        raise UnansweredError("it has been silent, or too slow, for too long") from error
    except (aiohttp.ClientError, OSError) as error:
        raise of_error(error, begun=True) from error
