"""Endpoints that no name service can be asked for: refused when listed, and no surprise when dialled."""

import asyncio
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.virtual_time import CountingDice
from trusted_pool.blobs.memory import MemoryBlobs
from trusted_pool.compose.system import SystemClock
from trusted_pool.coordinator.allowlist import AllowlistError, parse
from trusted_pool.core.worker import Worker
from trusted_pool.link.pinned import PinnedLink
from trusted_pool.link.sandrun import SandrunLink
from trusted_pool.ports.link import NotSentError, WorkerLink
from trusted_pool.protocol.identity import identity_of
from trusted_pool.sandbox.globs import Globs

WORKER_ID = identity_of(Ed25519PrivateKey.generate())
HOSTS = ("a..b", ".a", "a" * 64 + ".example", "ü" * 64)


def listed(host: str) -> list[Worker]:
    return parse(json.dumps([{"worker_id": WORKER_ID, "endpoint": f"http://{host}:8443"}]).encode())


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_that_cannot_be_is_refused_by_its_entry(host: str) -> None:
    with pytest.raises(AllowlistError, match="entry 1: endpoint"):
        listed(host)


@pytest.mark.parametrize("host", ["worker1", "a.b.", "wörker.example", "a" * 63 + ".x", "127.0.0.1", "[::1]"])
def test_other_hosts_are_taken(host: str) -> None:
    assert len(listed(host)) == 1


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("proven", [True, False])
def test_dialling_it_sends_nothing(host: str, proven: bool) -> None:
    worker = Worker(worker_id=WORKER_ID, endpoint=f"http://{host}:8443", proven=proven)

    async def main() -> None:
        link: WorkerLink
        if proven:
            link = PinnedLink(worker, Ed25519PrivateKey.generate(), 1, SystemClock())
        else:
            link = SandrunLink(worker, MemoryBlobs(), SystemClock(), CountingDice(), lambda p: Globs(p).matches)
        try:
            with pytest.raises(NotSentError):
                await link.health()
            if proven:
                with pytest.raises(NotSentError):
                    await anext(link.events("", 0))
        finally:
            await link.close()

    asyncio.run(main())
