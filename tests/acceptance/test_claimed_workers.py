"""A worker that speaks only the sandrun API, in a pool of real processes: what it can keep, and what is said of it."""

import io
import json
import signal
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.archives import tar_gz
from support.real_pool import RealPool, run_tpool, until
from support.sandrun_worker import SandrunWorker
from trusted_pool.protocol.identity import identity_of

MANIFEST = {"entrypoint": "main.py", "interpreter": "python3"}
HELLO = {"main.py": b"import sys; print('hello', *sys.argv[1:]); open('out.txt', 'w').write('result')\n"}


def sleeper(seconds: float) -> dict[str, bytes]:
    return {"main.py": f"import time; time.sleep({seconds}); open('out.txt', 'w').write('late')\n".encode()}


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[SandrunWorker]:
    with SandrunWorker(tmp_path / "claimed", identity_of(Ed25519PrivateKey.generate()), gap_s=0.2) as worker:
        yield worker


@pytest.fixture
def pool(tmp_path: Path, worker: SandrunWorker) -> Iterator[RealPool]:
    """A coordinator with this one worker."""
    pool = RealPool(tmp_path / "pool", workers=(), running=False)
    pool.allow(worker.entry)
    with pool:
        pool.until_healthy(1)
        yield pool


def story(pool: RealPool, job_id: str) -> list[str]:
    return [event["kind"] for event in pool.http.get(f"/history/{job_id}").json()["events"]]


def spent(status: dict[str, Any]) -> int:
    return sum(attempt.get("spent", False) for attempt in status["attempts"])


def running(pool: RealPool, worker: SandrunWorker, seconds: float, **manifest: object) -> str:
    """Submit a job that takes so long, and return when it has been started."""
    before = len(worker.starts)
    job_id = pool.submit(sleeper(seconds), MANIFEST | manifest)
    until(lambda: len(worker.starts) > before, "a start")
    pool.until_state(job_id, "running")
    return job_id


def occupy(worker: SandrunWorker, seconds: float) -> None:
    """Let somebody else's job run there."""
    before = len(worker.starts)
    parts: list[tuple[str, Any]] = [("files", ("project.tar.gz", tar_gz(sleeper(seconds))))]
    parts.append(("manifest", (None, json.dumps(MANIFEST))))
    assert httpx.post(f"{worker.endpoint}/submit", files=parts, trust_env=False).status_code == 200
    until(lambda: len(worker.starts) > before, "a start")


def test_outputs_and_logs_outlive_the_deletion_by_the_worker(pool: RealPool, worker: SandrunWorker) -> None:
    job_id = pool.submit(HELLO, MANIFEST | {"args": ["wörld"]})
    status = pool.wait(job_id)
    assert (status["state"], status["worker_id"]) == ("completed", worker.worker_id)
    assert status["worker_status"]["execution_metadata"]["exit_code"] == 0
    worker.keep_s = 0.0
    until(lambda: not worker.knows(), "the deletion")
    assert pool.outputs(job_id) == {"out.txt": b"result"}
    assert pool.http.get(f"/logs/{job_id}").json()["stdout"] == "hello wörld\n"
    assert story(pool, job_id) == ["Submitted", "Placed", "Accepted", "Started", "Ended", "Collected"]
    assert pool.pool()["workers"][0]["active_jobs"] == 0


def test_plain_files_arrive_as_a_tarball(pool: RealPool, worker: SandrunWorker) -> None:
    parts = [("files", ("main.py", HELLO["main.py"])), ("files", ("data.txt", b"data"))]
    job_id = pool.http.post("/submit", files=parts).json()["job_id"]
    assert pool.wait(job_id)["state"] == "completed"
    assert pool.outputs(job_id) == {"out.txt": b"result"}
    (submit,) = worker.submits
    with tarfile.open(fileobj=io.BytesIO(submit.files["project.tar.gz"])) as tar:
        assert sorted(tar.getnames()) == ["data.txt", "main.py"]


def test_it_is_shown_as_unproven_everywhere(pool: RealPool, worker: SandrunWorker) -> None:
    (shown,) = pool.pool()["workers"]
    assert (shown["worker_id"], shown["identity"]) == (worker.worker_id, "claimed")
    assert (shown["max_concurrent_jobs"], shown["capacity"]["isolation"]) == (1, 0)
    said = run_tpool("pool", "--addr", pool.url)
    assert said.returncode == 0, said.stderr
    assert "(unproven)" in said.stdout
    assert f"{worker.worker_id[:12]}…: unproven: anybody can claim its name" in said.stdout
    name = worker.worker_id[:12].replace("+", "-").replace("/", "_")
    assert f'trusted_pool_worker_proven{{worker="{name}"}} 0.0' in pool.http.get("/metrics").text
    log = [line for line in pool.coordinator.log.splitlines() if "unproven" in line]
    assert len(log) == 2, log
    assert f"Worker {worker.worker_id[:12]}... is unproven: anybody can claim its name" in log[0], "when it is added"
    assert f"Worker {worker.worker_id[:12]}... is healthy (unproven" in log[1], "when it first answers"


def test_one_at_a_time_and_no_faster_than_it_starts_them(pool: RealPool, worker: SandrunWorker) -> None:
    worker.gap_s = 1.0
    jobs = [pool.submit(HELLO, MANIFEST) for _ in range(4)]
    assert [pool.wait(job_id)["state"] for job_id in jobs] == ["completed"] * 4
    assert worker.most_open == 1
    assert [submit.answered for submit in worker.submits] == [200] * 4
    gaps = [later - earlier for earlier, later in zip(worker.starts, worker.starts[1:], strict=False)]
    assert min(gaps) > 0.9


def test_429_waits_and_spends_no_attempt(pool: RealPool, worker: SandrunWorker) -> None:
    worker.hourly = 0
    job_id = pool.submit(HELLO, MANIFEST | {"retry": {"max_attempts": 1}})
    until(lambda: len(worker.submits) >= 2, "another try")
    status = pool.status(job_id)
    assert (status["state"], status["completed_at"]) in (("queued", None), ("dispatched", None))
    assert pool.pool()["healthy_workers"] == 1
    first, second = worker.submits[:2]
    assert second.at - first.at > 1.9, "it was asked again at once"
    worker.hourly = 20
    status = pool.wait(job_id)
    assert (status["state"], spent(status)) == ("completed", 1)
    assert "WorkerFull" in story(pool, job_id)


def test_a_lost_reply_is_worker_loss_and_never_sent_again(pool: RealPool, worker: SandrunWorker) -> None:
    worker.lose_replies = 1
    job_id = pool.submit(HELLO, MANIFEST | {"retry": {"max_attempts": 1}})
    status = pool.wait(job_id)
    assert (status["state"], status["reason"], status["fault"]) == ("failed", "worker_lost", "worker")
    assert "never sent" in status["failure"]["message"]
    assert status["failure"]["retryable"]
    pool.until_healthy(1)
    assert pool.wait(pool.submit(HELLO, MANIFEST))["state"] == "completed"
    assert len(worker.submits) == 2


def test_after_a_lost_reply_the_policy_of_the_job_decides(pool: RealPool, worker: SandrunWorker) -> None:
    worker.lose_replies = 1
    status = pool.wait(pool.submit(HELLO, MANIFEST))
    assert (status["state"], spent(status)) == ("completed", 2)
    assert [a["state"] for a in status["attempts"]] == ["interrupted", "collected"]
    assert len(worker.submits) == 2
    worker.lose_replies = 1
    held = pool.submit(HELLO, MANIFEST | {"retry": {"on_worker_loss": "hold"}})
    until(lambda: pool.status(held)["reason"] == "worker_lost", "a held job")
    pool.coordinator.kill9()
    pool.coordinator.start()
    pool.until_up()
    pool.until_healthy(1)
    checked = pool.pool()["workers"][0]["last_health_check"]
    until(lambda: pool.pool()["workers"][0]["last_health_check"] > checked, "another check")
    assert pool.status(held)["state"] == "dispatched"
    assert len(worker.submits) == 3


def test_a_job_goes_on_while_the_coordinator_is_killed(pool: RealPool, worker: SandrunWorker) -> None:
    job_id = running(pool, worker, 1.5)
    pool.coordinator.kill9()
    pool.coordinator.start()
    pool.until_up()
    status = pool.wait(job_id)
    assert (status["state"], spent(status)) == ("completed", 1)
    assert pool.outputs(job_id) == {"out.txt": b"late"}
    assert len(worker.submits) == 1


def test_a_dispatch_cut_by_the_death_of_the_coordinator_is_not_repeated(pool: RealPool, worker: SandrunWorker) -> None:
    worker.holds_back = True
    occupy(worker, 3.0)
    job_id = pool.submit(HELLO, MANIFEST | {"retry": {"max_attempts": 1}})
    pool.until_state(job_id, "dispatched")
    until(lambda: worker.waiting, "the submit to arrive")
    pool.coordinator.kill9()
    pool.coordinator.start()
    pool.until_up()
    status = pool.wait(job_id)
    assert (status["state"], status["reason"]) == ("failed", "worker_lost")
    until(lambda: not worker.waiting, "the end of what blocks")
    assert len(worker.submits) == 2, "what the first coordinator sent, and what occupied the worker"


def test_a_restarted_worker_has_lost_its_job_which_is_tried_again(pool: RealPool, worker: SandrunWorker) -> None:
    job_id = running(pool, worker, 1.0)
    worker.stop()
    worker.start()
    status = pool.wait(job_id)
    assert (status["state"], spent(status)) == ("completed", 2)
    assert pool.outputs(job_id) == {"out.txt": b"late"}
    assert [a["state"] for a in status["attempts"]] == ["interrupted", "collected"]


def test_results_that_vanished_before_they_were_fetched_are_said_to_be_gone(
    pool: RealPool, worker: SandrunWorker
) -> None:
    job_id = running(pool, worker, 1.0, retry={"max_attempts": 1})
    pool.coordinator.send(signal.SIGSTOP)
    until(lambda: worker.ended == 1, "the end of the job")
    worker.forget()
    pool.coordinator.send(signal.SIGCONT)
    status = pool.wait(job_id)
    assert (status["state"], status["reason"], status["fault"]) == ("failed", "interrupted", "worker")
    assert "does not know it any more" in status["failure"]["message"]


def test_a_cancelled_job_is_cancelled_when_it_has_run_to_its_end(pool: RealPool, worker: SandrunWorker) -> None:
    job_id = running(pool, worker, 1.5)
    assert pool.http.post(f"/cancel/{job_id}").status_code == 200
    status = pool.status(job_id)
    assert (status["state"], status["reason"]) == ("running", "cancelling")
    assert pool.wait(job_id)["state"] == "cancelled"
    assert worker.ended == 1
    assert pool.outputs(job_id) == {}
    assert len(worker.submits) == 1


def test_what_asks_for_isolation_or_for_what_it_cannot_be_told_does_not_go_there(
    pool: RealPool, worker: SandrunWorker
) -> None:
    refused = pool.post(HELLO, MANIFEST | {"isolation": 1})
    assert refused.status_code == 422
    assert "isolation level 0" in refused.text
    status = pool.wait(pool.submit(HELLO, MANIFEST | {"env": {"A": "b"}}))
    assert (status["state"], status["reason"]) == ("failed", "rejected")
    assert "env" in status["failure"]["message"]
    assert worker.submits == []


def test_the_allowlist_says_how_a_worker_is_known_and_may_change_it(pool: RealPool, worker: SandrunWorker) -> None:
    for entry, words in (
        (worker.entry | {"identity": "claims"}, 'must be "proven"'),
        (worker.entry | {"endpoint": worker.endpoint.replace("http:", "https:")}, "plain HTTP"),
    ):
        pool.allow(entry)
        pool.coordinator.send(signal.SIGHUP)
        pool.coordinator.said(words)
        assert pool.pool()["healthy_workers"] == 1
    pool.allow({name: value for name, value in worker.entry.items() if name != "identity"})
    pool.coordinator.send(signal.SIGHUP)
    until(lambda: pool.pool()["workers"][0]["identity"] == "proven", "the new entry")
    until(lambda: pool.pool()["healthy_workers"] == 0, "a worker that proves nothing to be left alone")
    assert pool.submit(HELLO, MANIFEST)
    end = time.monotonic() + 1.5
    until(lambda: time.monotonic() > end, "some checks")
    assert worker.submits == []
    pool.allow(worker.entry)
    pool.coordinator.send(signal.SIGHUP)
    until(lambda: len(worker.submits) == 1, "the job that waited")
