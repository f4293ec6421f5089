"""A load of raw HTTP requests over kept connections, cheap enough not to be what is measured."""

import asyncio
import time
from collections.abc import Callable

BOUNDARY = "bench-boundary"


def submit_request(port: int, archive: bytes, manifest: str) -> bytes:
    """Write a whole `POST /submit`."""
    parts = (
        f"--{BOUNDARY}\r\n"
        'Content-Disposition: form-data; name="files"; filename="project.tar.gz"\r\n'
        "Content-Type: application/gzip\r\n\r\n"
    ).encode()
    rest = (
        f'\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name="manifest"\r\n\r\n{manifest}\r\n--{BOUNDARY}--\r\n'
    ).encode()
    body = parts + archive + rest
    head = (
        f"POST /submit HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get_request(port: int, path: str) -> bytes:
    """Write a whole GET."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()


class Line(asyncio.Protocol):
    """One kept connection: one request at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._waiting: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect one response by its Content-Length."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end])
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < end + 4 + length:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + length])
        del self._buffer[: end + 4 + length]
        status = int(head.split(b" ", 2)[1])
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            if status == 200:
                waiting.set_result(body)
            else:
                waiting.set_exception(RuntimeError(f"{status}: {body[:300]!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail who waits."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc or ConnectionError("closed"))

    async def ask(self, request: bytes) -> bytes:
        """Send a request and return the body of its answer."""
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)  # type: ignore[attr-defined]
        return await self._waiting


async def connect(port: int) -> Line:
    """Open one connection."""
    _, line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", port)
    return line


async def rate(
    port: int, request: bytes, connections: int, seconds: float, seen: Callable[[bytes], None] | None = None
) -> float:
    """Return answered requests per second over `seconds`."""
    lines = [await connect(port) for _ in range(connections)]
    stop = time.perf_counter() + seconds
    count = 0

    async def one(line: Line) -> None:
        nonlocal count
        while time.perf_counter() < stop:
            body = await line.ask(request)
            count += 1
            if seen is not None:
                seen(body)

    begin = time.perf_counter()
    await asyncio.gather(*(one(line) for line in lines))
    spent = time.perf_counter() - begin
    for line in lines:
        line.transport.close()
    return count / spent
