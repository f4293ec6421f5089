"""What a pool of real processes shows of its jobs: by `tpool`, in its stories, in its workers' logs and journals."""

import json
import os
import re
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

from support.real_pool import RealPool, RealWorker, run_tpool, until

#: Prints its attempt, and is done.
SHORT = {"main.py": b"import os; print('attempt', os.environ['TRUSTED_POOL_ATTEMPT'], flush=True)"}
#: The first attempt lasts as many seconds as the first argument says, each later one as the second says.
LASTS = {
    "main.py": b"""
import os, sys, time
attempt = os.environ["TRUSTED_POOL_ATTEMPT"]
print("attempt", attempt, flush=True)
time.sleep(float(sys.argv[1] if attempt == "1" else sys.argv[2]))
open("attempt.txt", "w").write(attempt)
"""
}
_ENDED = re.compile(r"Job (pool-\w+) attempt (\d+) \((job-\w+)\) ")


def tpool(pool: RealPool, *words: str | Path, code: int = 0) -> dict[str, Any]:
    """Run a verb with --json against a pool and return what it prints. It must leave with `code`."""
    environment = {**os.environ, "TRUSTED_POOL_ADDR": pool.url, "XDG_STATE_HOME": str(pool.home / "state")}
    verb = words[: words.index("--")] if "--" in words else words
    done = run_tpool(*verb, "--json", *words[len(verb) :], env=environment)
    assert done.returncode == code, (words, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    assert "Traceback" not in done.stderr, done.stderr
    answer = dict(json.loads(done.stdout))
    assert answer.pop("version") == 1
    return answer


def history(pool: RealPool, job_id: str) -> list[dict[str, Any]]:
    """Return a job's story, as GET /history has it."""
    answer = pool.http.get(f"/history/{job_id}")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["events"])


def kinds(pool: RealPool, job_id: str, *only: str) -> list[tuple[str, int]]:
    """Return what happened to which attempt of a job, in order; of `only` these kinds when given."""
    return [(e["kind"], e["attempt"]) for e in history(pool, job_id) if not only or e["kind"] in only]


def spent(status: dict[str, Any]) -> int:
    """Return how many attempts a job has used up."""
    return sum(attempt.get("spent", False) for attempt in status["attempts"])


def worker_of(pool: RealPool, worker: RealWorker) -> dict[str, Any]:
    """Return what the pool says of a worker."""
    return next(w for w in pool.pool()["workers"] if w["worker_id"] == worker.worker_id)


def health_of(pool: RealPool, worker: RealWorker) -> str:
    """Return a worker's health."""
    return str(worker_of(pool, worker)["health"])


def runs_ended(pool: RealPool) -> Counter[str]:
    """Count for each job the runs of it that the workers say have ended."""
    seen = {found for worker in pool.workers for found in _ENDED.findall(worker.log)}
    return Counter(job_id for job_id, _, _ in seen)


def journal_of(pool: RealPool, worker: RealWorker) -> list[tuple[str, int]]:
    """Return (job, attempt) of all that a worker's journal holds."""
    path = pool.home / worker.path.stem / "journal" / "journal.db"
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        return database.execute("SELECT job_id, attempt FROM entry").fetchall()


def kept(pool: RealPool) -> list[str]:
    """Return what workers still keep of attempts: entries, logs, files."""
    found = [f"{worker.path.stem}: {entry}" for worker in pool.workers for entry in journal_of(pool, worker)]
    for worker in pool.workers:
        data = pool.home / worker.path.stem
        found += [str(path) for place in ("sandbox/jobs", "journal/logs") for path in (data / place).iterdir()]
    return found


def until_released(pool: RealPool, within_s: float = 30.0) -> None:
    """Wait until no worker keeps anything of any attempt."""
    try:
        until(lambda: not kept(pool), "released attempts", within_s)
    except AssertionError:
        raise AssertionError(f"the workers keep: {kept(pool)}") from None


def accepted_results(pool: RealPool) -> Counter[str]:
    """Count the accepted results of each job in the story that the stopped coordinator kept."""
    with sqlite3.connect(pool.data / "coordinator.db") as database:
        rows = database.execute("SELECT job_id FROM events WHERE kind = 'Collected'").fetchall()
    return Counter(job_id for (job_id,) in rows)
