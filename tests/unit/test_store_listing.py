"""Lists of jobs, whose length clients decide, stand in nobody's way and end in time."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from trusted_pool.core.job import Job
from trusted_pool.core.request import Request
from trusted_pool.core.words import JobState
from trusted_pool.ports.store import FARTHEST, JobPage, JobQuery, StoreSlowError, Unit
from trusted_pool.store import listing, sqlite
from trusted_pool.store.sqlite import SqliteStore


def make(number: int, **changes: object) -> Job:
    fields: dict[str, object] = {
        "job_id": f"pool-{number:016x}",
        "owner": "local",
        "state": JobState.QUEUED,
        "manifest": "{}",
        "request": Request(interpreter="python3", memory_mb=1 + number),
        "submitted_at": float(number),
    }
    return Job(**(fields | changes))  # type: ignore[arg-type]


def test_what_the_coordinator_asks_waits_for_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def endless(_connection: sqlite3.Connection, _query: JobQuery) -> JobPage:
        assert let_go.wait(60)
        return JobPage(jobs=())

    async def main() -> None:
        store = SqliteStore.open(tmp_path / "store.db")
        await store.commit([Unit(job=make(n)) for n in range(sqlite.FEW_SHAPES + 10)])
        monkeypatch.setattr(sqlite, "page", endless)
        lists = [asyncio.ensure_future(store.jobs(JobQuery(labels={"a": "b"}))) for _ in range(20)]
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(20):
                for _ in range(2):  # from the second time on these shapes are known to be many
                    assert len(await store.shapes()) == sqlite.FEW_SHAPES + 10
                assert await store.reserve([make(3).shape], 1, "me", 1e9, 2e9)
                assert await store.next_due(0.0) == 2e9
                assert await store.expired(1e9, 10) == []
                assert await store.open_jobs() == await store.open_jobs("w") == []
                assert await store.job(make(3).job_id) is not None
                assert await store.workers() == []
                assert (await store.counters()).total == sqlite.FEW_SHAPES + 10
                assert await store.queue_position(make(3)) == 3
            assert not any(asked.done() for asked in lists)
        finally:
            let_go.set()
            await asyncio.gather(*lists)
            await store.close()

    asyncio.run(main())


def test_a_list_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "LISTING_S", 0.0)
    monkeypatch.setattr(sqlite, "LOOK_STEPS", 100)

    async def main() -> None:
        store = SqliteStore.open(tmp_path / "store.db")
        await store.commit([Unit(job=make(n)) for n in range(500)])
        with pytest.raises(StoreSlowError, match="too long"):
            await store.jobs(JobQuery(labels={"a": "b"}))
        monkeypatch.setattr(sqlite, "LISTING_S", 60.0)
        for _ in range(2 * sqlite.LISTING_THREADS):  # each thread goes on
            assert (await store.jobs(JobQuery(labels={"a": "b"}))).jobs == ()
        monkeypatch.setattr(sqlite, "LISTING_WAIT_S", -1.0)
        with pytest.raises(StoreSlowError, match="too many"):
            await store.jobs(JobQuery())
        await store.close()

    asyncio.run(main())


def test_a_page_of_large_jobs_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE_BYTES", 5000)

    async def main() -> None:
        store = SqliteStore.open(tmp_path / "store.db")
        await store.commit([Unit(job=make(n, manifest=" " * 2000, state=list(JobState)[n % 2])) for n in range(5)])
        seen, after, pages = [], None, 0
        while pages == 0 or after is not None:
            page = await store.jobs(JobQuery(owner="local", limit=100, after=after))
            seen += [job.submitted_at for job in page.jobs]
            after, pages = page.next, pages + 1
        assert seen == [4.0, 3.0, 2.0, 1.0, 0.0]
        assert pages == 3
        await store.commit([Unit(job=make(9, manifest=" " * 20_000))])
        assert len((await store.jobs(JobQuery(owner="local"))).jobs) == 1
        await store.close()

    asyncio.run(main())


def test_places_far_behind_are_not_counted_out(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteStore.open(tmp_path / "store.db")
        jobs = [make(n, request=Request(interpreter="python3")) for n in range(FARTHEST + 50)]
        await store.commit([Unit(job=job) for job in jobs])
        places = [await store.queue_position(jobs[n]) for n in (0, 7, FARTHEST - 1, FARTHEST, FARTHEST + 49)]
        assert places == [0, 7, FARTHEST - 1, FARTHEST, FARTHEST]
        await store.close()

    asyncio.run(main())
