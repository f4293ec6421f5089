"""Leaves are renewed while both sides run: over several of their lives no call fails and no stream breaks."""

import asyncio
import contextlib
import ssl
import time
from typing import Any

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted_pool.core.worker import Worker
from trusted_pool.link.fake_http import application
from trusted_pool.link.fake_worker import FakeWorker
from trusted_pool.link.pinned import PinnedLink
from trusted_pool.protocol.certificates import client_context, server_context, server_name
from trusted_pool.protocol.identity import identity_of
from trusted_pool.protocol.messages import StartedEvent
from trusted_pool.serve import Server

LEAF_S = 2.0
RENEWALS = 4
WORKER, POOL = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


class SystemClock:
    def now(self) -> float:
        return time.time()  # noqa: TID251 - certificates are checked by the machine's clock

    def monotonic(self) -> float:
        return time.monotonic()


CLOCK = SystemClock()


class Watched:
    """A worker that notes which leaves of the pool it has seen."""

    def __init__(self, end: FakeWorker) -> None:
        self.leaves: set[int] = set()
        self._app = application(end)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.leaves.add(serial(scope["extensions"]["tls"]["client_cert_der"]))
        await self._app(scope, receive, send)


def serial(der: bytes) -> int:
    return x509.load_der_x509_certificate(der).serial_number


async def shown(port: int, context: ssl.SSLContext) -> int | None:
    """Return the leaf that a worker shows to a new connection; None when it does not let us in."""
    name = server_name(identity_of(POOL))
    head = f"GET /health HTTP/1.1\r\nconnection: close\r\ntrusted-pool-id: {identity_of(POOL)}\r\n\r\n"
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        try:
            writer.write(head.encode())
            if (await reader.read(12)).endswith(b"200"):
                return serial(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        finally:
            writer.close()
    return None


def test_a_kept_pool_outlives_its_leaves_and_the_workers() -> None:
    async def main() -> None:
        end = FakeWorker(identity_of(WORKER))
        watched = Watched(end)
        server = Server(watched, host="127.0.0.1", port=0, ssl_context=server_context(WORKER, CLOCK.now, LEAF_S))
        await server.start()
        listed = Worker(worker_id=identity_of(WORKER), endpoint=f"https://127.0.0.1:{server.port}")
        link = PinnedLink(listed, POOL, 1, CLOCK, leaf_s=LEAF_S)
        first = client_context(identity_of(WORKER), POOL, CLOCK.now(), LEAF_S)
        answered, theirs = 0, {await shown(server.port, first)}
        assert theirs != {None}, "the control: it is good as long as it lives"
        events = link.events("", 0)
        await anext(events)  # hello
        while len(watched.leaves) <= RENEWALS or len(theirs) <= RENEWALS:
            await link.health()
            await link.attempts()
            answered += 2
            theirs.add(await shown(server.port, link._line._security()["ssl"]))
            await asyncio.sleep(0.02)
        assert None not in theirs
        assert answered > 50
        assert await shown(server.port, first) is None, "what was not renewed is refused by now"

        async def told() -> None:
            async for message in events:  # the stream is the one of the beginning
                if isinstance(message, StartedEvent):
                    return

        end._tell(StartedEvent(seq=1, job_id="pool-1", attempt=1, remote_id="remote-1", at=1.0))
        await told()
        await events.aclose()
        await link.close()
        await server.stop(0)

    async def limited() -> None:
        async with asyncio.timeout(60):
            await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(limited())
