"""A TLS context whose certificate may change while it serves, and which has a word for who speaks plain HTTP to it."""

import ssl
from collections.abc import Callable
from typing import Any

import msgspec

from trusted_pool.protocol.errors import ErrorAnswer, ErrorBody

_BODY = msgspec.json.encode(
    ErrorAnswer(
        ErrorBody(
            code="tls_required",
            message="this port speaks TLS, and the request came without",
            hint="write the address with https://, or with https+pin://ID@ where the pool's key is pinned",
        )
    )
)
_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
    % (len(_BODY), _BODY)
)
#: What OpenSSL says of a first record that is none: it knows the commonest methods of HTTP.
_NO_TLS = frozenset({"HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER"})


class _Handshake(ssl.SSLObject):
    """A server's connection. One that does not begin with TLS gets an answer in plain HTTP before it is closed.

    Nothing of the request reaches the application: the handshake never succeeds.
    """

    outgoing: ssl.MemoryBIO
    failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self.failure is not None:
            raise self.failure
        try:
            super().do_handshake()
        except ssl.SSLError as error:
            if error.reason not in _NO_TLS:
                raise
            self.failure = error
            self.outgoing.read()  # an alert, which is not HTTP
            self.outgoing.write(_ANSWER)
            # An event loop sends what is there when a handshake wants more; it sends nothing when one fails. Whoever
            # does not close now is closed at its next byte, or by the handshake's time limit.
            raise ssl.SSLWantReadError from None


class ServingContext(ssl.SSLContext):
    """What an event loop listens with; each handshake is made with the context that is current then.

    A connection keeps what it began with. The contexts in use are whole and never altered: OpenSSL would keep an old
    certificate beside a new one of another kind of key.
    """

    current: Callable[[], ssl.SSLContext]

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Begin a handshake."""
        context = self.current()
        context.sslobject_class = _Handshake
        made = context.wrap_bio(incoming, outgoing, *args, **kwargs)
        made.outgoing = outgoing  # type: ignore[attr-defined]  # a _Handshake
        return made


def serving_context(current: Callable[[], ssl.SSLContext]) -> ServingContext:
    """Return a context for `Server`. `current` gives the server context of the next handshake."""
    context = ServingContext(ssl.PROTOCOL_TLS_SERVER)  # has no certificate itself: alone it lets nobody in
    context.current = current
    return context
