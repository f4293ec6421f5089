"""The life of a job when its worker falls silent, dies, starves, is drained or is restarted."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.real_pool import RealPool, run_tpool, until
from support.traces import (
    LASTS,
    SHORT,
    accepted_results,
    health_of,
    history,
    kinds,
    runs_ended,
    spent,
    tpool,
    until_released,
    worker_of,
)

pytestmark = pytest.mark.usefixtures("bwrap")

OPTIONS = ("--check-interval", "1s", "--grace", "4s")
SMALL = {"memory_mb": 64}


def placed_on(pool: RealPool, number: int) -> None:
    """Let only the worker of this number have new jobs."""
    for n, worker in enumerate(pool.workers):
        verb = "uncordon" if n == number else "cordon"
        name = worker.worker_id.replace("+", "-").replace("/", "_")
        assert pool.http.post(f"/workers/{name}/{verb}").status_code == 200


@pytest.mark.timeout(120)
def test_a_worker_that_is_silent_for_less_than_the_grace_keeps_its_jobs(tmp_path: Path):
    options = ("--check-interval", "1s", "--grace", "10s")
    with RealPool(tmp_path, [2, 2], options=options) as pool:
        silent = pool.workers[0]
        placed_on(pool, 0)
        runs_on = pool.submit(LASTS, {**SMALL, "args": ["10", "0"]})
        ends_meanwhile = pool.submit(LASTS, {**SMALL, "args": ["1", "0"]})
        for job_id in (runs_on, ends_meanwhile):
            pool.until_state(job_id, "running")
        silent.send(signal.SIGSTOP)
        placed_on(pool, 1)
        try:
            until(lambda: health_of(pool, silent) == "suspect", "a suspect worker")
            for job_id in (runs_on, ends_meanwhile):
                status = pool.status(job_id)
                assert (status["state"], status["worker_id"]) == ("running", silent.worker_id)
        finally:
            silent.send(signal.SIGCONT)
        for job_id in (runs_on, ends_meanwhile):
            status = pool.wait(job_id)
            assert (status["state"], len(status["attempts"])) == ("completed", 1), status
            assert pool.outputs(job_id)["attempt.txt"] == b"1"
        assert health_of(pool, silent) == "healthy"
        assert dict(runs_ended(pool)) == {runs_on: 1, ends_meanwhile: 1}
        until_released(pool)


@pytest.mark.timeout(150)
def test_after_the_grace_the_policy_decides_and_what_comes_late_is_evidence(tmp_path: Path):
    def submit(policy: str, max_attempts: int, seconds: str) -> str:
        retry = {"on_worker_loss": policy, "max_attempts": max_attempts}
        return pool.submit(LASTS, {**SMALL, "retry": retry, "args": [seconds, "0"]})

    with RealPool(tmp_path, [6, 6], options=OPTIONS) as pool:
        silent = pool.workers[0]
        placed_on(pool, 0)
        jobs = {
            "ends late": submit("retry", 3, "6"),
            "runs still": submit("retry", 3, "120"),
            "once": submit("retry", 1, "120"),
            "fails": submit("fail", 3, "120"),
            "held": submit("hold", 3, "6"),
            "held, runs still": submit("hold", 3, "120"),
        }
        for job_id in jobs.values():
            pool.until_state(job_id, "running")
        silent.send(signal.SIGSTOP)
        placed_on(pool, 1)
        try:
            while_it_is_silent(pool, jobs)
        finally:
            silent.send(signal.SIGCONT)
        pool.until_healthy(2)
        when_it_is_back(pool, jobs)
        pool.coordinator.stop()
        results = accepted_results(pool)
        assert results == {jobs[name]: 1 for name in ("ends late", "runs still", "held", "held, runs still")}


def while_it_is_silent(pool: RealPool, jobs: dict[str, str]) -> None:
    silent, other = pool.workers
    for name in ("ends late", "runs still"):
        status = pool.wait(jobs[name])
        assert (status["state"], status["worker_id"]) == ("completed", other.worker_id), status
        assert [a["state"] for a in status["attempts"]] == ["lost", "collected"]
        assert pool.http.get(f"/logs/{jobs[name]}/stdout").text == "attempt 2\n"
    for name in ("once", "fails"):
        answer = tpool(pool, "wait", jobs[name], code=125)["job"]
        assert (answer["state"], answer["reason"], answer["fault"]) == ("failed", "worker_lost", "worker")
        assert (answer["retryable"], len(answer["attempts"])) == (True, 1)
        record = tpool(pool, "explain", jobs[name])["explain"]
        assert "rerun" in record["hint"]
        assert record["failure"]["worker_last_answer_at"] < answer["completed_at"]
    for name in ("held", "held, runs still"):
        status = until(lambda name=name: (s := pool.status(jobs[name]))["reason"] == "worker_lost" and s, name)
        assert (status["state"], status["worker_id"]) == ("running", silent.worker_id)
        assert "silent" in tpool(pool, "explain", jobs[name])["explain"]["message"]
    assert worker_of(pool, silent)["health"] == "lost"


def stale(pool: RealPool, job_id: str) -> list[dict[str, Any]]:
    """Return what was said of attempts that were over, and kept as evidence."""
    return [e["data"] for e in history(pool, job_id) if e["kind"] == "Stale"]


def when_it_is_back(pool: RealPool, jobs: dict[str, str]) -> None:
    silent = pool.workers[0]
    runs = jobs["held, runs still"]
    status = until(lambda: (s := pool.status(runs))["reason"] is None and s, "a held job that goes on")
    assert (status["state"], status["detail"]) == ("running", "")
    tpool(pool, "cancel", runs)
    for name, state in (("held", "completed"), ("held, runs still", "cancelled")):
        status = pool.wait(jobs[name])
        assert (status["state"], len(status["attempts"])) == (state, 1), status
        assert len(kinds(pool, jobs[name], "Held")) == 1, "said once, not with each check"
    late = jobs["ends late"]
    # Compared before the worker saw its end, the attempt is told of as running first: that is evidence of its own.
    ends = until(lambda: [e for e in stale(pool, late) if e["what"] == "EndedEvent"], "the late result as evidence")
    assert len(ends) == 1, ends
    (seen,) = ends
    assert {e["worker_id"] for e in stale(pool, late)} == {silent.worker_id}
    assert "attempt.txt" in seen["outputs"]
    assert pool.outputs(late)["attempt.txt"] == b"2"
    until_released(pool)  # the worker was told to end and to forget what nobody wants
    told = [e["what"] for e in stale(pool, late)]
    assert len(told) == len(set(told)), "each thing is written down once"
    assert set(kinds(pool, late, "Stale")) == {("Stale", 1)}
    assert kinds(pool, jobs["runs still"], "Collected") == [("Collected", 2)]
    assert kinds(pool, jobs["once"], "Placed") == [("Placed", 1)]
    assert pool.status(jobs["once"])["state"] == "failed"
    assert runs_ended(pool) == {
        job_id: 2 if name in ("ends late", "runs still") else 1 for name, job_id in jobs.items()
    }


#: Fills its memory nearly, forks all that it may, each of them spinning, and goes on to its limit.
HUNGRY = b"""
import os
held = [bytearray(b"x" * 2**20) for _ in range(150)]
if os.fork() == 0:
    try:
        while os.fork():
            pass
    except OSError:
        pass
    while True:
        pass
while True:
    held.append(bytearray(b"x" * 2**20))
"""
BUSY = b"""
import multiprocessing, time
def spin():
    end = time.monotonic() + 9
    while time.monotonic() < end:
        pass
if __name__ == "__main__":
    for _ in range(8):
        multiprocessing.Process(target=spin).start()
"""


@pytest.mark.timeout(120)
def test_a_job_that_starves_the_machine_does_not_silence_its_worker(tmp_path: Path):
    with RealPool(tmp_path, [2], options=("--check-interval", "500ms", "--grace", "30s")) as pool:
        busy = pool.submit({"main.py": BUSY}, {"memory_mb": 400, "timeout": 60})
        hungry = pool.submit({"main.py": HUNGRY}, {"memory_mb": 200, "timeout": 8})
        seen = set()
        while not (pool.status(busy, 1.0)["completed_at"] and pool.status(hungry)["completed_at"]):
            seen.add(health_of(pool, pool.workers[0]))
        assert seen == {"healthy"}, seen
        assert pool.status(busy)["state"] == "completed"
        assert pool.status(hungry)["fault"] == "limit", pool.status(hungry)
        assert spent(pool.status(busy)) == spent(pool.status(hungry)) == 1
        log = pool.coordinator.log.partition("is healthy")[2]
        assert "Health check failed" not in log
        assert "does not answer" not in log


@pytest.mark.timeout(120)
def test_a_job_that_brings_its_worker_down_stops_after_max_attempts(tmp_path: Path):
    with RealPool(tmp_path, [1]) as pool:
        (worker,) = pool.workers
        job_id = pool.submit(LASTS, {**SMALL, "args": ["60", "60"], "retry": {"max_attempts": 3}})
        for attempt in (1, 2, 3):

            def runs(attempt: int = attempt) -> bool:
                status = pool.status(job_id, 1.0)
                assert len(status["attempts"]) <= attempt
                return status["state"] == "running" and len(status["attempts"]) == attempt

            until(runs, f"attempt {attempt}")
            worker.kill9()
            worker.start()
        answer = tpool(pool, "wait", job_id, code=125)["job"]
        assert (answer["state"], answer["fault"], answer["retryable"]) == ("failed", "worker", True)
        assert answer["reason"] == "interrupted"
        assert [a["number"] for a in answer["attempts"]] == [1, 2, 3]
        record = tpool(pool, "explain", job_id)["explain"]["failure"]
        assert record["retryable"]
        assert len(record["words"]) == 3, "each worker's words"
        assert kinds(pool, job_id, "Placed") == [("Placed", 1), ("Placed", 2), ("Placed", 3)]
        pool.until_healthy(1)
        until_released(pool)
        assert pool.wait(pool.submit(SHORT, SMALL))["state"] == "completed", "the worker takes other jobs"


@pytest.mark.timeout(150)
def test_a_rolling_restart_of_all_workers_loses_nothing_and_spends_nothing(tmp_path: Path):
    with RealPool(tmp_path, [2, 2]) as pool:
        program = {"main.py": b"import time; time.sleep(0.15); print('done')"}
        jobs: list[str] = []

        def submit_all() -> None:
            for _ in range(100):
                jobs.append(pool.submit(program, SMALL))
                threading.Event().wait(0.05)

        with ThreadPoolExecutor(1) as threads:
            submitting = threads.submit(submit_all)
            for worker in pool.workers:
                until(lambda worker=worker: worker_of(pool, worker)["active_jobs"] > 0, "a worker with jobs")
                worker.send(signal.SIGTERM)
                assert worker.wait(30) == 0, worker.log
                worker.start()
                pool.until_healthy(2)
            submitting.result()
        until(lambda: pool.pool()["jobs"]["completed"] == 100, "all jobs, soon after the last worker is back", 20)
        for job_id in jobs:
            status = pool.status(job_id)
            assert status["state"] == "completed", status
            assert spent(status) == 1, status
        assert runs_ended(pool) == dict.fromkeys(jobs, 1)
        until_released(pool)
        pool.coordinator.stop()
        assert accepted_results(pool) == dict.fromkeys(jobs, 1)


@pytest.mark.timeout(120)
def test_a_drain_lets_jobs_finish_until_its_deadline_and_is_kept_over_restarts(tmp_path: Path):
    with RealPool(tmp_path, [2, 2]) as pool:
        drained, other = pool.workers
        placed_on(pool, 0)
        short = pool.submit(LASTS, {**SMALL, "args": ["2", "0"]})
        long = pool.submit(LASTS, {**SMALL, "args": ["120", "0"]})
        for job_id in (short, long):
            pool.until_state(job_id, "running")
        answer = tpool(pool, "workers", "drain", drained.worker_id[:10], "--deadline", "8s")["worker"]
        assert (answer["duty"], answer["drained"]) == ("draining", False)
        assert answer["drain_by"] == pytest.approx(time.time() + 8, abs=5)  # noqa: TID251 - the daemons' clock
        pool.coordinator.kill9()
        pool.coordinator.start()
        pool.until_up()
        pool.until_healthy(2)
        listed = {w["worker_id"]: w for w in tpool(pool, "workers", "list")["workers"]}
        assert (listed[drained.worker_id]["duty"], listed[other.worker_id]["duty"]) == ("draining", "cordoned")
        waits = pool.submit(SHORT, SMALL)
        explained = tpool(pool, "explain", waits)["explain"]
        assert explained["verdict"] == "waits"
        assert all("duty" in [o["code"] for o in w["obstacles"]] for w in explained["workers"]), explained
        status = pool.wait(short)
        assert (status["state"], status["worker_id"], len(status["attempts"])) == ("completed", drained.worker_id, 1)
        tpool(pool, "workers", "uncordon", other.worker_id)
        assert pool.wait(waits)["worker_id"] == other.worker_id
        status = pool.wait(long)
        assert (status["state"], status["worker_id"]) == ("completed", other.worker_id)
        assert [e["data"]["reason"] for e in history(pool, long) if e["kind"] == "Interrupted"] == ["drained"]
        until(lambda: worker_of(pool, drained)["drained"], "a drained worker")
        until_released(pool)
        drained.kill9()
        drained.start()
        pool.until_healthy(2)
        assert worker_of(pool, drained)["duty"] == "draining", "kept over the worker's restart"
        answer = tpool(pool, "workers", "uncordon", drained.worker_id)["worker"]
        assert (answer["duty"], answer["drain_by"]) == ("active", None)
        assert run_tpool("workers", "drain", "nobody", "--addr", pool.url).returncode != 0
