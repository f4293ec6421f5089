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
STARTS = 3
SHAPES = 8
NOW = 1_700_000_000.0
START_BELOW_S = 3.0
TIMES = 2.0  #: what a thousandfold of jobs or owners may cost
COSTS = ("reserve_8_ms", "place_8_ms", "submit_ms")
Key = tuple[int, int]  #: jobs, owners
MANIFEST = json.dumps({"entrypoint": "main.py", "interpreter": "python3", "args": [], "env": {}, "timeout": 300.0})


def job_id(number: int) -> str:
    """Begin with the time, as real ones do, and go on at random."""
    token = hashlib.sha256(b"%d" % number).hexdigest()[:8]
    return f"pool-{int((NOW + number / 1000) * 16) & 0xFFFFFFFF:08x}{token}"


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


async def costs(paths: dict[Key, Path]) -> dict[Key, dict[str, float]]:
    """Milliseconds (medians) of one reservation of 8, of placing those 8, of one submit, in each store in turn.

    In turn: what else the machine does meanwhile then slows all of them alike.
    """
    stores = {key: SqliteStore.open(path) for key, path in paths.items()}
    shapes = {key: [s.shape for s in await store.shapes()] for key, store in stores.items()}
    spent: dict[Key, dict[str, list[float]]] = {key: {name: [] for name in COSTS} for key in stores}
    for turn in range(TURNS):
        for key, store in stores.items():
            begin = time.perf_counter()
            rows = await store.reserve(shapes[key], 8, "bench", NOW * 2, NOW * 2)
            reserved = time.perf_counter()
            assert len(rows) == 8
            units = [_placed(row) for row in rows]
            before = time.perf_counter()
            assert all(c.ok for c in await store.commit(units))
            placed = time.perf_counter()
            assert (await store.commit([Unit(job=queued(10**7 + turn, key[1]))]))[0].ok
            submitted = time.perf_counter()
            for name, seconds in zip(COSTS, (reserved - begin, placed - before, submitted - placed), strict=True):
                spent[key][name].append(seconds)
    for store in stores.values():
        await store.close()
    return {key: {name: _ms(values) for name, values in of.items()} for key, of in spent.items()}


def _ms(seconds: list[float]) -> float:
    return round(statistics.median(seconds) * 1000, 3)


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

    def timed(self, path: str) -> float:
        """Return the seconds of a GET."""
        begin = time.perf_counter()
        status, body = self.ask(path)
        assert status == 200, body
        return time.perf_counter() - begin

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.terminate()
        self._process.wait(30)


def pages(coordinator: Coordinator, count: int) -> dict[str, str]:
    """Return the paths of what people look at."""
    _, body = coordinator.ask("/jobs?limit=100")
    deep = json.loads(body)["next"]
    for _ in range(20):
        _, body = coordinator.ask(f"/jobs?limit=1000&after={deep}")
        deep = json.loads(body)["next"] or deep
    last = job_id(count - 1)
    return {
        "status_ms": f"/status/{last}",
        "history_ms": f"/history/{last}",
        "jobs_page_ms": "/jobs?limit=100",
        "jobs_page_deep_ms": f"/jobs?limit=100&after={deep}",
        "jobs_page_failed_ms": "/jobs?limit=100&state=failed",
        "pool_ms": "/pool",
        "metrics_ms": "/metrics",
    }


def look(kind: str, few: Path, data: Path, many: int) -> list[dict[str, Any]]:
    """Start coordinators on both, in turn; then ask both for pages, in turn."""
    starts: dict[Path, list[float]] = {few: [], data: []}
    for _ in range(STARTS):
        for each, seconds in starts.items():
            with Coordinator(each) as coordinator:
                seconds.append(coordinator.start_s)
    mark = f"< {START_BELOW_S:g} s"
    medians = [round(statistics.median(starts[each]), 3) for each in (data, few)]
    rows = [_row(f"start until /health answers, {kind} jobs, s", *medians, mark)]
    with Coordinator(few) as small, Coordinator(data) as large:
        paths = pages(small, FEW), pages(large, many)
        for name in paths[0]:
            spent: tuple[list[float], list[float]] = [], []
            for _ in range(30):
                spent[0].append(small.timed(paths[0][name]))
                spent[1].append(large.timed(paths[1][name]))
            rows.append(_row(f"{name}, {kind} jobs", _ms(spent[1]), _ms(spent[0]), f"<= {TIMES:g} x"))
    return rows


def measure(many: int) -> list[dict[str, Any]]:
    """Fill and measure all."""
    with tempfile.TemporaryDirectory(prefix="tpool-bench-") as home:
        paths: dict[Key, Path] = {}
        for key in [(count, owners) for count in (FEW, many) for owners in (1, 1000)]:
            paths[key] = Path(home) / f"queued-{key[0]}-{key[1]}" / "coordinator.db"
            asyncio.run(fill(paths[key], *key, JobState.QUEUED))
        old = {count: Path(home) / f"ended-{count}" / "coordinator.db" for count in (FEW, many)}
        for count, path in old.items():
            asyncio.run(fill(path, count, 1, JobState.COMPLETED))
        rows = look("queued", paths[FEW, 1].parent, paths[many, 1].parent, many)
        rows += look("ended", old[FEW].parent, old[many].parent, many)
        cost = asyncio.run(costs(paths))
    for name in COSTS:
        for owners in (1, 1000):
            rows.append(_row(f"{name}, {owners} owners", cost[many, owners][name], cost[FEW, owners][name], "<= 2 x"))
        rows.append(_row(f"{name}, 1000 owners against 1", cost[many, 1000][name], cost[many, 1][name], "<= 2 x"))
    return rows


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
