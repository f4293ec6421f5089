"""`kill -9` at random moments while hundreds of jobs go through: nothing acknowledged is lost, one result each."""

import json
import logging
import os
import random  # noqa: TID251 - seeded, and the seed is printed
import signal
import sqlite3
import threading
import time
from pathlib import Path

import httpx
import pytest

from support.load import Clients, check
from support.real_pool import RealPool, until
from support.traces import accepted_results, until_released

_log = logging.getLogger(__name__)

JOBS = 500
KILLS = 20
ROUNDS = 200
SEED = int(os.environ.get("CRASH_SEED", "0")) or int.from_bytes(os.urandom(4), "big")


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
        clients = Clients(pool, JOBS, max_attempts=3)
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
        clients = Clients(pool, JOBS, max_attempts=100)
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


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_two_hundred_rounds_of_kills_and_stops(tmp_path: Path):
    """Either daemon is killed, or stopped for a moment, while clients go on submitting."""
    dice = random.Random(SEED)  # noqa: S311 - no secret
    _log.warning("CRASH_SEED=%d runs this again", SEED)
    with RealPool(tmp_path, [2, 2], options=("--check-interval", "500ms", "--grace", "5s")) as pool:
        daemons = [pool.coordinator, *pool.workers]
        clients = Clients(pool, None, max_attempts=100, rest_s=0.5)
        clients.start()
        for _ in range(ROUNDS):
            threading.Event().wait(dice.uniform(0.05, 0.8))
            daemon = dice.choice(daemons)
            if dice.random() < 0.7:
                daemon.kill9()
                threading.Event().wait(dice.choice((0.0, 0.0, 0.0, 0.5, 7.0)))
                daemon.start()
                if dice.random() < 0.7:  # else it may be killed again while it starts
                    pool.until_up()
            elif daemon.code is None:
                daemon.send(signal.SIGSTOP)
                threading.Event().wait(dice.choice((0.1, 0.5, 1.0, 7.0)))
                daemon.send(signal.SIGCONT)
        for daemon in daemons:
            if daemon.code is not None:
                daemon.start()
        clients.join()
        pool.until_healthy(2)
        check(pool, clients)
        until_released(pool)
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
