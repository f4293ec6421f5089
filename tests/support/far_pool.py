"""A coordinator's end of the line to a real worker, in the test's own hands."""

import asyncio
import contextlib
import hashlib
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.archives import tar_gz
from trusted_pool.core.job import InputFile
from trusted_pool.core.worker import Worker
from trusted_pool.link.pinned import PinnedLink
from trusted_pool.ports.link import Order
from trusted_pool.protocol.certificates import client_context, server_name
from trusted_pool.protocol.identity import identity_of
from trusted_pool.protocol.messages import AcceptedAnswer


class SystemClock:
    """The machine's."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()  # noqa: TID251 - certificates are checked by the machine's clock

    def monotonic(self) -> float:
        """Seconds."""
        return time.monotonic()


class FarPool:
    """A pool's key and its line to one worker."""

    def __init__(self, worker_id: str, port: int, key: Ed25519PrivateKey | None = None, epoch: int = 1) -> None:
        self.key = key or Ed25519PrivateKey.generate()
        self.pool_id = identity_of(self.key)
        self.worker_id, self.port = worker_id, port
        self.link = PinnedLink(
            Worker(worker_id=worker_id, endpoint=f"https://127.0.0.1:{port}"), self.key, epoch, SystemClock()
        )

    async def submit(self, job_id: str, program: str, attempt: int = 1) -> AcceptedAnswer:
        """Send a job of one program."""
        archive = tar_gz({"main.py": program.encode()})
        file = InputFile(name="project.tar.gz", size=len(archive), sha256=hashlib.sha256(archive).hexdigest())
        manifest = msgspec.json.encode({"entrypoint": "main.py", "interpreter": "python3", "memory_mb": 64}).decode()

        async def opened(_: InputFile) -> AsyncIterator[bytes]:
            yield archive

        return await self.link.submit(Order(job_id=job_id, attempt=attempt, manifest=manifest, inputs=(file,)), opened)

    def context(self) -> ssl.SSLContext:
        """Return what a new connection is made with."""
        return client_context(self.worker_id, self.key, SystemClock().now())

    async def connect(self) -> "Kept":
        """Open one connection, to be kept."""
        return Kept(
            *await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=self.context(), server_hostname=server_name(self.pool_id)
            ),
            self.pool_id,
        )


class Kept:
    """One connection; one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pool_id: str) -> None:
        self._reader, self._writer, self._pool_id = reader, writer, pool_id

    async def ask(self, path: str, method: str = "GET", epoch: int = 1) -> tuple[int, Any]:
        """Ask on this very connection; return the status and the answer."""
        head = f"{method} {path} HTTP/1.1\r\nhost: w\r\ncontent-length: 0\r\n"
        head += f"trusted-pool-id: {self._pool_id}\r\ntrusted-pool-epoch: {epoch}\r\n\r\n"
        self._writer.write(head.encode())
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(answer.split("content-length: ")[1].split("\r\n")[0])
        return int(answer.split(" ")[1]), msgspec.json.decode(await self._reader.readexactly(length))

    async def ended(self) -> bool:
        """Wait until the other side has ended it, and say whether it said anything more."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            return await self._reader.read() == b""
        return True

    def close(self) -> None:
        """Let go."""
        self._writer.close()
