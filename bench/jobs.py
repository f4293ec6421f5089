"""Sandboxed no-op Python jobs end to end: throughput with 2 slots, and idle latency.

The baseline is a bare loop of the same bubblewrap command that a worker runs.
"""

import asyncio
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import uvloop

from bare import Bare
from daemons import Pool, archive
from load import Line, connect, get_request, submit_request

MANIFEST = '{"entrypoint":"main.py","interpreter":"python3","memory_mb":256}'
JOBS = 300
ROUNDS = 3
LATENCY_RUNS = 60


async def throughput(port: int, jobs: int) -> float:
    """Return jobs per second from the first submit until the last job is completed."""
    request = submit_request(port, archive(), MANIFEST)
    lines = [await connect(port) for _ in range(8)]
    begin = time.perf_counter()
    before = json.loads(await lines[0].ask(get_request(port, "/pool")))["jobs"]["completed"]
    left = jobs
    newest = ""

    async def submit(line: Line) -> None:
        nonlocal left, newest
        while left > 0:
            left -= 1
            newest = json.loads(await line.ask(request))["job_id"]

    await asyncio.gather(*(submit(line) for line in lines))
    # Asking all the time would be a load of its own: wait for the job that was submitted last, then look.
    wait = get_request(port, f"/status/{newest}?wait=30")
    while json.loads(await lines[0].ask(wait))["completed_at"] is None:
        pass
    while True:
        counts = json.loads(await lines[0].ask(get_request(port, "/pool")))["jobs"]
        if counts["completed"] - before >= jobs:
            break
        if counts["failed"]:
            raise RuntimeError("a job failed")
        await asyncio.sleep(0.005)
    spent = time.perf_counter() - begin
    for line in lines:
        line.transport.close()
    return jobs / spent


async def latency(port: int) -> float:
    """Return the seconds from a submit until the client knows that the job completed."""
    request = submit_request(port, archive(), MANIFEST)
    line = await connect(port)
    begin = time.perf_counter()
    job_id = json.loads(await line.ask(request))["job_id"]
    wait = get_request(port, f"/status/{job_id}?wait=30")
    while True:
        status = json.loads(await line.ask(wait))
        if status["completed_at"] is not None:
            break
    spent = time.perf_counter() - begin
    line.transport.close()
    if status["state"] != "completed":
        raise RuntimeError(status)
    return spent


def _quantile(values: list[float], q: float) -> float:
    return statistics.quantiles(values, n=100)[round(q * 100) - 1]


def run() -> list[dict[str, object]]:
    """Measure both, interleaved."""
    with Pool([2]) as pool, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, Bare() as bare:
        runner.run(throughput(pool.port, 50))  # warm
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(runner.run(throughput(pool.port, JOBS)))
            begin = time.perf_counter()
            with ThreadPoolExecutor(2) as threads:
                list(threads.map(lambda _: bare.once(), range(JOBS)))
            theirs.append(JOBS / (time.perf_counter() - begin))
        wait, alone = [], []
        for _ in range(LATENCY_RUNS):
            wait.append(runner.run(latency(pool.port)))
            begin = time.perf_counter()
            bare.once()
            alone.append(time.perf_counter() - begin)
    a, b = statistics.median(ours), statistics.median(theirs)
    p50 = (_quantile(wait, 0.5), _quantile(alone, 0.5))
    p95 = (_quantile(wait, 0.95), _quantile(alone, 0.95))
    return [
        {
            "what": "sandboxed no-op Python jobs a second, 2 slots, end to end",
            "ours": round(a, 1),
            "baseline": round(b, 1),
            "ratio": round(a / b, 3),
            "mark": ">= 0.5",
            "runs": [[round(x, 1) for x in ours], [round(x, 1) for x in theirs]],
        },
        {
            "what": "idle latency from submit until the client knows, p50 and p95 in ms",
            "ours": [round(x * 1000, 2) for x in (p50[0], p95[0])],
            "baseline": [round(x * 1000, 2) for x in (p50[1], p95[1])],
            "ratio": [round(p50[0] / p50[1], 3), round(p95[0] / p95[1], 3)],
            "mark": "p50 <= 2",
        },
    ]
