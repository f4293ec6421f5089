"""The network between coordinator and worker is cut while jobs run: briefly, for longer than the grace, repeatedly."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.networks import THERE, Cable, need_namespaces
from support.real_pool import RealPool, until
from support.traces import LASTS, accepted_results, health_of, history, kinds, runs_ended, spent, until_released

pytestmark = pytest.mark.root

SMALL = {"memory_mb": 64}
GRACE_S = 6


@pytest.fixture
def cable() -> Iterator[Cable]:
    need_namespaces()
    cable = Cable(f"tp{os.getpid()}")
    with cable.laid():
        yield cable


def stretched(home: Path, cable: Cable, slots: list[int], grace_s: float = GRACE_S) -> RealPool:
    """Return a pool whose first worker is at the other end of the cable."""
    pool = RealPool(home, slots, options=("--check-interval", "500ms", "--grace", f"{grace_s:g}s"))
    far = pool.workers[0]
    far.command = [*cable.command_there, *far.command, "--host", THERE]
    far.endpoint = f"http://{THERE}:{far.port}"
    pool.allow(*(worker.entry for worker in pool.workers))
    return pool


@pytest.mark.timeout(120)
def test_a_cut_shorter_than_the_grace_costs_nothing(tmp_path: Path, cable: Cable):
    with stretched(tmp_path, cable, [3], grace_s=20) as pool:
        (far,) = pool.workers
        ends_in_the_dark = pool.submit(LASTS, {**SMALL, "args": ["1.5", "0"]})
        runs_on = pool.submit(LASTS, {**SMALL, "args": ["14", "0"]})
        for job_id in (ends_in_the_dark, runs_on):
            pool.until_state(job_id, "running")
        cable.cut()
        waits = pool.submit(LASTS, {**SMALL, "args": ["0", "0"]})
        until(lambda: health_of(pool, far) == "suspect", "a suspect worker")
        until(lambda: f"Job {ends_in_the_dark}" in far.log, "an end that nobody hears of")
        assert pool.status(ends_in_the_dark)["state"] == "running"
        cable.mend()
        pool.until_healthy(1)
        for job_id in (ends_in_the_dark, runs_on, waits):
            status = pool.wait(job_id)
            assert (status["state"], spent(status)) == ("completed", 1), status
            assert pool.outputs(job_id)["attempt.txt"] in (b"1", b"2")
        assert pool.outputs(runs_on)["attempt.txt"] == b"1"
        until_released(pool)
        assert runs_ended(pool) == {ends_in_the_dark: 1, runs_on: 1, waits: 1}


@pytest.mark.timeout(150)
def test_a_cut_longer_than_the_grace_moves_jobs_and_what_comes_late_changes_nothing(tmp_path: Path, cable: Cable):
    with stretched(tmp_path, cable, [2, 2]) as pool:
        far, near = pool.workers
        name = near.worker_id.replace("+", "-").replace("/", "_")
        pool.http.post(f"/workers/{name}/cordon")
        ends_late = pool.submit(LASTS, {**SMALL, "args": ["4", "0"]})
        runs_still = pool.submit(LASTS, {**SMALL, "args": ["100", "0"]})
        for job_id in (ends_late, runs_still):
            pool.until_state(job_id, "running")
        pool.http.post(f"/workers/{name}/uncordon")
        cable.cut()
        until(lambda: health_of(pool, far) == "lost", "a lost worker")
        for job_id in (ends_late, runs_still):
            status = pool.wait(job_id)
            assert (status["state"], status["worker_id"], spent(status)) == ("completed", near.worker_id, 2)
        cable.mend()
        pool.until_healthy(2)
        until_released(pool)
        seen = [e["data"] for e in history(pool, ends_late) if e["kind"] == "Stale"]
        assert [s["what"] for s in seen] == ["EndedEvent"]
        assert runs_ended(pool) == {ends_late: 2, runs_still: 2}
        for job_id in (ends_late, runs_still):
            assert kinds(pool, job_id, "Collected") == [("Collected", 2)]
            assert pool.outputs(job_id)["attempt.txt"] == b"2"


@pytest.mark.timeout(150)
def test_a_cable_that_comes_and_goes_loses_nothing(tmp_path: Path, cable: Cable):
    big = {"main.py": b"open('out.bin', 'wb').write(bytes(300_000))"}
    with stretched(tmp_path, cable, [2], grace_s=60) as pool:
        stop = threading.Event()
        jobs = []
        for n in range(30):
            jobs.append(pool.submit(big, {**SMALL, "retry": {"max_attempts": 1}}))
            if n % 6 == 3:
                cable.cut()
                stop.wait(0.1 * n)
                cable.mend()
            stop.wait(0.05)
        for job_id in jobs:
            status = pool.wait(job_id)
            assert (status["state"], spent(status)) == ("completed", 1), status
            assert pool.outputs(job_id) == {"out.bin": bytes(300_000)}
        until_released(pool)
        assert runs_ended(pool) == dict.fromkeys(jobs, 1)
        pool.coordinator.stop()
        assert accepted_results(pool) == dict.fromkeys(jobs, 1)
