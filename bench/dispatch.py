"""Dispatches on a kept connection, one after the other, of a 1 KB tarball: pinned TLS against the same in plain HTTP.

The worker's end does nothing with them, so that what is compared is the line alone.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daemons import HERE, archive, free_port, process
from trusted_pool.core.job import InputFile
from trusted_pool.core.worker import Worker
from trusted_pool.link.endpoint import base_url
from trusted_pool.link.line import KEEP_ALIVE_S, Calls, new_socket
from trusted_pool.link.pinned import PinnedLink
from trusted_pool.ports.link import LinkError, Order
from trusted_pool.protocol.identity import create_key_file, identity_of

ROUNDS = 12
DISPATCHES = 500
CONNECT_S = 5.0


class Clock:
    """The machine's."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()  # noqa: TID251 - a script of its own

    def monotonic(self) -> float:
        """Seconds."""
        return time.monotonic()


class PlainLine(Calls):
    """The baseline: as kept as the pinned line, and nothing is proven or hidden."""

    def _connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, socket_factory=new_socket)

    def _security(self) -> dict[str, Any]:
        return {}


async def _measure(pinned: PinnedLink, plain: PinnedLink) -> tuple[list[float], list[float]]:
    """Return ms a dispatch for each round of both, interleaved."""
    data = archive(pad_to=1024)
    file = InputFile(name="project.tar.gz", size=len(data), sha256="")
    numbers = iter(range(10**9))

    async def opened(_: InputFile) -> AsyncIterator[bytes]:
        yield data

    async def dispatch(link: PinnedLink) -> None:
        job_id = f"pool-{next(numbers):016x}"
        manifest = '{"entrypoint":"main.py","interpreter":"python3"}'
        await link.submit(Order(job_id=job_id, attempt=1, manifest=manifest, inputs=(file,)), opened)

    for link in (pinned, plain):
        await _until_up(link)
    both: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS + 1):
        for link, times in zip((pinned, plain), both, strict=True):
            began = time.perf_counter()
            for _ in range(DISPATCHES):
                await dispatch(link)
            if number:  # the first warms up
                times.append((time.perf_counter() - began) / DISPATCHES * 1000)
    for link in (pinned, plain):
        await link.close()
    return both


async def _until_up(link: PinnedLink) -> None:
    for _ in range(200):
        try:
            await link.health()
        except LinkError:
            await asyncio.sleep(0.05)
        else:
            return
    raise TimeoutError("the worker's end does not come up")


def run() -> dict[str, object]:
    """Measure both; the ratio is that of the medians."""
    with tempfile.TemporaryDirectory(prefix="tpool-bench-") as name:
        key_file = Path(name) / "worker.pem"
        worker_id, pool = identity_of(create_key_file(key_file)), Ed25519PrivateKey.generate()
        ports = free_port(), free_port()
        common = (sys.executable, str(HERE / "far_worker.py"), "--key", str(key_file), "--port")
        with process(*common, str(ports[0])), process(*common, str(ports[1]), "--plain"):
            links = []
            for port in ports:
                listed = Worker(worker_id=worker_id, endpoint=f"http://127.0.0.1:{port}")
                links.append(PinnedLink(listed, pool, 1, Clock()))
            links[1]._line = PlainLine(base_url(links[1].worker.endpoint, "http"), CONNECT_S)  # type: ignore[assignment]  # noqa: SLF001 - the only difference
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                ours, theirs = runner.run(_measure(*links))
    a, b = statistics.median(ours), statistics.median(theirs)
    return {
        "what": "dispatch of a 1 KB job on a kept connection, ms: pinned TLS against plain HTTP",
        "ours": round(a, 4),
        "baseline": round(b, 4),
        "ratio": round(a / b, 3),
        "mark": "<= 1.5",
        "runs": [[round(x, 4) for x in ours], [round(x, 4) for x in theirs]],
    }


if __name__ == "__main__":
    print(run())
