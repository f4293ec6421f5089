"""One HTTP connection: uvicorn's protocol with the peer's proven id, a timed head and a bounded head.

uvicorn waits for ever for the rest of a request's head and buffers a head of any size; the timer and the counter here
end both. The request's body is the application's to time: it knows how large one may be.
"""

import asyncio
import ipaddress
import ssl
from collections import Counter
from typing import Any

import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from trusted_pool.protocol.certificates import HANG_UP, PEER, peer_identity
from trusted_pool.protocol.errors import ErrorAnswer, ErrorBody
from trusted_pool.protocol.identity import IdentityError
from trusted_pool.serve.answering import Cycle

_STATUS = {
    400: ("Bad Request", "bad_request", "this is no HTTP request that can be read"),
    408: ("Request Timeout", "too_slow", "the head of the request did not arrive in time"),
    429: ("Too Many Requests", "too_many_connections", "your address has too many connections open; let some go"),
    431: ("Request Header Fields Too Large", "head_too_large", "the head of the request is too large"),
    503: ("Service Unavailable", "busy", "too many connections are open; try again later"),
}


_RETRYABLE = (408, 429, 503)
RETRY_AFTER_S = 1
#: Between an answer to who still sends, and the end of his line. Closed at once it would be reset, and the answer lost.
LINGER_S = 1.0
_NETWORK_BITS = 64  # of IPv6: what one subscriber has at least


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one server bears. Times in seconds, sizes in bytes."""

    header_timeout_s: float = 10.0  #: from a head's first byte (or the connection's start) to its end; 0: any time
    handshake_timeout_s: float = 10.0
    keep_alive_s: int = 75  #: an idle connection is closed after this; clients should let go earlier
    max_head_bytes: int = 64 * 1024  #: request line and headers, and likewise what stands between pieces of a body
    max_leftover_bytes: int = 256 * 1024  #: of a body, read after its request was answered
    max_connections: int = 2000
    max_per_address: int = 1000  #: of those, from one client address, or one IPv6 network of 64 bits; 0: all
    backlog: int = 1024


def address_of(transport: asyncio.BaseTransport) -> str:
    """Return whom a connection counts for: an IPv4 address, an IPv6 network; empty for what is neither."""
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple) or not peer:
        return ""
    host = str(peer[0])
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, _NETWORK_BITS), strict=False))


class Connections(ServerState):
    """All connections of one server, and what they are bound by."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits
        self.stopping = False
        self.by_address: Counter[str] = Counter()
        self.none_left = asyncio.Event()
        self.none_left.set()


class Connection(HttpToolsProtocol):
    """Contract with the application.

    `scope["state"][PEER]` is the id that the client proved in the handshake, or None; `scope["state"][HANG_UP]` ends
    the connection. `scope["extensions"]["tls"]` is there on TLS, as the ASGI extension of that name says, with the
    peer's certificate as DER beside it.
    """

    server_state: Connections

    def __init__(
        self,
        config: Config,
        server_state: Connections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, PEER: None}, _loop)
        self._limits = server_state.limits
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._unread = 0  # bytes since the head began, or since the last piece of body
        self._too_large = False
        self._extensions: dict[str, Any] = {}
        self._address = ""
        self._leftover = 0  # bytes of a body that came after its request was answered
        self._lingering: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base does
        """Learn who the peer is; begin to wait for the first head."""
        super().connection_made(transport)
        self.server_state.none_left.clear()
        self.app_state[HANG_UP] = transport.abort
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._identify(tls)
        self._address = address_of(transport)
        self.server_state.by_address[self._address] += 1
        most = self._limits.max_per_address
        if self.server_state.stopping or len(self.server_state.connections) > self._limits.max_connections:
            self._refuse(503)
        elif most and self.server_state.by_address[self._address] > most:
            self._refuse(429)
        else:
            self._arm()

    def _identify(self, tls: ssl.SSLObject) -> None:
        der = tls.getpeercert(binary_form=True)
        if der:
            try:
                self.app_state[PEER] = peer_identity(der)
            except IdentityError:  # a certificate of another kind proves nothing here
                self.app_state[PEER] = None
        self._extensions = {
            "tls": {
                "server_cert": None,
                "client_cert_chain": [ssl.DER_cert_to_PEM_cert(der)] if der else [],
                "client_cert_der": der,
                "client_cert_name": None,
                "client_cert_error": None,
                "tls_version": {"TLSv1.3": 0x0304, "TLSv1.2": 0x0303}.get(tls.version() or ""),
                "cipher_suite": None,
            }
        }

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._disarm()
        if self._lingering is not None:
            self._lingering.cancel()
        by_address = self.server_state.by_address
        by_address[self._address] -= 1
        if by_address[self._address] <= 0:
            del by_address[self._address]
        self.app_state.pop(HANG_UP, None)  # it leads back to this connection: no garbage in a circle
        super().connection_lost(exc)
        if not self.server_state.connections:
            self.server_state.none_left.set()

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; bound and time what is not whole yet."""
        self._unread += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unread > self._limits.max_head_bytes:
            self._refuse(431)
        elif self._untimed and (self._in_head or self._idle):
            self._arm()

    @property
    def _untimed(self) -> bool:
        return self._head_timer is None and self.timeout_keep_alive_task is None and self._lingering is None

    @property
    def _idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def on_message_begin(self) -> None:
        """Begin a request's head."""
        self._in_head = True
        self._leftover = 0
        super().on_message_begin()
        self.scope["extensions"] = self._extensions

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, but no trailer: those come after the headers were judged."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Judge the head's size, then start the application."""
        if len(self.url) + sum(len(n) + len(v) + 4 for n, v in self.headers) > self._limits.max_head_bytes:
            self._too_large = True
            raise ValueError("the head is too large")  # ends the parsing; answered by send_400_response
        self._in_head = False
        self._unread = 0
        self._disarm()
        super().on_headers_complete()
        if self.cycle is not None:  # its task has not run yet; uvicorn has no other place to say which class
            self.cycle.__class__ = Cycle

    def on_body(self, body: bytes) -> None:
        """Take a piece of body. Of one whose request is answered already, a few: then its sender has no reader."""
        self._unread = 0
        if self._idle:
            self._leftover += len(body)
            if self._leftover > self._limits.max_leftover_bytes:
                self.flow.pause_reading()
                self._linger()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self._unread = 0
        super().on_message_complete()
        if self._lingering is not None:
            self.transport.close()

    def on_response_complete(self) -> None:
        """Go on with the next request, unless the body of this one is still coming."""
        super().on_response_complete()
        if isinstance(self.cycle, Cycle) and self.cycle.early:
            self._linger()

    def _linger(self) -> None:
        """End the line soon."""
        if self._lingering is None and not self.transport.is_closing():
            self._disarm()
            self._unset_keepalive_if_required()
            self._lingering = self.loop.call_later(LINGER_S, self.transport.abort)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words are replaced
        """Answer what could not be parsed."""
        self._refuse(431 if self._too_large else 400)

    def _arm(self) -> None:
        if self._limits.header_timeout_s:
            self._head_timer = self.loop.call_later(self._limits.header_timeout_s, self._head_is_late)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self._idle:  # a pipelined head may wait behind the answer before it
            self._arm()
        elif self._in_head:
            self._refuse(408)
        else:
            self.transport.close()

    def _refuse(self, status: int) -> None:
        """Answer without the application, and close."""
        phrase, code, message = _STATUS[status]
        body = msgspec.json.encode(ErrorAnswer(ErrorBody(code=code, message=message, retryable=status in _RETRYABLE)))
        later = f"retry-after: {RETRY_AFTER_S}\r\n" if status in _RETRYABLE else ""
        self._disarm()
        if self._idle:  # else the answer would stand inside another
            head = (
                f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n{later}\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
