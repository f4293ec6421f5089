"""Case 78: a worker's key is removed while connections to it are kept. Seen at the worker's socket, by real processes.

The control is a worker beside it that stays listed: everything goes on there.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from support.real_pool import RealPool, RealWorker, run_tpool, until
from support.tap import Tap
from support.traces import LASTS, history, kinds, tpool, until_released, worker_of
from trusted_pool.protocol.identity import to_path

pytestmark = pytest.mark.usefixtures("_bubblewrap")

SMALL = {"memory_mb": 64}
AT_ONCE_S = 3.0  #: with the machine busy; the grace is 120 s, an idle connection is kept for 15 s


@contextmanager
def tapped(home: Path, slots: tuple[int, int]) -> Iterator[tuple[RealPool, dict[str, Tap]]]:
    """A pool that reaches each of its workers over a tap."""
    with ExitStack() as stack:
        pool = RealPool(home, slots)
        taps = {worker.worker_id: stack.enter_context(Tap(worker.port)) for worker in pool.workers}
        pool.allow(*({**worker.entry, "endpoint": taps[worker.worker_id].endpoint} for worker in pool.workers))
        yield stack.enter_context(pool), taps


def duty(pool: RealPool, worker: RealWorker, verb: str) -> None:
    assert pool.http.post(f"/workers/{to_path(worker.worker_id)}/{verb}").status_code == 200


def submit(pool: RealPool, worker: RealWorker, policy: str) -> str:
    """Submit a job of six seconds that starts on this worker."""
    for each in pool.workers:
        duty(pool, each, "uncordon" if each is worker else "cordon")
    job_id = pool.submit(LASTS, {**SMALL, "args": ["6", "0"], "retry": {"on_worker_loss": policy}})
    assert pool.until_state(job_id, "running")["worker_id"] == worker.worker_id
    return job_id


class Follower:
    """Follows a job's log."""

    def __init__(self, pool: RealPool, job_id: str) -> None:
        self.lines: list[str] = []
        self._url = f"{pool.url}/logs/{job_id}?follow=true"
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()
        until(lambda: any("attempt" in line for line in self.lines), "the log's first line")

    def _follow(self) -> None:
        with httpx.stream("GET", self._url, timeout=60, trust_env=False) as answer:
            for line in answer.iter_lines():
                self.lines.append(line)


@pytest.mark.timeout(150)
def test_a_removed_worker_is_cut_off_at_once_and_nothing_that_it_says_counts(tmp_path: Path) -> None:
    with tapped(tmp_path, (4, 4)) as (pool, taps):
        gone, stays = pool.workers
        cut, control = taps[gone.worker_id], taps[stays.worker_id]
        beside = submit(pool, stays, "hold")
        jobs = {policy: submit(pool, gone, policy) for policy in ("hold", "retry", "fail")}
        duty(pool, stays, "uncordon")
        follower = Follower(pool, jobs["hold"])
        assert cut.open >= 2, "its event stream and the log, at least"

        said = run_tpool("workers", "remove", gone.worker_id[:10], "--addr", pool.url)
        until(lambda: cut.open == 0, "every connection to it closed", AT_ONCE_S)
        seen = (cut.told, cut.opened, cut.said)
        assert said.returncode == 0, said.stderr
        assert "3 jobs were running there: 1 goes to another worker, 1 is held, 1 failed" in said.stdout
        assert f"tpool jobs --worker {gone.worker_id}" in said.stderr

        the_policies_decide(pool, jobs)
        for job_id in jobs.values():  # what ran there has run to its end, and its worker has told nobody
            gone.said(f"Job {job_id} attempt 1 (")
        done = pool.wait(beside)  # the control: it was told
        assert (done["state"], done["worker_id"], len(done["attempts"])) == ("completed", stays.worker_id, 1)
        held = pool.status(jobs["hold"])
        assert (held["state"], held["reason"], held["worker_id"]) == ("running", "worker_removed", gone.worker_id)
        assert (cut.told, cut.opened, cut.said) == seen, "not a byte since, in either direction"
        assert control.open >= 1
        assert control.said > 0
        assert follower.thread.is_alive(), "who follows it waits on"

        tpool(pool, "workers", "add", gone.worker_id, cut.endpoint)
        listed_again(pool, jobs)
        follower.thread.join(20)
        assert any("completed" in line for line in follower.lines)
        assert worker_of(pool, gone)["active_jobs"] == 0
        assert "Traceback" not in pool.coordinator.log + gone.log + stays.log


def the_policies_decide(pool: RealPool, jobs: dict[str, str]) -> None:
    gone, stays = pool.workers
    retried = pool.wait(jobs["retry"])
    assert (retried["state"], retried["worker_id"]) == ("completed", stays.worker_id)
    assert [a["state"] for a in retried["attempts"]] == ["lost", "collected"]
    failed = pool.status(jobs["fail"])
    assert (failed["state"], failed["reason"], failed["fault"]) == ("failed", "worker_removed", "operator")
    assert failed["retryable"]
    explained = tpool(pool, "explain", jobs["hold"])["explain"]
    assert "removed from the allowlist" in explained["message"]
    assert f"tpool workers add {gone.worker_id}" in explained["hint"]
    listed = tpool(pool, "workers", "list")
    assert [w["worker_id"] for w in listed["workers"]] == [stays.worker_id]
    assert [(r["worker_id"], r["held"]) for r in listed["removed"]] == [(gone.worker_id, 1)]


def listed_again(pool: RealPool, jobs: dict[str, str]) -> None:
    """It is asked, and what is wanted is fetched; what nobody wants is thrown away there."""
    done = pool.wait(jobs["hold"])
    assert (done["state"], len(done["attempts"])) == ("completed", 1)
    assert pool.outputs(jobs["hold"])["attempt.txt"] == b"1"
    assert kinds(pool, jobs["hold"], "Held", "Collected") == [("Held", 1), ("Collected", 1)]
    until_released(pool)
    assert kinds(pool, jobs["retry"], "Collected") == [("Collected", 2)]
    assert pool.status(jobs["fail"])["state"] == "failed"
    stale = [e["data"]["what"] for e in history(pool, jobs["retry"]) if e["kind"] == "Stale"]
    assert "EndedEvent" in stale


@pytest.mark.timeout(120)
def test_an_upload_that_is_on_its_way_to_a_removed_worker_never_becomes_a_job_there(tmp_path: Path) -> None:
    with tapped(tmp_path, (1, 1)) as (pool, taps):
        gone, stays = pool.workers
        cut = taps[gone.worker_id]
        duty(pool, stays, "cordon")
        cut.stalls_at = 2**20  # nobody reads the rest: it piles up in the coordinator's kernel, and in itself
        big = {"main.py": b"print('ran')", "data": os.urandom(16 * 2**20)}
        job_id = pool.submit(big, {**SMALL, "retry": {"max_attempts": 2}})
        until(lambda: cut.told > 2**20, "an upload that has begun")
        duty(pool, stays, "uncordon")
        answer = tpool(pool, "workers", "remove", gone.worker_id, "--yes")["removed"]
        assert (answer["jobs"]["retried"], answer["jobs"]["settled"]) == (1, True)
        done = pool.wait(job_id)
        assert (done["state"], done["worker_id"]) == ("completed", stays.worker_id)
        assert [a["state"] for a in done["attempts"]] == ["lost", "collected"]
        assert sum(a.get("spent", False) for a in done["attempts"]) == 2, "it may have had all of it"
        coordinator = psutil.Process(pool.coordinator.pid)
        assert not [c for c in coordinator.net_connections("tcp") if c.raddr and c.raddr.port == cut.port]
        cut.go_on.set()
        until(lambda: cut.open == 0, "the end of every connection", AT_ONCE_S)
        assert cut.told < 16 * 2**20
        assert f"Job {job_id}" not in gone.log
        assert pool.http.get(f"/logs/{job_id}/stdout").text == "ran\n"
