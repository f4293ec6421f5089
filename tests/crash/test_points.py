"""`kill -9` exactly between two steps that must not come apart: blob, commit, reply, dispatch, result, release."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from support.real_pool import Daemon, RealPool, until
from support.traces import accepted_results, kinds, runs_ended, spent, until_released

CRASHING = Path(__file__).parents[1] / "support/crashing.py"
STORE = "trusted_pool.store.sqlite:SqliteStore.commit"
LINK = "trusted_pool.link.pinned:PinnedLink"
JOURNAL = "trusted_pool.journal.sqlite:SqliteJournal"

#: Where the coordinator dies. None of it may cost an attempt.
COORDINATOR = {
    "the blob is published, its job not committed": "trusted_pool.coordinator.contents:Contents.keep:after",
    "the job's rows are written, their transaction is open": "trusted_pool.store.writer:commit:after:Submitted",
    "the job is committed, its submit not answered": f"{STORE}:after:'Submitted'",
    "a worker is chosen, nothing is committed": f"{STORE}:before:'Placed'",
    "the placement is committed, the job not sent": f"{STORE}:after:'Placed'",
    "the job is sent, the answer not committed": f"{LINK}.submit:after",
    "the end is committed, no result copied": f"{STORE}:after:'Ended'",
    "a part of the results is copied": f"{LINK}.output:after",
    "the results are copied, not accepted": f"{STORE}:before:'Collected'",
    "the result is accepted, the worker not told": f"{LINK}.release:before",
    "the worker has released it, nobody heard": f"{LINK}.release:after",
}
#: Where the worker dies, how many attempts that costs, how many ends the worker could tell its log.
WORKER = {
    "the files are there, the attempt is not accepted": (f"{JOURNAL}.accept:before", 1, 1),
    "the attempt is accepted, the submit not answered": (f"{JOURNAL}.accept:after", 2, 1),
    "the program has ended, nothing is written down": (f"{JOURNAL}.put:before:ended", 2, 1),
    "the end is written down, nobody told": (f"{JOURNAL}.put:after:ended", 1, 0),
    "the release is heard, nothing deleted": (f"{JOURNAL}.delete:before", 1, 1),
    "the entry is deleted, the files are not": (f"{JOURNAL}.delete:after", 1, 1),
}

PROGRAM = b"""
import os, sys
print("attempt", os.environ["TRUSTED_POOL_ATTEMPT"], flush=True)
data = open("data.bin", "rb").read()
with open("out.bin", "wb") as file:
    file.write(data[::-1])
"""
DATA = bytes(range(256)) * 1024  #: too large for the store's rows and for an event, so all goes through blobs


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPool]:
    with RealPool(tmp_path_factory.mktemp("points"), [2], options=("--check-interval", "200ms")) as pool:
        yield pool
        until_released(pool)
        pool.coordinator.stop()
        results = accepted_results(pool)
        assert set(results.values()) == {1}, results


def submitted(pool: RealPool, max_attempts: int = 3, program: bytes = PROGRAM) -> str:
    """Submit a job as a patient client does: again with the same key until it is acknowledged."""
    manifest = json.dumps({"memory_mb": 64, "retry": {"max_attempts": max_attempts}, "entrypoint": "main.py"})
    files = [("files", ("main.py", program)), ("files", ("data.bin", DATA)), ("manifest", (None, manifest))]
    key = f"key-{time.monotonic_ns()}"
    return str(insists(lambda: pool.http.post("/submit", files=files, headers={"Idempotency-Key": key}))["job_id"])


def insists(ask: Callable[[], httpx.Response]) -> dict[str, object]:
    """Ask again until an answer comes, which must be 200."""

    def answer() -> httpx.Response | None:
        try:
            return ask()
        except httpx.TransportError:
            return None

    found = until(answer, "an answer")
    assert found.status_code == 200, found.text
    return dict(found.json())


def crashing(daemon: Daemon, point: str) -> list[str]:
    """Let a daemon be killed at a point from its next start on; return its command as it was."""
    usual = list(daemon.command)
    verb = next(n for n, word in enumerate(usual) if word in ("coordinator", "worker"))
    daemon.command = [sys.executable, str(CRASHING), point, *usual[verb:]]
    return usual


def restarted(pool: RealPool, daemon: Daemon) -> None:
    daemon.kill9()
    daemon.start()
    pool.until_up()
    pool.until_healthy(1)


def killed_at(pool: RealPool, daemon: Daemon, point: str, work: Callable[[], str]) -> str:
    """Do something while a daemon waits for its end at a point, then start it again as usual."""
    usual = crashing(daemon, point)
    try:
        restarted(pool, daemon)
        with ThreadPoolExecutor(1) as threads:
            begun = threads.submit(work)
            try:
                assert daemon.wait(30) == -9, daemon.log
            finally:
                daemon.command = usual
                if daemon.code is not None:
                    daemon.start()
            return begun.result()
    finally:
        daemon.command = usual


def completed(pool: RealPool, job_id: str, attempts: int, ends: int) -> None:
    """The job is completed with the right bytes, one result, so many attempts and ends, and nothing is left of it."""
    pool.until_up()
    status = pool.wait(job_id)
    assert (status["state"], spent(status)) == ("completed", attempts), status
    assert pool.outputs(job_id)["out.bin"] == DATA[::-1]
    assert pool.http.get(f"/logs/{job_id}/stdout").text == f"attempt {attempts}\n"
    assert kinds(pool, job_id, "Submitted", "Collected") == [("Submitted", 0), ("Collected", len(status["attempts"]))]
    assert len(kinds(pool, job_id, "Placed")) == len(status["attempts"])
    until_released(pool)
    assert runs_ended(pool)[job_id] == ends


@pytest.mark.parametrize("point", COORDINATOR.values(), ids=COORDINATOR.keys())
def test_the_coordinator_is_killed_when(pool: RealPool, point: str):
    job_id = killed_at(pool, pool.coordinator, point, lambda: submitted(pool, max_attempts=1))
    completed(pool, job_id, attempts=1, ends=1)


@pytest.mark.parametrize(("point", "attempts", "ends"), WORKER.values(), ids=WORKER.keys())
def test_the_worker_is_killed_when(pool: RealPool, point: str, attempts: int, ends: int):
    job_id = killed_at(pool, pool.workers[0], point, lambda: submitted(pool))
    completed(pool, job_id, attempts, ends)


@pytest.mark.parametrize("point", [f"{JOURNAL}.accept:after", f"{JOURNAL}.put:before:ended"])
def test_a_job_with_one_attempt_is_not_started_again_when_its_worker_is_killed(pool: RealPool, point: str):
    job_id = killed_at(pool, pool.workers[0], point, lambda: submitted(pool, max_attempts=1))
    status = pool.wait(job_id)
    assert (status["state"], status["reason"], status["fault"]) == ("failed", "interrupted", "worker"), status
    assert (status["retryable"], len(status["attempts"])) == (True, 1)
    until_released(pool)
    assert runs_ended(pool)[job_id] == 0
    assert kinds(pool, job_id, "Placed") == [("Placed", 1)]


def test_the_coordinator_is_killed_when_a_cancel_is_committed_and_the_worker_not_told(pool: RealPool):
    def cancelled() -> str:
        job_id = submitted(pool, program=b"import time; time.sleep(100)")
        pool.until_state(job_id, "running")
        insists(lambda: pool.http.post(f"/cancel/{job_id}"))
        return job_id

    job_id = killed_at(pool, pool.coordinator, f"{STORE}:after:'CancelRequested'", cancelled)
    pool.until_up()
    status = pool.wait(job_id)
    assert (status["state"], len(status["attempts"])) == ("cancelled", 1), status
    until_released(pool)
    assert runs_ended(pool)[job_id] == 1
