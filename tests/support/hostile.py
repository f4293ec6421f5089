"""A listed worker of either kind that is hostile: it answers what it is told to, for ever, as slowly as it likes."""

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.virtual_time import CountingDice
from trusted_pool.blobs.memory import MemoryBlobs
from trusted_pool.core.worker import Worker
from trusted_pool.link.pinned import Patience, PinnedLink
from trusted_pool.link.sandrun import Pace, SandrunLink
from trusted_pool.protocol.certificates import server_context
from trusted_pool.protocol.identity import identity_of
from trusted_pool.sandbox.globs import Globs

KEY, POOL = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
WORKER_ID = identity_of(KEY)


class SystemClock:
    """The machine's."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()  # noqa: TID251 - certificates are checked by the machine's clock

    def monotonic(self) -> float:
        """Seconds."""
        return time.monotonic()


def whole(answer: bytes, status: str = "200 OK", more: str = "") -> bytes:
    """Write an answer of known length."""
    return f"HTTP/1.1 {status}\r\n{more}content-length: {len(answer)}\r\n\r\n".encode() + answer


class Hostile:
    """A server. Its honest answers are those of a worker that has run a job to its end."""

    HONEST: dict[str, Any] = {  # noqa: RUF012 - never changed
        "health": {"status": "healthy", "worker_id": WORKER_ID},
        "submit": {"job_id": "job-1"},
        "status": {"job_id": "job-1", "status": "completed", "execution_metadata": {"exit_code": 0}},
        "logs": {"stdout": "said", "stderr": ""},
        "outputs": {"files": [{"name": "out.txt"}]},
        "attempts": {"journal_id": "j", "seq": 0, "attempts": []},
    }

    def __init__(self, route: str, first: bytes, again: bytes = b"", pause_s: float = 0.0) -> None:
        """On `route` it says `first`, then `again` for ever, with a pause before each.

        With nothing to say again it hangs up; with a pause as well it is silent until the other side leaves.
        """
        self.route, self.first, self.again, self.pause_s = route, first, again, pause_s
        self.written = 0  #: bytes of `again` since the last request of the route began
        self.asked = 0  #: requests of the route
        self.connections = 0
        self.port = 0

    @contextlib.asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None) -> AsyncIterator["Hostile"]:
        """Serve on a free port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                if self.route in ("*", head.split(" ")[1].strip("/").split("/")[0].split("?")[0]):
                    await self._say(writer)
                    if self.pause_s and not self.again:
                        await reader.read()  # it is silent until the other side leaves
                    break
                await self._honest(head, reader, writer)
        writer.close()

    async def _honest(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in head.lower().split("\r\n"):
            if line.startswith("content-length:"):
                await reader.readexactly(int(line.split(":")[1]))
        name = head.split(" ")[1].strip("/").split("/")[0].split("?")[0]
        answer = self.HONEST.get(name)
        writer.write(whole(b"a file" if answer is None else json.dumps(answer).encode()))

    async def _say(self, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        self.written = 0
        writer.write(self.first)
        while self.again and not writer.transport.is_closing():
            await asyncio.sleep(self.pause_s)
            writer.write(self.again)
            await writer.drain()
            self.written += len(self.again)


def proving() -> ssl.SSLContext:
    """Return the TLS of the listed worker."""
    return server_context(KEY, SystemClock().now)


def pinned(port: int, **patience: float) -> PinnedLink:
    """Return a line to it that proves keys, with short patience."""
    waits = {"connect_s": 3.0, "call_s": 0.4, "idle_s": 0.4, "accept_s": 0.4, "silence_s": 0.4, **patience}
    listed = Worker(worker_id=WORKER_ID, endpoint=f"https://127.0.0.1:{port}")
    return PinnedLink(listed, POOL, 1, SystemClock(), Patience(**waits))


def claimed(port: int, **pace: float) -> SandrunLink:
    """Return a line to it as a worker that speaks only the sandrun API."""
    waits = {"call_s": 0.4, "status_s": 0.4, "reply_s": 0.4, "idle_s": 0.4, "file_s": 0.4, "poll_s": 0.01, **pace}
    listed = Worker(worker_id=WORKER_ID, endpoint=f"http://127.0.0.1:{port}", proven=False)
    return SandrunLink(
        listed, MemoryBlobs(), SystemClock(), CountingDice(), lambda p: Globs(p).matches, pace=Pace(**waits)
    )
