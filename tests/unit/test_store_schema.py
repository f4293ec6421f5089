"""The tables: one schema, said three times, and always the same; brought up to date at opening."""

import asyncio
import sqlite3
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from sqlalchemy.dialects import postgresql, sqlite

from trusted_pool.core.job import Job
from trusted_pool.core.limits import OwnerUsage
from trusted_pool.core.request import Request
from trusted_pool.core.words import JobState
from trusted_pool.ports.store import Blob, Committed, Result, StoreError, Unit
from trusted_pool.store import migrate, schema
from trusted_pool.store.opening import HEAD, bring_to_head, connect
from trusted_pool.store.rows import JOB_COLUMNS, job_row, text
from trusted_pool.store.sqlite import SqliteStore


def tables(connection: sqlite3.Connection) -> dict[str, str]:
    """Return what the database says of its tables and indexes, without differences of layout."""
    rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")
    return {name: " ".join(sql.replace("(", " ( ").replace(")", " ) ").split()) for name, sql in rows}


def by_migrations(to: str = "head") -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate.upgrade(connection, Path("x"), to)
    return connection


def test_the_sum_of_the_migrations_is_the_schema() -> None:
    made = sqlite3.connect(":memory:", isolation_level=None)
    for statement in schema.ddl(sqlite.dialect()):
        made.execute(statement)
    migrated = tables(by_migrations())
    migrated.pop("alembic_version")
    assert migrated == tables(made)
    assert len(migrated) > 20


def test_head_sql_is_the_sum_of_the_migrations(tmp_path: Path) -> None:
    fresh = connect(tmp_path / "store.db")
    bring_to_head(fresh, tmp_path / "store.db")
    assert tables(fresh) == tables(by_migrations())
    assert fresh.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]
    assert migrate.head() == HEAD
    fresh.close()


def test_migrations_go_back_to_nothing_and_forth_again(tmp_path: Path) -> None:
    connection = by_migrations()
    before = tables(connection)
    migrate.downgrade(connection, "base")
    assert set(tables(connection)) == {"alembic_version"}
    migrate.upgrade(connection, tmp_path)
    assert tables(connection) == before


def test_the_schema_can_be_made_on_postgresql_too() -> None:
    text = "\n".join(schema.ddl(postgresql.dialect()))  # type: ignore[no-untyped-call]
    assert "WHERE state = 'queued' AND wake_at IS NULL" in text
    assert "DOUBLE PRECISION" in text
    assert "BIGSERIAL" in text


def test_an_older_database_is_brought_up_to_date_at_opening(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    connection = connect(path)
    bring_to_head(connection, path)
    migrate.downgrade(connection, "base")
    connection.close()
    asyncio.run(SqliteStore.open(path).close())
    connection = connect(path)
    assert tables(connection) == tables(by_migrations())
    connection.close()


def test_what_waits_in_an_older_database_is_still_in_the_queue(tmp_path: Path) -> None:
    """A database of revision 0001, from before fair shares."""
    path = tmp_path / "store.db"
    request = Request(interpreter="x")
    jobs = [
        Job(job_id=f"pool-{n}", owner=f"o{n % 2}", state=state, manifest="{}", request=request, submitted_at=float(n))
        for n, state in enumerate([JobState.QUEUED] * 3 + [JobState.CANCELLED])
    ]
    connection = connect(path)
    migrate.upgrade(connection, path, "0001")
    for job in jobs:
        row = job_row(job, 1, job.shape, text(job))
        marks = ",".join("?" * len(row))
        connection.execute(f"INSERT INTO jobs ({','.join(JOB_COLUMNS)}) VALUES ({marks})", row)  # noqa: S608
    connection.close()

    async def look() -> None:
        store = SqliteStore.open(path)
        (count,) = await store.shapes()
        assert (count.shape, count.request, count.queued) == (jobs[0].shape, request, 3)
        assert {s.owner: (s.virtual_time, s.queued) for s in await store.shares()} == {"o0": (0, 2), "o1": (0, 1)}
        rows = await store.reserve([count.shape], 9, "me", 1.0, 2.0)
        assert [row.job.job_id for row in rows] == ["pool-0", "pool-1", "pool-2"]
        assert await store.job("pool-3") is not None
        await store.close()

    asyncio.run(look())


def test_what_owners_have_in_an_older_database_is_counted(tmp_path: Path) -> None:
    """One of revision 0003, from before limits, says the same of each owner as one that kept count all the time."""
    path = tmp_path / "store.db"
    large, small = Blob(sha256="a" * 64, size=10**12), Blob(sha256="b" * 64, size=4, data=b"data")

    def unit(number: int, owner: str, state: JobState, *blobs: Blob) -> Unit:
        job = Job(
            job_id=f"pool-{number}",
            owner=owner,
            state=state,
            manifest='{"name":"\u00e9"}',
            request=Request(interpreter="x"),
            submitted_at=float(number),
        )
        result = Result(job_id=job.job_id, attempt=1) if state is JobState.COMPLETED else None
        return Unit(job=job, blobs=blobs, result=result)

    units = [
        unit(1, "ada", JobState.QUEUED, large, small),
        unit(2, "ada", JobState.DISPATCHED, large),
        unit(3, "ada", JobState.RUNNING),
        unit(4, "ada", JobState.COMPLETED, small),
        unit(5, "bob", JobState.CANCELLED, large),
    ]

    async def kept(*units: Unit) -> list[OwnerUsage]:
        store = SqliteStore.open(path)
        assert await store.commit(units) == [Committed(ok=True, version=1)] * len(units)
        usages = await store.usages()
        await store.close()
        return usages

    before = asyncio.run(kept(*units))
    ada, bob = before
    assert (ada.queued, ada.running, ada.bytes > 10**12 + 4) == (1, 2, True)
    assert bob == OwnerUsage(owner="bob", bytes=10**12 + len(units[4].job.manifest.encode()))  # type: ignore[union-attr]
    connection = connect(path)
    migrate.downgrade(connection, "0003")
    connection.execute("DELETE FROM shares WHERE owner = 'bob'")  # who never had a job that waited had no row
    connection.close()
    assert asyncio.run(kept()) == before


def test_a_newer_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    asyncio.run(SqliteStore.open(path).close())
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="newer version"):
        SqliteStore.open(path)
    assert path.read_bytes() == before


def test_a_failed_making_of_tables_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.db"
    monkeypatch.setattr("trusted_pool.store.opening.APPLICATION_ID", "no number")
    with pytest.raises(StoreError):
        SqliteStore.open(path)
    monkeypatch.undo()
    asyncio.run(SqliteStore.open(path).close())


def test_starting_imports_neither_sqlalchemy_nor_alembic(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path; from trusted_pool.store.sqlite import SqliteStore\n"
        "asyncio.run(SqliteStore.open(Path(sys.argv[1])).close())\n"
        "print(sorted({'sqlalchemy', 'alembic', 'mako'} & set(sys.modules)))"
    )
    child = subprocess.run([sys.executable, "-c", code, str(tmp_path / "store.db")], capture_output=True, check=True)
    assert child.stdout == b"[]\n"


def test_head_sql_is_shipped() -> None:
    assert files("trusted_pool.store").joinpath("head.sql").read_text("utf-8").endswith(f"VALUES ('{HEAD}');\n")
