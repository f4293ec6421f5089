"""A million jobs against a thousand: start, reservation, commits, status and pages.

Usage: python bench/queued.py [--many 1000000]. The store is filled by direct commits; what is timed is the real one.
"""

import argparse
import asyncio
import hashlib
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import msgspec

from daemons import TPOOL, free_port
from trusted_pool.core.advance import advance
from trusted_pool.core.happenings import Placed
from trusted_pool.core.job import Job
from trusted_pool.core.request import Request
from trusted_pool.core.words import JobState
from trusted_pool.ports.store import Event, Unit, Versioned
from trusted_pool.store.sqlite import SqliteStore

FEW, MANY = 1000, 1_000_000
TOGETHER = 1000
TURNS = 60
SHAPES = 8
NOW = 1_700_000_000.0
START_BELOW_S = 3.0
TIMES = 2.0  #: what a thousandfold of jobs or owners may cost
MANIFEST = json.dumps({"entrypoint": "main.py", "interpreter": "python3", "args": [], "env": {}, "timeout": 300.0})


def job_id(number: int) -> str:
    """Ids are no order, as real ones are not."""
    return f"pool-{hashlib.sha256(b'%d' % number).hexdigest()[:16]}"


def queued(number: int, owners: int) -> Job:
    return Job(
        job_id=job_id(number),
        owner=f"owner{number % owners}" if owners > 1 else "local",
        state=JobState.QUEUED,
        manifest=MANIFEST,
        request=Request(interpreter="python3", memory_mb=512 + number % SHAPES),
        submitted_at=NOW + number / 1000,
    )


def ended(number: int) -> Job:
    return msgspec.structs.replace(queued(number, 1), state=JobState.COMPLETED, completed_at=NOW + number / 1000 + 1)


async def fill(path: Path, count: int, owners: int, state: JobState) -> None:
    store = SqliteStore.open(path)
    for begin in range(0, count, TOGETHER):
        numbers = range(begin, min(begin + TOGETHER, count))
        jobs = [queued(n, owners) if state is JobState.QUEUED else ended(n) for n in numbers]
        units = [Unit(job=j, events=(Event(job_id=j.job_id, at=j.submitted_at, kind="Submitted"),)) for j in jobs]
        await store.commit(units)
    await store.close()


async def costs(path: Path, owners: int) -> dict[str, float]:
    """Milliseconds (medians) of one reservation of 8, of placing those 8, of one submit."""
    store = SqliteStore.open(path)
    shapes = [s.shape for s in await store.shapes()]
    reserving, placing, submitting = [], [], []
    for turn in range(TURNS):
        begin = time.perf_counter()
        rows = await store.reserve(shapes, 8, "bench", NOW * 2, NOW * 2)
        reserving.append(time.perf_counter() - begin)
        assert len(rows) == 8
        units = [_placed(row) for row in rows]
        begin = time.perf_counter()
        assert all(c.ok for c in await store.commit(units))
        placing.append(time.perf_counter() - begin)
        unit = Unit(job=queued(10**9 + turn, owners))
        begin = time.perf_counter()
        assert (await store.commit([unit]))[0].ok
        submitting.append(time.perf_counter() - begin)
    await store.close()
    timed = {"reserve_8_ms": reserving, "place_8_ms": placing, "submit_ms": submitting}
    return {name: round(statistics.median(values) * 1000, 3) for name, values in timed.items()}


def _placed(row: Versioned) -> Unit:
    job = advance(row.job, Placed(attempt=1, worker_id="w"), NOW * 2)
    return Unit(job=job, expects=row.version, before=row.job, charge=1.0)


class Coordinator:
    """The real process on a data directory, timed until it answers."""

    def __init__(self, data: Path) -> None:
        self.port = free_port()
        (data / "workers.json").write_text("[]")
        argv = [*TPOOL, "coordinator", "--port", str(self.port), "--workers", str(data / "workers.json")]
        begin = time.perf_counter()
        self._process = subprocess.Popen(
            [*argv, "--data", str(data)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while not self._answers():
            assert self._process.poll() is None, "it did not start"
            time.sleep(0.005)
        self.start_s = time.perf_counter() - begin

    def _answers(self) -> bool:
        try:
            return self.ask("/health")[0] == 200
        except OSError:
            return False

    def ask(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a GET."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        line.request("GET", path)
        answer = line.getresponse()
        body = answer.read()
        line.close()
        return answer.status, body

    def median_ms(self, path: str, times: int = 30) -> float:
        """Return what a GET takes."""
        spent = []
        for _ in range(times):
            begin = time.perf_counter()
            status, body = self.ask(path)
            spent.append(time.perf_counter() - begin)
            assert status == 200, body
        return round(statistics.median(spent) * 1000, 2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.terminate()
        self._process.wait(30)


def pages(coordinator: Coordinator, count: int) -> dict[str, float]:
    """Milliseconds of what people look at."""
    _, body = coordinator.ask("/jobs?limit=100")
    deep = json.loads(body)["next"]
    for _ in range(20):
        _, body = coordinator.ask(f"/jobs?limit=1000&after={deep}")
        deep = json.loads(body)["next"] or deep
    last = job_id(count - 1)
    asked = {
        "status_ms": f"/status/{last}",
        "history_ms": f"/history/{last}",
        "jobs_page_ms": "/jobs?limit=100",
        "jobs_page_deep_ms": f"/jobs?limit=100&after={deep}",
        "jobs_page_failed_ms": "/jobs?limit=100&state=failed",
        "pool_ms": "/pool",
        "metrics_ms": "/metrics",
    }
    return {name: coordinator.median_ms(path) for name, path in asked.items()}


def measure(many: int) -> list[dict[str, Any]]:
    """Fill and measure all."""
    rows: list[dict[str, Any]] = []
    cost: dict[tuple[int, int], dict[str, float]] = {}
    seen: dict[tuple[str, int], dict[str, float]] = {}
    start: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory(prefix="tpool-bench-") as home:
        for count in (FEW, many):
            for owners in (1, 1000):
                data = Path(home) / f"queued-{count}-{owners}"
                data.mkdir()
                asyncio.run(fill(data / "coordinator.db", count, owners, JobState.QUEUED))
                if owners == 1:
                    start["queued", count], seen["queued", count] = look(data, count)
                cost[count, owners] = asyncio.run(costs(data / "coordinator.db", owners))
            data = Path(home) / f"ended-{count}"
            data.mkdir()
            asyncio.run(fill(data / "coordinator.db", count, 1, JobState.COMPLETED))
            start["ended", count], seen["ended", count] = look(data, count)
    for kind in ("queued", "ended"):
        mark = f"< {START_BELOW_S:g} s"
        rows.append(_row(f"start until /health answers, {kind} jobs, s", start[kind, many], start[kind, FEW], mark))
    for name in cost[FEW, 1]:
        for owners in (1, 1000):
            what = f"{name}, {owners} owners"
            rows.append(_row(what, cost[many, owners][name], cost[FEW, owners][name], f"<= {TIMES:g} x"))
        rows.append(_row(f"{name}, 1000 owners against 1", cost[many, 1000][name], cost[many, 1][name], "<= 2 x"))
    for kind in ("ended", "queued"):
        rows.extend(
            _row(f"{name}, {kind} jobs", seen[kind, many][name], seen[kind, FEW][name], f"<= {TIMES:g} x")
            for name in seen[kind, many]
        )
    return rows


def look(data: Path, count: int) -> tuple[float, dict[str, float]]:
    """Start the coordinator three times; return the median and what pages cost."""
    starts: list[float] = []
    found: dict[str, float] = {}
    for _ in range(3):
        with Coordinator(data) as coordinator:
            starts.append(coordinator.start_s)
            found = found or pages(coordinator, count)
    return round(statistics.median(starts), 3), found


def _row(what: str, ours: float, baseline: float, mark: str) -> dict[str, Any]:
    return {
        "what": what,
        "ours": ours,
        "baseline": baseline,
        "ratio": round(ours / max(baseline, 1e-9), 2),
        "mark": mark,
    }


def run() -> list[dict[str, Any]]:
    """Measure with a million; the baseline is a thousand."""
    return measure(MANY)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--many", type=int, default=MANY)
    for row in measure(parser.parse_args().many):
        figures = f"{row['ours']:>10} {row['baseline']:>10}  x{row['ratio']:<6} {row['mark']}"
        sys.stdout.write(f"{row['what']:<52} {figures}\n")
