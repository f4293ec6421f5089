"""Two coordinators of one pool, as after a restore while the old one runs: the one started last has the workers."""

import re
from pathlib import Path
from typing import Any

import pytest

from support.real_pool import RealPool, run_tpool, until
from support.traces import LASTS, health_of, runs_ended, until_released, worker_of

pytestmark = pytest.mark.usefixtures("bwrap")

SMALL = {"memory_mb": 64}


def explain(pool: RealPool, job_id: str) -> dict[str, Any]:
    return dict(pool.http.get(f"/explain/{job_id}").json())


@pytest.mark.timeout(150)
def test_the_older_is_fenced_and_nothing_runs_twice(tmp_path: Path):
    with RealPool(tmp_path / "old", (2,)) as old:
        (worker,) = old.workers
        running = [old.submit(LASTS, {**SMALL, "args": ["8", "0"]}) for _ in range(2)]
        waiting = [old.submit(LASTS, {**SMALL, "args": ["0", "0"]}) for _ in range(3)]
        for job_id in running:
            old.until_state(job_id, "running")
        new = RealPool(tmp_path / "new", (), running=False)
        for words in (("backup", tmp_path / "copy.tar", "--data", old.data), ("restore", tmp_path / "copy.tar")):
            done = run_tpool(*words, *(() if words[0] == "backup" else ("--data", new.data)))
            assert done.returncode == 0, done.stderr
        new.allow(worker.entry)
        with new:
            new.until_healthy(1)
            assert new.pool()["pool_id"] == old.pool()["pool_id"]
            until(lambda: health_of(old, worker) == "fenced", "a fenced worker")
            said = str(worker_of(old, worker)["words"])
            assert "another coordinator of this pool has this worker" in said
            assert "stop one of the two" in said
            old.coordinator.said(f"ERROR:__main__:Worker {worker.worker_id[:12]}... is fenced off")
            assert "fenced" in run_tpool("pool", "--addr", old.url).stdout
            assert re.search(r'worker_health\{.*health="fenced".*\} 1\.0', old.http.get("/metrics").text)

            left = old.submit(LASTS, {**SMALL, "args": ["0", "0"]})
            assert old.http.post(f"/cancel/{running[0]}").status_code == 200  # asked of who has no say there
            for job_id in (*running, *waiting):
                status = new.wait(job_id)
                assert (status["state"], len(status["attempts"])) == ("completed", 1), status
                assert new.outputs(job_id)["attempt.txt"] == b"1"
            until_released(old)
            assert runs_ended(old) == dict.fromkeys((*running, *waiting), 1)
            assert health_of(new, worker) == "healthy"
            assert {old.status(job_id)["state"] for job_id in running} == {"running"}
            assert {old.status(job_id)["state"] for job_id in (*waiting, left)} == {"queued"}
            assert "another coordinator" in explain(old, running[1])["message"]
            assert "another coordinator" in str(explain(old, left)["workers"])
        old.coordinator.stop()
        old.coordinator.start()  # what the words say to do
        old.until_up()
        old.until_healthy(1)
        assert old.wait(left)["state"] == "completed"
