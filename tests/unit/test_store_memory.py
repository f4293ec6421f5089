"""What the store in memory forgets at a simulated crash."""

import asyncio

import pytest

from trusted_pool.core.job import Job
from trusted_pool.core.request import Request
from trusted_pool.core.words import JobState
from trusted_pool.ports.store import JobQuery, StoreFullError, Unit
from trusted_pool.store.memory import MemoryStore


def unit(number: int) -> Unit:
    return Unit(
        job=Job(
            job_id=f"pool-{number}",
            owner="local",
            state=JobState.QUEUED,
            manifest="{}",
            request=Request(interpreter="x"),
            submitted_at=float(number),
        )
    )


async def found(store: MemoryStore) -> list[str]:
    return [job.job_id for job in (await store.jobs(JobQuery())).jobs]


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_what_was_not_answered_may_be_forgotten_and_what_was_is_kept(kept: int) -> None:
    async def work() -> None:
        store = MemoryStore(syncs=True)
        await store.commit([unit(1)])
        begun = [asyncio.ensure_future(store.commit([unit(n)])) for n in (2, 3)]
        await asyncio.sleep(0)
        assert store.unsynced == 2
        after = store.crash(kept=kept)
        assert await found(after) == ["pool-3", "pool-2", "pool-1"][2 - kept :]
        for _ in range(5):
            await asyncio.sleep(0)
        assert not any(task.done() for task in begun), "a dead process answers nobody"
        assert await found(after) == ["pool-3", "pool-2", "pool-1"][2 - kept :]
        for task in begun:
            task.cancel()

    asyncio.run(work())


def test_an_answer_lost_in_a_crash_does_not_undo_what_was_kept() -> None:
    async def work() -> None:
        store = MemoryStore(syncs=True)
        begun = asyncio.ensure_future(store.commit([unit(1)]))
        await asyncio.sleep(0)
        assert store.unsynced == 1
        await asyncio.sleep(0)
        assert store.unsynced == 0
        after = store.crash()
        await asyncio.sleep(0)
        assert not begun.done()
        begun.cancel()
        assert await found(after) == ["pool-1"]

    asyncio.run(work())


def test_a_dead_store_changes_nothing_in_its_successor() -> None:
    async def work() -> None:
        store = MemoryStore()
        await store.commit([unit(1)])
        after = store.crash()
        late = [asyncio.ensure_future(store.commit([unit(2)])), asyncio.ensure_future(store.job("pool-1"))]
        for _ in range(5):
            await asyncio.sleep(0)
        assert not any(task.done() for task in late)
        for task in late:
            task.cancel()
        await after.commit([unit(3)])
        assert await found(after) == ["pool-3", "pool-1"]
        assert len(await after.shapes()) == 1

    asyncio.run(work())


@pytest.mark.parametrize("syncs", [False, True])
def test_full_until_there_is_room(syncs: bool) -> None:  # a parameter of the test
    async def work() -> None:
        store = MemoryStore(syncs=syncs)
        store.full = True
        with pytest.raises(StoreFullError):
            await store.commit([unit(1)])
        store.full = False
        assert await found(store) == []
        assert (await store.commit([unit(1)]))[0].ok

    asyncio.run(work())
