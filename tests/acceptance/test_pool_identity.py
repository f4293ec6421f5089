"""Which pool a worker is for: what a pool that it is not for is told to type, and that typing it helps."""

import subprocess
from pathlib import Path

import pytest

from support.real_pool import RealPool, RealWorker, run_tpool, until
from support.traces import worker_of

pytestmark = pytest.mark.usefixtures("bwrap")


def shown(pool: RealPool, worker: RealWorker, words: str) -> str:
    """Wait until a worker's words hold these; they are in `/pool`, in `tpool pool` and in the log alike."""
    until(lambda: words in worker_of(pool, worker)["words"], words)
    said = str(worker_of(pool, worker)["words"])
    listed = run_tpool("pool", "--addr", pool.url)
    assert f"{worker.worker_id[:12]}…: {said}" in listed.stdout.replace("\n", " ").replace("  ", " "), listed.stdout
    pool.coordinator.said(f"Health check failed for {worker.worker_id[:12]}...: {said}")
    return said


def test_a_worker_that_does_not_list_a_pool_says_what_to_type_and_it_works(tmp_path: Path):
    pool = RealPool(tmp_path, (1,), running=False)
    (worker,) = pool.workers
    pools = tmp_path / "my pools"
    pools.write_text("# none yet")
    worker.command += ["--pools", str(pools)]
    with pool:
        worker.start()
        pool_id = pool.pool()["pool_id"]
        said = shown(pool, worker, f"this worker is not for the pool {pool_id}")
        command = said.partition("on the worker's machine type: ")[2]
        assert command.endswith(f">> '{pools}'")
        subprocess.run(["sh", "-c", command], check=True)
        pool.until_healthy(1)
        assert pool.wait(pool.submit({"main.py": b"print(1)"}))["state"] == "completed"
        assert not Path(f"{worker.key}.pool").exists(), "who has a list enrols nobody"


def test_a_worker_forgets_its_pool_while_it_runs_and_enrols_the_next(tmp_path: Path):
    with RealPool(tmp_path / "first", (1,)) as first:
        (worker,) = first.workers
        second = RealPool(tmp_path / "second", (), running=False)
        second.allow(worker.entry)
        with second:
            said = shown(second, worker, "--forget-pool")
            assert f"tpool worker --pool {second.pool()['pool_id']} …" in said
            command = said.rpartition("the pool it is enrolled in: ")[2]
            assert command == f"tpool worker --forget-pool --worker-key {worker.key}"
            runs = first.submit({"main.py": b"import time; time.sleep(600)"}, {"retry": {"max_attempts": 1}})
            first.until_state(runs, "running")

            done = run_tpool(*command.split()[1:])
            assert done.returncode == 0, done.stderr
            assert f"Forgot pool {first.pool()['pool_id']}" in done.stdout
            second.until_healthy(1)
            assert second.wait(second.submit({"main.py": b"print(1)"}))["state"] == "completed"
            worker.said(f"job {runs} attempt 1".replace("job", "Job"))
            shown(first, worker, f"this worker is not for the pool {first.pool()['pool_id']}")
            assert Path(f"{worker.key}.pool").read_text() == f"{second.pool()['pool_id']}\n"


def test_nothing_to_forget_is_one_line(tmp_path: Path):
    key = tmp_path / "worker.pem"
    for options, words in (
        (("--worker-key", key), f"no pool is enrolled: there is no {key}.pool"),
        ((), "--worker-key PATH"),
    ):
        done = run_tpool("worker", "--forget-pool", *options)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1, done.stderr
        assert words in done.stderr
