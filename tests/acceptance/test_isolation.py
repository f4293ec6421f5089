"""The isolation level from the worker's measurement to the manifest that asks for it and the outcome that says it."""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from support.real_pool import RealPool, run_tpool

JOB = {"main.py": b"print('held')\n"}
WEAKEN = [sys.executable, str(Path(__file__).parents[1] / "support" / "weaken.py")]


def capacities(pool: RealPool) -> list[dict[str, Any]]:
    answer = pool.http.get("/workers")
    assert answer.status_code == 200, answer.text
    return [worker["capacity"] for worker in answer.json()["workers"]]


def test_a_result_says_under_which_level_and_policy_it_was_made(shared_pool: RealPool):
    first, second = capacities(shared_pool)
    assert first["policy"] == second["policy"], "two workers of one machine hold jobs in the same way"
    job = shared_pool.submit(JOB, {"isolation": first["isolation"]})
    status = shared_pool.wait(job)
    assert status["state"] == "completed", status
    outcome = status["attempts"][-1]["outcome"]
    assert (outcome["isolation"], outcome["policy"]) == (first["isolation"], first["policy"])
    text = run_tpool("doctor", "--policy").stdout
    assert hashlib.sha256(text.encode()).hexdigest() == first["policy"], "whoever runs the doctor there can check it"
    assert f"\nfilter {first['seccomp']}\n" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="taking something of a machine away needs root")
def test_a_job_that_asks_for_more_than_was_measured_is_refused(tmp_path: Path, bwrap: str):
    assert bwrap
    with RealPool(tmp_path, (1,), running=False) as pool:
        (worker,) = pool.workers
        worker.command = [*WEAKEN, "no_cgroups", "-1", *worker.command]
        worker.start()
        pool.until_healthy(1)
        assert capacities(pool)[0]["isolation"] == 1
        refused = pool.post(JOB, {"isolation": 2})
        assert refused.status_code == 422, refused.text
        assert "isolation level 1, the job asks for 2" in refused.text
        status = pool.wait(pool.submit(JOB, {"isolation": 1}))
        assert status["state"] == "completed", status
        outcome = status["attempts"][-1]["outcome"]
        assert (outcome["isolation"], outcome["usage"]["approximate"]) == (1, True)
