"""An answered commit is on the disk: shown by killing, and from the system calls."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from trusted_pool.core.words import JobState
from trusted_pool.ports.store import JobQuery
from trusted_pool.store.sqlite import SqliteStore

#: Commits jobs and changes of them, from several callers at once; says so on descriptor `argv[2]` after each answer.
CHILD = """
import asyncio, hashlib, os, sys
from pathlib import Path
import msgspec
from trusted_pool.core.job import Job
from trusted_pool.core.request import Request
from trusted_pool.core.words import JobState
from trusted_pool.ports.store import Blob, Event, Unit
from trusted_pool.store.sqlite import SqliteStore

path, out, run, mode = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[6]
callers, count = map(int, sys.argv[4:6])

async def main():
    store = SqliteStore.open(path)
    if mode == "unsafe":
        store._writing.execute("PRAGMA synchronous = OFF")
    async def caller(name):
        for number in range(count):
            job = Job(job_id=f"pool-{run}-{name}-{number}", owner="local", state=JobState.QUEUED, manifest="{}",
                      request=Request(interpreter=f"i{name}"), submitted_at=float(number))
            data = job.job_id.encode() * 20
            blob = Blob(sha256=hashlib.sha256(data).hexdigest(), size=len(data), data=data)
            said = Event(job_id=job.job_id, at=0.0, kind="said")
            await commit(Unit(job=job, events=(said,), blobs=(blob,)), job.job_id, 1)
            if mode == "safe":  # a reservation needs no fsync; what comes after it does
                await store.reserve([job.shape], 1, "me", 0.0, 1.0)
            after = msgspec.structs.replace(job, state=JobState.CANCELLED)
            await commit(Unit(job=after, before=job, expects=1, events=(said,)), job.job_id, 2)
    async def commit(unit, job_id, version):
        (answer,) = await store.commit([unit])
        assert answer.ok and answer.version == version
        os.write(out, f"{job_id} {version}\\n".encode())
    await asyncio.gather(*(caller(name) for name in range(callers)))
    await store.close()

asyncio.run(main())
"""


def test_every_answered_commit_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    answered: dict[str, int] = {}
    for run in range(10):
        heard = killed_while_committing(path, run)
        assert heard, "it was killed before it had said anything"
        answered.update(heard)
        asyncio.run(check(path, answered))


def killed_while_committing(path: Path, run: int) -> dict[str, int]:
    """Kill a process that commits, at another moment in each run; return versions it was answered, by job."""
    reading, writing = os.pipe()
    arguments = [str(path), str(writing), str(run), "8", "1000000", "safe"]
    with subprocess.Popen([sys.executable, "-c", CHILD, *arguments], pass_fds=[writing]) as child:
        os.close(writing)
        said = b""
        with os.fdopen(reading, "rb") as pipe:
            while said.count(b"\n") < 40 + 37 * run:
                piece = pipe.read1()
                assert piece, "the child ended by itself"
                said += piece
            child.send_signal(signal.SIGKILL)
            said += pipe.read()
    assert child.returncode == -signal.SIGKILL
    lines = said.decode().split("\n")[:-1]  # what follows the last line end was cut off
    return {line.split()[0]: int(line.split()[1]) for line in lines}


async def check(path: Path, answered: dict[str, int]) -> None:
    store = SqliteStore.open(path)
    jobs = (await store.jobs(JobQuery(limit=1_000_000))).jobs
    versions = {}
    for job in jobs:
        row = await store.job(job.job_id)
        assert row is not None
        versions[job.job_id] = row.version
        assert len(await store.events(job.job_id)) == row.version, "a unit is there in part"
        assert (row.job.state is JobState.CANCELLED) == (row.version == 2)
    assert {name for name in answered if versions.get(name, 0) < answered[name]} == set()
    counters = await store.counters()
    assert counters.total == len(jobs)
    assert {s: n for s, n in counters.jobs.items() if n} == Counter(job.state.value for job in jobs)
    shapes = await store.shapes()
    assert {s.shape: s.queued for s in shapes} == Counter(j.shape for j in jobs if j.state is JobState.QUEUED)
    assert sqlite_says(path) == "ok"
    await store.close()


def sqlite_says(path: Path) -> str:
    import sqlite3  # noqa: PLC0415  # a look from outside

    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


def unsynced_answers(directory: Path, mode: str) -> list[str]:
    """Run a child under strace; return the answers that came before an fsync of the log that followed their data."""
    strace = shutil.which("strace")
    if strace is None:
        if os.environ.get("CI"):
            pytest.fail("strace is missing; install it")
        pytest.skip("strace is not installed")
    trace, marks = directory / "trace", directory / "marks"
    fd = os.open(marks, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        command = [
            strace,
            "-f",
            "-y",
            "-s",
            "9000",
            "-e",
            "trace=write,pwrite64,pwritev,fsync,fdatasync",
            "-o",
            str(trace),
        ]
        child = [sys.executable, "-c", CHILD, str(directory / "store.db"), str(fd), "r", "3", "5", mode]
        subprocess.run([*command, *child], check=True, pass_fds=[fd], timeout=120)
    finally:
        os.close(fd)
    return late(trace.read_text("utf-8", "replace").splitlines(), str(marks))


def late(lines: list[str], marks: str) -> list[str]:
    """Go through a trace and return the marks whose data was not synced before them."""
    unsynced: set[str] = set()  # what was written to the log since it was last synced
    written: set[str] = set()
    found: list[str] = []
    begun: dict[str, set[str]] = {}  # thread → what its sync, once it returns, has synced
    for line in lines:
        thread, _, call = line.partition(" ")
        call = call.strip()
        if call.startswith("pwrite") and "-wal>" in call:
            jobs = set(re.findall(r"pool-r-\d-\d", call))
            unsynced |= jobs
            written |= jobs
        elif re.match(r"f(data)?sync\(\d+<[^>]*-wal>", call):
            if "unfinished" in call:
                begun[thread] = set(unsynced)
            elif call.endswith("= 0"):
                unsynced.clear()
        elif re.match(r"<\.\.\. f(data)?sync resumed", call) and call.endswith("= 0"):
            unsynced -= begun.pop(thread, set())
        elif call.startswith("write(") and f"<{marks}>" in call:
            match = re.search(r'"(pool-r-\d-\d) \d', call)
            assert match is not None
            if match[1] in unsynced or match[1] not in written:
                found.append(match[1])
    return found


def test_every_answer_comes_after_the_fsync_of_its_data(tmp_path: Path) -> None:
    assert unsynced_answers(tmp_path, "safe") == []
    assert (tmp_path / "marks").read_text().count("\n") == 30


def test_the_trace_would_show_a_missing_fsync(tmp_path: Path) -> None:
    assert len(unsynced_answers(tmp_path, "unsafe")) == 30
