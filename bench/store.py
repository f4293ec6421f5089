"""How fast the store is, against a bare loop of sqlite3 in the same run. Prints JSON.

Usage: python bench/store.py [--seconds 2] [--queued 1000,1000000]
"""

import argparse
import asyncio
import hashlib
import json
import sqlite3
import tempfile
import time
from pathlib import Path

from trusted_pool.core.job import InputFile, Job
from trusted_pool.core.request import Request
from trusted_pool.core.words import JobState
from trusted_pool.ports.store import Blob, Event, Unit
from trusted_pool.store.sqlite import SqliteStore

MANIFEST = json.dumps({"entrypoint": "main.py", "interpreter": "python3", "args": [], "env": {}, "timeout": 300.0})


def unit(number: int, shape: int = 0) -> Unit:
    data = number.to_bytes(8, "big") * 128
    digest = hashlib.sha256(data).hexdigest()
    job = Job(
        job_id=f"pool-{digest[:16]}",
        owner="local",
        state=JobState.QUEUED,
        manifest=MANIFEST,
        inputs=(InputFile(name="project.tar.gz", size=len(data), sha256=digest),),
        request=Request(interpreter="python3", memory_mb=512 + shape),
        submitted_at=1_700_000_000.0 + number / 1000,
    )
    submitted = Event(job_id=job.job_id, at=job.submitted_at, kind="submitted")
    return Unit(job=job, events=(submitted,), blobs=(Blob(sha256=digest, size=len(data), data=data),))


def bare(directory: Path, seconds: float) -> float:
    """Commits a second of one sqlite3 connection: the same rows, one transaction each, no threads."""
    connection = sqlite3.connect(directory / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE jobs (job_id TEXT PRIMARY KEY, data TEXT)")
    connection.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, job_id TEXT, data TEXT)")
    connection.execute("CREATE TABLE blobs (sha256 TEXT PRIMARY KEY, data BLOB)")
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        made = unit(done)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO jobs VALUES (?, ?)", (made.job.job_id, MANIFEST * 3))
        connection.execute("INSERT INTO events (job_id, data) VALUES (?, ?)", (made.job.job_id, "{}"))
        connection.execute("INSERT INTO blobs VALUES (?, ?)", (made.blobs[0].sha256, made.blobs[0].data))
        connection.execute("COMMIT")
        done += 1
    rate = done / (time.perf_counter() - begin)
    connection.close()
    return rate


async def commits(store: SqliteStore, callers: int, seconds: float, base: int) -> float:
    end = time.perf_counter() + seconds

    async def caller(number: int) -> int:
        done = 0
        while time.perf_counter() < end:
            (answer,) = await store.commit([unit(base + number * 1_000_000 + done)])
            assert answer.ok
            done += 1
        return done

    begin = time.perf_counter()
    counts = await asyncio.gather(*(caller(n) for n in range(callers)))
    return sum(counts) / (time.perf_counter() - begin)


async def reads(store: SqliteStore, seconds: float) -> float:
    ids = [unit(n).job.job_id for n in range(100)]
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        assert await store.job(ids[done % 100]) is not None
        done += 1
    return done / (time.perf_counter() - begin)


async def reservations(path: Path, queued: int, shapes: int) -> dict[str, float]:
    """Milliseconds that one reserve of 8 takes, asking for every shape and for the rarest one."""
    store = SqliteStore.open(path)
    for begin in range(0, queued, 1000):
        await store.commit([unit(n, n % shapes) for n in range(begin, min(begin + 1000, queued))])
    await store.close()
    begin_s = time.perf_counter()
    store = SqliteStore.open(path)
    opened_s = time.perf_counter() - begin_s
    names = [s.shape for s in await store.shapes()]
    now = 1_800_000_000.0
    timed: dict[str, float] = {"open_ms": opened_s * 1000}
    for kind, asked in (("all_shapes", names), ("one_shape", names[:1])):
        spent = []
        for _ in range(100):
            begin_s = time.perf_counter()
            got = await store.reserve(asked, 8, "bench", now, now)
            spent.append(time.perf_counter() - begin_s)
            assert got
        timed[f"{kind}_ms"] = sorted(spent)[50] * 1000
    begin_s = time.perf_counter()
    job = unit(queued - 1).job
    assert job is not None
    await store.queue_position(job)
    timed["position_of_last_ms"] = (time.perf_counter() - begin_s) * 1000
    await store.close()
    return timed


async def measure(seconds: float, queues: list[int]) -> dict[str, object]:
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        baseline = bare(directory, seconds)
        found["bare_sqlite3_per_s"] = round(baseline)
        store = SqliteStore.open(directory / "store.db")
        for base, callers in ((0, 1), (10**9, 32), (10**12, 256)):
            rate = await commits(store, callers, seconds, base)
            found[f"commits_{callers}_per_s"] = round(rate)
            found[f"commits_{callers}_ratio"] = round(rate / baseline, 2)
        found["job_reads_per_s"] = round(await reads(store, seconds))
        await store.close()
        for queued in queues:
            for shapes in (1, 1000):
                timed = await reservations(directory / f"queue-{queued}-{shapes}.db", queued, shapes)
                found[f"queued_{queued}_shapes_{shapes}"] = {k: round(v, 3) for k, v in timed.items()}
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--queued", default="1000,100000")
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(measure(arguments.seconds, [int(n) for n in arguments.queued.split(",")])), indent=2))
