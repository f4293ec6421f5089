"""The store on SQLite and its surroundings: other processes, damage, a full disk."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from trusted_pool.core.job import Job
from trusted_pool.core.request import Request
from trusted_pool.core.words import JobState
from trusted_pool.core.worker import Worker
from trusted_pool.ports.store import Blob, Committed, Event, StoreDamagedError, StoreError, StoreInUseError, Unit
from trusted_pool.store.sqlite import SqliteStore


def make(number: int) -> Job:
    return Job(
        job_id=f"pool-{number:016x}",
        owner="local",
        state=JobState.QUEUED,
        manifest="{}" + " " * 1000,
        request=Request(interpreter="python3"),
        submitted_at=float(number),
    )


async def fill(path: Path, count: int = 200) -> None:
    store = SqliteStore.open(path)
    await store.commit(
        [Unit(job=make(n), events=(Event(job_id=make(n).job_id, at=0, kind="x"),)) for n in range(count)]
    )
    await store.close()


def content(path: Path) -> dict[str, bytes]:
    """Return all files of the database but the lock."""
    return {p.name: p.read_bytes() for p in path.parent.iterdir() if not p.name.endswith(".lock")}


# Whose it is


def test_a_second_opener_is_refused_by_pid_and_directory(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "store.db")
    with pytest.raises(StoreInUseError, match="is in use by") as caught:
        SqliteStore.open(tmp_path / "store.db")
    assert f"{tmp_path} is in use by process {os.getpid()}." in str(caught.value)
    code = (
        "import sys; from pathlib import Path; from trusted_pool.store.sqlite import SqliteStore\n"
        "SqliteStore.open(Path(sys.argv[1]))"
    )
    other = subprocess.run([sys.executable, "-c", code, str(tmp_path / "store.db")], capture_output=True, check=False)
    assert f"is in use by process {os.getpid()}".encode() in other.stderr
    asyncio.run(store.close())
    asyncio.run(SqliteStore.open(tmp_path / "store.db").close())


def test_a_failed_opening_lets_go_of_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"no database at all" * 300)
    with pytest.raises(StoreDamagedError):
        SqliteStore.open(path)
    path.unlink()
    asyncio.run(SqliteStore.open(path).close())


def test_what_cannot_be_made_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write in .*file") as caught:
        SqliteStore.open(tmp_path / "file" / "store.db")
    assert "\n" not in str(caught.value)


def test_directory_and_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "store.db"
    store = SqliteStore.open(path)
    asyncio.run(store.commit([Unit(job=make(1))]))
    assert {p.name: p.stat().st_mode & 0o077 for p in path.parent.iterdir()} == dict.fromkeys(
        ["store.db", "store.db-wal", "store.db-shm", "store.db.lock"], 0
    )
    assert path.parent.stat().st_mode & 0o077 == 0
    asyncio.run(store.close())


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = content(path)
    with pytest.raises(StoreError, match="another program"):
        SqliteStore.open(path)
    assert content(path) == before


def test_another_program_that_holds_it_is_waited_for_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trusted_pool.store.opening.BUSY_TIMEOUT_S", 0.05)
    store = SqliteStore.open(tmp_path / "store.db")
    shell = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another program holds"):
        asyncio.run(store.commit([Unit(job=make(1))]))
    shell.execute("ROLLBACK")
    shell.close()
    assert asyncio.run(store.commit([Unit(job=make(1))])) == [Committed(ok=True, version=1)]
    asyncio.run(store.close())


# Damage


def garbage(path: Path) -> None:
    path.write_bytes(b"\0" * 8192)


def short(path: Path) -> None:
    os.truncate(path, 50)


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def schema_gone(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 3996)


def root_gone(path: Path, table: str = "jobs") -> None:
    """Overwrite the first page of a table."""
    connection = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)


@pytest.mark.parametrize("damage", [garbage, short, half, schema_gone, root_gone])
def test_damage_is_reported_and_no_byte_changed(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "store.db"
    asyncio.run(fill(path))
    damage(path)
    before = content(path)
    with pytest.raises(StoreDamagedError, match=r"is damaged .* left as it is.* backup"):
        SqliteStore.open(path)
    assert content(path) == before


def test_damage_after_a_crash_leaves_the_log_too(tmp_path: Path) -> None:
    """A log with commits lies beside the damaged file: nothing may be copied out of it."""
    (tmp_path / "live").mkdir()
    (tmp_path / "dead").mkdir()
    asyncio.run(fill(tmp_path / "live" / "store.db"))

    async def crash() -> None:
        store = SqliteStore.open(tmp_path / "live" / "store.db")
        await store.commit([Unit(job=make(n)) for n in range(1000, 1100)])
        for name in ("store.db", "store.db-wal"):
            shutil.copy(tmp_path / "live" / name, tmp_path / "dead" / name)
        await store.close()

    asyncio.run(crash())
    path = tmp_path / "dead" / "store.db"
    root_gone(path, "results")
    before = content(path)
    assert len(before["store.db-wal"]) > 10_000
    with pytest.raises(StoreDamagedError):
        SqliteStore.open(path)
    after = content(path)
    after.pop("store.db-shm", None)  # the log's index, made anew by whoever looks
    assert after == before


def test_damage_found_later_stops_the_writing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    asyncio.run(fill(path, 4000))

    async def work() -> None:
        store = SqliteStore.open(path)
        size = path.stat().st_size
        with path.open("r+b") as file:  # all but the ends of the tables, which opening looked at
            file.seek(4096 * 40)
            file.write(b"\xff" * (size - 4096 * 80))
        read = [await raised(store.job(make(n).job_id)) for n in range(4000)]
        assert StoreDamagedError in read
        changes = [
            Unit(job=msgspec.structs.replace(make(n), state=JobState.CANCELLED), before=make(n), expects=1)
            for n in range(4000)
        ]
        assert StoreDamagedError in [await raised(store.commit([unit])) for unit in changes]
        sound = Unit(workers=(Worker(worker_id="w", endpoint="http://w"),))
        assert await raised(store.commit([sound])) is StoreDamagedError
        assert await store.workers() == []
        await store.close()

    asyncio.run(work())


async def raised(call: Awaitable[object]) -> type[Exception] | None:
    try:
        await call
    except StoreError as error:
        return type(error)
    return None


# One caller's mistake


def test_what_was_asked_in_the_turn_that_stops_the_writer_is_still_done(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore.open(tmp_path / "store.db")
        asked = asyncio.create_task(store.commit([Unit(job=make(1))]))
        await asyncio.sleep(0)  # it has asked, and the turn has not ended
        store._writer.stop()
        async with asyncio.timeout(10):
            assert [c.ok for c in await asked] == [True]
        assert await store.job(make(1).job_id) is not None
        await store.close()

    asyncio.run(scenario())


def test_commits_of_one_turn_share_a_transaction(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore.open(tmp_path / "store.db")
        batches: list[int] = []
        store.observe(lambda units, _seconds: batches.append(units))
        await asyncio.gather(*(store.commit([Unit(job=make(n))]) for n in range(100)))
        await store.close()
        assert batches == [100]

    asyncio.run(scenario())


def test_what_the_database_cannot_take_fails_its_caller_alone(tmp_path: Path) -> None:
    async def work() -> None:
        store = SqliteStore.open(tmp_path / "store.db")
        too_large = Unit(job=make(0), blobs=(Blob(sha256="a" * 64, size=1 << 70),))
        answers = await asyncio.gather(
            *(store.commit([Unit(job=make(n))]) for n in range(1, 20)),
            store.commit([too_large]),
            *(store.commit([Unit(job=make(n))]) for n in range(20, 40)),
            return_exceptions=True,
        )
        failed = [a for a in answers if isinstance(a, BaseException)]
        assert len(failed) == 1
        assert isinstance(failed[0], StoreError)
        assert (await store.counters()).total == 39
        assert await store.job(make(0).job_id) is None
        assert (await store.commit([Unit(job=make(0))]))[0].ok
        await store.close()

    asyncio.run(work())


# A full disk

FULL = """
import asyncio, hashlib, os, subprocess, sys
from pathlib import Path
from trusted_pool.core.job import Job
from trusted_pool.core.request import Request
from trusted_pool.core.words import JobState
from trusted_pool.ports.store import Blob, StoreFullError, Unit
from trusted_pool.store.sqlite import SqliteStore

directory = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(directory)], check=True)
(directory / "ballast").write_bytes(b"x" * 9_000_000)

def unit(number):
    data = number.to_bytes(4, "big") * 10_000
    job = Job(job_id=f"pool-{number}", owner="o", state=JobState.QUEUED, manifest="{}",
              request=Request(interpreter="x"), submitted_at=float(number))
    return Unit(job=job, blobs=(Blob(sha256=hashlib.sha256(data).hexdigest(), size=len(data), data=data),))

async def submit(store, numbers):
    answers = await asyncio.gather(*(store.commit([unit(n)]) for n in numbers), return_exceptions=True)
    for answer in answers:
        assert isinstance(answer, StoreFullError) or answer[0].ok, answer
    return [n for n, answer in zip(numbers, answers) if not isinstance(answer, StoreFullError)]

async def main():
    store = SqliteStore.open(directory / "store.db")
    kept, refused, number = [], 0, 0
    while refused < 5:
        numbers = range(number, number + 3)
        number += 3
        done = await submit(store, numbers)
        kept += done
        refused += len(done) < 3
    assert len(kept) > 3
    assert (await store.counters()).total == len(kept)
    os.unlink(directory / "ballast")
    more = await submit(store, range(1000, 1020))
    assert len(more) == 20, more
    await store.close()
    store = SqliteStore.open(directory / "store.db")
    for n in range(1020):
        assert (await store.job(f"pool-{n}") is not None) == (n in kept or n in more), n
    await store.close()
    with open(directory / "ballast", "wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(b"x" * 4096)
        except OSError:
            pass
    try:
        store = SqliteStore.open(directory / "store.db")
    except StoreFullError:
        os.unlink(directory / "ballast")
        store = SqliteStore.open(directory / "store.db")
    else:
        assert await submit(store, [2000]) == []
        os.unlink(directory / "ballast")
    assert await submit(store, [2000]) == [2000]
    await store.close()
    print("fine")

asyncio.run(main())
"""


def test_a_full_disk_is_said_and_got_over_without_a_restart(tmp_path: Path) -> None:
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    may = subprocess.run([*namespace, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True, check=False)
    if may.returncode != 0:
        if os.environ.get("CI"):
            pytest.fail(f"cannot mount a small disk: {may.stderr.decode()}")
        pytest.skip("cannot mount a small disk here")
    child = subprocess.run(
        [*namespace, sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, check=False, timeout=60
    )
    assert child.stderr.decode() == ""
    assert child.stdout == b"fine\n"
