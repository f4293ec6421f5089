"""`kill -9` at random moments while hundreds of jobs go through: nothing acknowledged is lost, one result each."""

import hashlib
import json
import logging
import os
import random  # noqa: TID251 - seeded, and the seed is printed
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from support.real_pool import RealPool, until

_log = logging.getLogger(__name__)

JOBS = 500
KILLS = 20
CLIENTS = 4
SEED = int(os.environ.get("CRASH_SEED", "0")) or int.from_bytes(os.urandom(4), "big")

PROGRAM = b"""
import hashlib, os, sys
name = sys.argv[1]
print("job", name, flush=True)
os.mkdir("out")
with open("out/result.txt", "w") as file:
    file.write(hashlib.sha256(name.encode()).hexdigest())
with open("out/big.bin", "wb") as file:
    file.write(name.encode() * (20_000 if name.endswith("7") else 1))
"""


def expected(name: str) -> dict[str, bytes]:
    return {
        "out/result.txt": hashlib.sha256(name.encode()).hexdigest().encode(),
        "out/big.bin": name.encode() * (20_000 if name.endswith("7") else 1),
    }


class Clients:
    """Submit jobs from several threads until all are acknowledged, whatever happens to the pool meanwhile."""

    def __init__(self, pool: RealPool, max_attempts: int) -> None:
        self.acknowledged: dict[str, str] = {}  #: job id → name
        self._pool = pool
        self._max_attempts = max_attempts
        self._names = iter([f"n{i}" for i in range(JOBS)])
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work) for _ in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(300)
            assert not thread.is_alive()

    def _next(self) -> str | None:
        with self._lock:
            return next(self._names, None)

    def _work(self) -> None:
        with httpx.Client(base_url=self._pool.url, timeout=30, trust_env=False) as http:
            while (name := self._next()) is not None:
                until(lambda name=name: self._submit(http, name), f"an answer for {name}", 120)

    def _submit(self, http: httpx.Client, name: str) -> bool:
        manifest = {"args": [name], "memory_mb": 128, "retry": {"max_attempts": self._max_attempts}}
        files = [("files", ("main.py", PROGRAM)), ("manifest", (None, json.dumps(manifest)))]
        try:
            answer = http.post("/submit", files=files, headers={"Idempotency-Key": name})
        except httpx.TransportError:
            return False
        assert answer.status_code == 200, answer.text
        with self._lock:
            self.acknowledged[answer.json()["job_id"]] = name
        return True


def check(pool: RealPool, clients: Clients, within_s: float = 240) -> None:
    """Every acknowledged job is completed, with the right bytes, once."""
    assert sorted(clients.acknowledged.values()) == sorted(f"n{i}" for i in range(JOBS))
    until(lambda: pool.pool()["jobs"]["completed"] == JOBS, "all jobs completed", within_s)
    assert pool.pool()["total_jobs"] == JOBS
    for job_id, name in clients.acknowledged.items():
        assert pool.outputs(job_id) == expected(name)
        assert pool.http.get(f"/logs/{job_id}/stdout").text == f"job {name}\n"


def accepted_results(pool: RealPool) -> Counter[str]:
    """Count the accepted results of each job in the story that the stopped coordinator kept."""
    with sqlite3.connect(pool.data / "coordinator.db") as database:
        rows = database.execute("SELECT job_id FROM events WHERE kind = 'Collected'").fetchall()
    return Counter(job_id for (job_id,) in rows)


def nothing_left(worker_data: Path) -> list[Path]:
    """Return what a worker still keeps of attempts."""
    return [p for p in worker_data.rglob("*") if p.parent.name in ("jobs", "logs")]


def pool_has(pool: RealPool, worker_id: str) -> bool:
    """Say whether the pool finds this worker healthy."""
    return any(w["is_healthy"] for w in pool.pool()["workers"] if w["worker_id"] == worker_id)


@pytest.mark.timeout(600)
def test_the_coordinator_is_killed_twenty_times(tmp_path: Path):
    dice = random.Random(SEED)  # noqa: S311 - no secret
    _log.warning("CRASH_SEED=%d runs this again", SEED)
    with RealPool(tmp_path, [2, 2]) as pool:
        clients = Clients(pool, max_attempts=3)
        clients.start()
        for _ in range(KILLS):
            threading.Event().wait(dice.uniform(0.05, 0.8))
            pool.coordinator.kill9()
            pool.coordinator.start()
            if dice.random() < 0.7:  # else it is killed again while it starts
                pool.until_up()
        pool.until_up()
        clients.join()
        check(pool, clients)
        until(lambda: not any(nothing_left(tmp_path / w.path.stem) for w in pool.workers), "released attempts")
        attempts = [pool.status(job_id)["attempts"] for job_id in clients.acknowledged]
        assert all(sum(a.get("spent", False) for a in tries) == 1 for tries in attempts), "a job ran twice"
        pool.coordinator.stop()
        assert accepted_results(pool) == dict.fromkeys(clients.acknowledged, 1)


@pytest.mark.timeout(600)
def test_the_workers_are_killed_twenty_times(tmp_path: Path):
    dice = random.Random(SEED)  # noqa: S311 - no secret
    _log.warning("CRASH_SEED=%d runs this again", SEED)
    with RealPool(tmp_path, [2, 2]) as pool:
        clients = Clients(pool, max_attempts=100)
        clients.start()
        for _ in range(KILLS):
            worker = dice.choice(pool.workers)
            threading.Event().wait(dice.uniform(0.05, 0.8))
            before = time.monotonic()
            worker.kill9()
            until(lambda worker=worker: not worker.left(), "the end of all that the worker had started", 10)
            assert time.monotonic() - before < 10
            worker.start()
            if dice.random() < 0.7:  # else it may be killed again while it starts
                until(lambda worker=worker: pool_has(pool, worker.worker_id), "the worker's return", 60)
        clients.join()
        for worker in pool.workers:
            if worker.code is not None:
                worker.start()
        check(pool, clients)
        until(lambda: not any(nothing_left(tmp_path / w.path.stem) for w in pool.workers), "released attempts")
        pool.coordinator.stop()
        assert accepted_results(pool) == dict.fromkeys(clients.acknowledged, 1)


def test_the_store_of_a_killed_coordinator_is_whole(tmp_path: Path):
    """The counters that `/pool` shows are those of the rows, after a kill in full flight."""
    with RealPool(tmp_path, [2], running=False) as pool:
        with httpx.Client(base_url=pool.url, timeout=30, trust_env=False) as http:
            for _ in range(50):
                http.post("/submit", files=[("files", ("main.py", b"pass"))])
            pool.coordinator.kill9()
        pool.coordinator.start()
        pool.until_up()
        with sqlite3.connect(f"file:{pool.data / 'coordinator.db'}?mode=ro", uri=True) as database:
            (rows,) = database.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()
            raw = database.execute("SELECT data FROM jobs").fetchall()
        assert pool.pool()["queued_jobs"] == rows == 50
        assert all(json.loads(data)["state"] == "queued" for (data,) in raw)
