"""Durable submits per second, 32 connections, a 1 KB tarball; against an in-memory aiohttp server."""

import asyncio
import statistics
import sys

import uvloop

from daemons import HERE, Pool, archive, free_port, get, process, wait_for
from load import rate, submit_request

CONNECTIONS = 32
SECONDS = 3.0
ROUNDS = 4
MANIFEST = '{"entrypoint":"main.py","interpreter":"python3"}'


def run() -> dict[str, object]:
    """Measure both, interleaved; the ratio is that of the medians."""
    data = archive(pad_to=1024)
    ours, theirs = [], []
    port = free_port()
    with (
        Pool([4], running=False) as pool,
        process(sys.executable, str(HERE / "baseline_server.py"), "--port", str(port)),
    ):
        wait_for(lambda: "workers" in get(port, "/pool"))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            for _ in range(ROUNDS):
                for at, rates in ((pool.port, ours), (port, theirs)):
                    request = submit_request(at, data, MANIFEST)
                    rates.append(runner.run(rate(at, request, CONNECTIONS, SECONDS)))
        kept = get(pool.port, "/pool")["queued_jobs"]
    a, b = statistics.median(ours), statistics.median(theirs)
    return {
        "what": "durable submits a second, 32 connections, 1 KB tarball",
        "ours": round(a),
        "baseline": round(b),
        "ratio": round(a / b, 3),
        "mark": ">= 1",
        "runs": [[round(x) for x in ours], [round(x) for x in theirs]],
        "jobs_kept": kept,
    }
