"""Sockets to listen on, and in one line why there are none."""

import errno
import socket


class ServeError(Exception):
    """The daemon cannot serve; the message is one line and says what to type."""


def words_for(error: OSError, host: str, port: int) -> str:
    """Say why nothing can listen there."""
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"cannot bind {host}: this machine has no such address; choose another with --host"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken; choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} is not for this user; choose one above 1023 with --port"
    return f"cannot listen on {host} port {port}: {error.strerror or error}"


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind every address of the host; port 0 takes a free one on the first. Nothing listens yet.

    Raises:
        ServeError: with one line that says what to type.
    """
    sockets: list[socket.socket] = []
    try:
        if not 0 <= port <= 65535:  # noqa: PLR2004 - what the number is
            raise ServeError(f"there is no port {port}; choose one up to 65535 with --port")
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found[:1] if port == 0 else dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.settimeout(0)
            sock.bind(address)
    except (OSError, UnicodeError) as error:
        close(sockets)
        if isinstance(error, OSError):
            raise ServeError(words_for(error, host, port)) from None
        raise ServeError(f"{host!r} is no host name; choose another with --host") from None
    return sockets


def close(sockets: list[socket.socket]) -> None:
    """Let go of sockets."""
    for sock in sockets:
        sock.close()
