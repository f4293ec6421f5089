"""The life of a job as its owner and an operator see it: queue, pause, cancel, explain, story, rerun, lists."""

import json
import os
import random  # noqa: TID251 - seeded, and the seed is printed
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.real_pool import RealPool, run_tpool, until
from support.traces import SHORT, history, kinds, runs_ended, spent, tpool, until_released

SMALL = {"memory_mb": 64}
LONG = {"main.py": b"import time; print('begun', flush=True); time.sleep(600)"}
ON_ONE = {**SMALL, "constraints": {"site": "one"}}  #: a worker with one slot


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, bwrap: str) -> Iterator[RealPool]:
    """Return a pool of a worker with one slot at site one, and one with three slots at site three."""
    assert bwrap
    pool = RealPool(tmp_path_factory.mktemp("life"), [1, 3])
    for worker, site in zip(pool.workers, ("one", "three"), strict=True):
        worker.command += ["--label", f"site={site}", "--memory", "2G"]
    with pool:
        yield pool
        pool.http.post("/jobs/cancel", json={"all": True})
        until_released(pool)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a directory that `tpool submit` takes."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project/main.py").write_bytes(SHORT["main.py"])
    return tmp_path / "project"


@contextmanager
def paused(pool: RealPool) -> Iterator[None]:
    assert tpool(pool, "pause") == {"paused": True}
    try:
        yield
    finally:
        assert tpool(pool, "resume") == {"paused": False}


def ask(pool: RealPool, verb: str, path: str, code: int = 200, **options: Any) -> dict[str, Any]:
    answer = pool.http.request(verb, path, **options)
    assert answer.status_code == code, (answer.status_code, answer.text)
    return dict(answer.json())


def ended(pool: RealPool, job_id: str) -> float:
    """Wait for a completed job and return when it was started."""
    status = pool.wait(job_id)
    assert status["state"] == "completed", status
    return float(status["attempts"][-1]["started_at"])


def test_an_owners_jobs_go_by_age_and_priority_which_may_change(pool: RealPool, project: Path):
    with paused(pool):
        first, second, third, fourth = (pool.submit(SHORT, ON_ONE) for _ in range(4))
        urgent = tpool(pool, "submit", project, "-m", "constraints.site=one", "-m", "priority=2")["job_id"]
        assert tpool(pool, "priority", third, "1")["job"]["priority"] == 1
        assert ask(pool, "POST", f"/priority/{first}", json={"priority": -5})["priority"] == -5
        order = [urgent, third, second, fourth, first]
        assert [pool.status(job_id)["queue_position"] for job_id in order] == [0, 1, 2, 3, 4]
        assert "4 jobs go before it" in tpool(pool, "explain", first)["explain"]["message"]
    begun = [ended(pool, job_id) for job_id in order]
    assert begun == sorted(begun)
    assert ask(pool, "POST", f"/priority/{first}", 409, json={"priority": 1})["error"]["code"] == "not_queued"
    ask(pool, "POST", f"/priority/{first}", 400, json={"priority": 5000})


def test_a_job_that_is_not_started_in_time_expires(pool: RealPool, project: Path):
    with paused(pool):
        job_id = tpool(pool, "submit", project, "-m", "expires_in=1s")["job_id"]
        status = ask(pool, "GET", f"/status/{job_id}")
        assert status["expires_at"] == pytest.approx(status["submitted_at"] + 1)
        answer = tpool(pool, "wait", job_id, code=125)["job"]
        assert (answer["state"], answer["reason"], answer["fault"]) == ("failed", "expired", "operator")
        assert answer["retryable"]
        assert answer["completed_at"] - answer["expires_at"] < 2
        assert "expires_in" in tpool(pool, "explain", job_id)["explain"]["hint"]
    assert kinds(pool, job_id) == [("Submitted", 0), ("Expired", 0)]
    in_time = pool.submit(SHORT, {**SMALL, "expires_in": "5m"})
    assert pool.wait(in_time)["state"] == "completed"


def test_a_pause_is_kept_over_a_restart_and_lets_what_runs_go_on(pool: RealPool):
    runs = pool.submit({"main.py": b"import time; time.sleep(2)"}, SMALL)
    pool.until_state(runs, "running")
    with paused(pool):
        waits = pool.submit(SHORT, SMALL)
        explained = tpool(pool, "explain", waits)["explain"]
        assert (explained["verdict"], explained["message"]) == ("waits", "the pool is paused")
        pool.coordinator.kill9()
        pool.coordinator.start()
        pool.until_up()
        pool.until_healthy(2)
        assert pool.pool()["paused"]
        assert pool.wait(runs)["state"] == "completed"
        assert pool.status(waits)["state"] == "queued"
    assert spent(pool.wait(waits)) == 1


def test_a_waiting_job_says_for_each_worker_why_not(pool: RealPool):
    holds = pool.submit(LONG, ON_ONE)
    pool.until_state(holds, "running")
    waits = pool.submit(SHORT, ON_ONE)
    explained = tpool(pool, "explain", waits)["explain"]
    assert (explained["state"], explained["verdict"], explained["queue_position"]) == ("queued", "waits", 0)
    one, three = (worker.worker_id for worker in pool.workers)
    why = {w["worker_id"]: [(o["code"], o["impossible"]) for o in w["obstacles"]] for w in explained["workers"]}
    assert why == {one: [("slots", False)], three: [("label", True)]}
    waiting = {w["worker_id"]: w["obstacles"] for w in ask(pool, "GET", f"/status/{waits}")["waiting_for"]}
    assert "taken" in waiting[one][0]["message"]
    shown = run_tpool("explain", waits, "--addr", pool.url).stdout
    assert "no capacity now: all 1 slots are taken" in shown
    assert "impossible here: label site is 'three', the job asks for 'one'" in shown
    running = tpool(pool, "explain", holds)["explain"]
    assert (running["verdict"], running["workers"]) == ("running", [])
    assert tpool(pool, "cancel", holds)["job_id"] == holds
    assert pool.wait(waits)["state"] == "completed"
    assert tpool(pool, "explain", waits)["explain"]["verdict"] == "ran"


def test_a_dry_run_says_what_would_become_of_it_and_keeps_nothing(pool: RealPool, project: Path):
    before = pool.pool()["total_jobs"]
    answer = tpool(pool, "submit", project, "--dry-run")["dry_run"]
    assert (answer["admitted"], answer["verdict"], answer["manifest"]["entrypoint"]) == (True, "starts_soon", "main.py")
    for field, code in (("memory_mb=100000", "memory"), ("constraints.site=two", "label"), ("cpus=999", "cpus")):
        answer = tpool(pool, "submit", project, "--dry-run", "-m", field, code=3)["dry_run"]
        assert (answer["admitted"], answer["verdict"]) == (False, "impossible")
        obstacles = [o for w in answer["workers"] for o in w["obstacles"]]
        assert {(o["code"], o["impossible"]) for o in obstacles} == {(code, True)}
    with paused(pool):
        assert tpool(pool, "submit", project, "--dry-run")["dry_run"]["verdict"] == "waits"
    refused = pool.post(SHORT, {"memory_mb": 100_000})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "unplaceable")
    assert len(refused.json()["error"]["detail"]["workers"]) == 2
    assert pool.pool()["total_jobs"] == before


def test_cancelled_jobs_are_not_dispatched_and_running_ones_are_ended(pool: RealPool):
    with paused(pool):
        queued = pool.submit(SHORT, SMALL)
        assert tpool(pool, "cancel", queued) == {"job_id": queued, "status": "cancelled", "cancelled": True}
    running = pool.submit(LONG, SMALL)
    pool.until_state(running, "running")
    answer = ask(pool, "POST", f"/cancel/{running}")
    assert (answer["cancelled"], answer["status"]) == (False, "running")
    status = pool.wait(running)
    assert (status["state"], status["reason"], status["fault"]) == ("cancelled", "cancelled", None)
    assert ask(pool, "POST", f"/cancel/{running}")["cancelled"], "again is no error"
    assert kinds(pool, queued) == [("Submitted", 0), ("CancelRequested", 0)]
    done = pool.submit(SHORT, SMALL)
    pool.wait(done)
    assert "tpool outputs" in ask(pool, "POST", f"/cancel/{done}", 409)["error"]["hint"]
    until_released(pool)


STUBBORN = b"""
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: print("heard", flush=True))
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            time.sleep(1)
while True:
    time.sleep(1)
"""


def test_a_program_that_ignores_a_cancel_is_killed_with_its_whole_tree(pool: RealPool):
    def alive() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                found += [process] if marker in " ".join(process.cmdline()) else []
            except psutil.Error:
                continue
        return found

    marker = f"stubborn-{os.getpid()}"
    job_id = pool.submit({"main.py": STUBBORN}, {**SMALL, "args": [marker]})
    until(lambda: len(alive()) >= 3, "its three processes")
    asked_at = time.monotonic()
    tpool(pool, "cancel", job_id)
    status = pool.wait(job_id)
    assert status["state"] == "cancelled"
    assert 9 < time.monotonic() - asked_at < 20
    assert until(lambda: not alive(), "the end of the whole tree", 2)
    assert "heard" in pool.http.get(f"/logs/{job_id}/stdout").text


def test_all_jobs_that_a_filter_meets_are_cancelled(pool: RealPool):
    with paused(pool):
        batch = [pool.submit(SHORT, {**SMALL, "labels": {"batch": "a"}, "name": f"n{n % 2}"}) for n in range(6)]
        other = pool.submit(SHORT, {**SMALL, "labels": {"batch": "b"}})
        answer = tpool(pool, "cancel", "--label", "batch=a", "--name", "n0", "--state", "queued")
        assert (answer["cancelled"], sorted(answer["job_ids"])) == (3, sorted(batch[::2]))
        answer = ask(pool, "POST", "/jobs/cancel", json={"labels": {"batch": "a"}})
        assert sorted(answer["job_ids"]) == sorted(batch[1::2])
        assert {pool.status(job_id)["state"] for job_id in batch} == {"cancelled"}
        assert pool.status(other)["state"] == "queued"
        ask(pool, "POST", "/jobs/cancel", 400, json={})
    assert pool.wait(other)["state"] == "completed"


def test_cancel_racing_with_completion_has_one_winner(pool: RealPool):
    seed = int.from_bytes(os.urandom(4), "big")
    dice = random.Random(seed)  # noqa: S311 - no secret
    moments = [dice.uniform(0.0, 0.5) for _ in range(50)]

    def race(moment: float) -> tuple[str, int, dict[str, Any]]:
        job_id = pool.submit({"main.py": b"import time; time.sleep(0.1); open('f', 'w').write('done')"}, SMALL)
        threading.Event().wait(moment)
        answer = pool.http.post(f"/cancel/{job_id}")
        return job_id, answer.status_code, answer.json()

    with ThreadPoolExecutor(4) as threads:
        races = list(threads.map(race, moments))
    seen = set()
    for job_id, code, answer in races:
        status = pool.wait(job_id)
        state = status["state"]
        seen.add((code, state))
        story = [kind for kind, _ in kinds(pool, job_id)]
        if code == 409:
            assert state == "completed", (seed, answer, status)
            assert "CancelRequested" not in story
        elif answer["cancelled"]:
            assert (state, story[-1]) == ("cancelled", "CancelRequested"), (seed, answer, status)
        else:
            assert state in ("cancelled", "completed"), (seed, answer, status)
            assert story.count("Collected") + story.count("CancelConfirmed") == 1, (seed, story)
        if state == "completed":  # what a cancelled one had left until then is kept too
            assert pool.outputs(job_id) == {"f": b"done"}, (seed, status)
    assert {code for code, _ in seen} == {200, 409}, f"{seed}: no race at all"
    until_released(pool)
    assert pool.pool()["workers"][0]["active_jobs"] == pool.pool()["workers"][1]["active_jobs"] == 0
    assert not set(runs_ended(pool).values()) - {1}


def test_the_story_of_a_job_is_told_whole(pool: RealPool):
    job_id = pool.submit({"main.py": b"raise SystemExit(3)"}, SMALL)
    assert tpool(pool, "wait", job_id, code=1)["job"]["reason"] == "exit_code"
    events = tpool(pool, "history", job_id)["events"]
    assert events == ask(pool, "GET", f"/history/{job_id}")["events"] == history(pool, job_id)
    told = [e["kind"] for e in events]
    assert told == ["Submitted", "Placed", "Accepted", "Started", "Ended", "Collected"]
    assert [e["seq"] for e in events] == sorted(e["seq"] for e in events)
    assert events[1]["data"]["worker_id"] == pool.status(job_id)["worker_id"]
    assert events[4]["data"]["outcome"]["exit_code"] == 3
    record = tpool(pool, "explain", job_id)["explain"]["failure"]
    assert (record["reason"], record["fault"], record["retryable"], record["exit_code"]) == (
        "exit_code",
        "user",
        False,
        3,
    )
    ask(pool, "GET", "/history/pool-0000000000000000", 404)


def test_a_failure_says_what_was_seen(pool: RealPool):
    greedy = pool.submit({"main.py": b"x = bytearray(10**9)"}, SMALL)
    slow = pool.submit(LONG, {**SMALL, "timeout": 1})
    answer = tpool(pool, "wait", greedy, code=1)["job"]
    assert (answer["reason"], answer["fault"], answer["retryable"]) == ("out_of_memory", "limit", False)
    record = tpool(pool, "explain", greedy)["explain"]["failure"]
    assert record["limit"] == "memory_mb"
    assert 0 < record["evidence"]["memory_peak_bytes"] <= record["evidence"]["memory_limit_bytes"] == 64 * 2**20
    answer = tpool(pool, "wait", slow, code=124)["job"]
    assert (answer["reason"], answer["failure"]["limit"]) == ("timeout", "timeout")


def test_a_rerun_is_a_new_job_of_the_same_files(pool: RealPool):
    manifest = {**SMALL, "args": ["seven"], "name": "again", "labels": {"a": "b"}}
    old = pool.submit({"main.py": b"import sys; print(*sys.argv[1:])"}, manifest)
    pool.wait(old)
    new = tpool(pool, "rerun", old)["job_id"]
    status = pool.wait(new)
    assert (status["state"], status["rerun_of"], status["name"]) == ("completed", old, "again")
    assert status["manifest"] == pool.status(old)["manifest"]
    assert pool.http.get(f"/logs/{new}/stdout").text == "seven\n"
    assert ask(pool, "POST", f"/rerun/{new}")["status"] == "queued"


def test_the_same_key_means_the_same_job(pool: RealPool):
    def post(key: str, program: bytes, **manifest: Any) -> Any:
        files = [("files", ("main.py", program)), ("manifest", (None, json.dumps({**SMALL, **manifest})))]
        return pool.http.post("/submit", files=files, headers={"Idempotency-Key": key})

    key = f"key-{time.monotonic_ns()}"
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: post(key, b"print(1)"), range(16)))
    assert {a.status_code for a in answers} == {200}
    (job_id,) = {a.json()["job_id"] for a in answers}
    assert pool.wait(job_id)["state"] == "completed"
    assert post(key, b"print(1)").json()["job_id"] == job_id, "after its end as well"
    for other in (post(key, b"print(2)"), post(key, b"print(1)", name="other")):
        assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert post(key + "x", b"print(1)").json()["job_id"] != job_id
    assert runs_ended(pool)[job_id] == 1


def test_waiting_answers_at_the_next_change_and_not_before(pool: RealPool):
    with paused(pool):
        job_id = pool.submit(SHORT, SMALL)
        began = time.monotonic()
        assert ask(pool, "GET", f"/status/{job_id}?wait=1")["state"] == "queued"
        assert time.monotonic() - began >= 1
        assert run_tpool("wait", job_id, "--timeout", "500ms", "--addr", pool.url).returncode == 124
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(ask, pool, "GET", f"/status/{job_id}?wait=30")
            began = time.monotonic()
            ask(pool, "POST", f"/cancel/{job_id}")
            assert waiting.result()["state"] == "cancelled"
        assert time.monotonic() - began < 10
    assert ask(pool, "GET", f"/status/{job_id}?wait=30")["state"] == "cancelled", "at once: nothing will change"


def test_lists_are_filtered_and_paged(pool: RealPool):
    mark = f"lists-{time.monotonic_ns()}"
    with paused(pool):
        made = [pool.submit(SHORT, {**SMALL, "name": mark, "labels": {"n": str(n % 3)}}) for n in range(7)]
        pool.http.post(f"/cancel/{made[0]}")
        found: list[str] = []
        after: list[str] = []
        while True:
            page = tpool(pool, "jobs", "--name", mark, "--limit", "3", *after)
            found += [job["job_id"] for job in page["jobs"]]
            assert len(page["jobs"]) <= 3
            if page["next"] is None:
                break
            after = ["--after", page["next"]]
        assert found == made[::-1], "newest first, each once"
        jobs = ask(pool, "GET", f"/jobs?name={mark}&label=n%3D0&state=queued,running")["jobs"]
        assert [job["job_id"] for job in jobs] == [made[6], made[3]]
        assert [j["job_id"] for j in tpool(pool, "jobs", "--name", mark, "-s", "cancelled")["jobs"]] == [made[0]]
        moment = pool.status(made[4])["submitted_at"]
        jobs = ask(pool, "GET", "/jobs", params={"name": mark, "since": moment})["jobs"]
        assert [job["job_id"] for job in jobs] == made[:3:-1]
        jobs = ask(pool, "GET", "/jobs", params={"name": mark, "until": moment})["jobs"]
        assert [job["job_id"] for job in jobs] == made[3::-1]
        labelled = tpool(pool, "jobs", "--name", mark, "--label", "n=0", "--since", "1h", "-s", "queued")["jobs"]
        assert [job["job_id"] for job in labelled] == [made[6], made[3]]
        assert tpool(pool, "jobs", "--name", mark, "--until", "1h")["jobs"] == []
        assert tpool(pool, "jobs", "--name", mark, "--owner", "nobody")["jobs"] == []
        tpool(pool, "jobs", "--since", "yesterday", code=2)
        ask(pool, "GET", "/jobs?after=nonsense", 400)
        ask(pool, "GET", "/jobs?state=asleep", 400)
    for job_id in made[1:]:
        pool.wait(job_id)
    one = pool.workers[0].worker_id
    jobs = tpool(pool, "jobs", "--name", mark, "--worker", one)["jobs"]
    assert {job["job_id"] for job in jobs} == {j for j in made[1:] if pool.status(j)["worker_id"] == one}
