"""The turnstile between owners, and what passes through it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from support.virtual_time import elapse, run
from trusted_pool.blobs.memory import MemoryBlobs
from trusted_pool.coordinator.contents import PIECES_AT_ONCE, Contents
from trusted_pool.coordinator.turnstile import Turnstile
from trusted_pool.core.job import Job
from trusted_pool.core.request import Request
from trusted_pool.core.words import JobState
from trusted_pool.ports.store import Blob, Unit
from trusted_pool.store.memory import MemoryStore


def test_one_of_another_goes_before_the_rest_of_fifty():
    async def main():
        turnstile, order = Turnstile(2), []

        async def one(owner: str) -> None:
            async with turnstile.turn(owner, 10):
                order.append(owner)
                await elapse(1.0)

        crowd = [asyncio.create_task(one("ada")) for _ in range(50)]
        await elapse(5.5)  # 12 have begun, 38 wait
        seen = len(order)
        late = asyncio.create_task(one("bob"))
        await late
        assert order[seen:].index("bob") <= 2
        await asyncio.gather(*crowd)
        assert order.count("ada") == 50

    run(main())


def test_alone_an_owner_has_all_of_it():
    async def main():
        turnstile = Turnstile(3)
        inside = most = 0

        async def one() -> None:
            nonlocal inside, most
            async with turnstile.turn("ada", 1):
                inside += 1
                most = max(most, inside)
                await elapse(1.0)
                inside -= 1

        await asyncio.gather(*(one() for _ in range(9)))
        assert most == 3

    run(main())


def test_who_goes_while_waiting_or_inside_leaves_his_place():
    async def main():
        turnstile = Turnstile(1)
        holds = asyncio.Event()

        async def one(owner: str) -> None:
            async with turnstile.turn(owner, 1):
                holds.set()
                await elapse(100.0)

        inside = asyncio.create_task(one("ada"))
        await holds.wait()
        waiting = [asyncio.create_task(one("ada")) for _ in range(3)]
        await elapse(1.0)
        for task in (waiting[0], waiting[2]):
            task.cancel()
        inside.cancel()  # which calls the one that is left
        holds.clear()
        await holds.wait()
        called = waiting[1]
        last = asyncio.create_task(one("bob"))
        await elapse(1.0)
        called.cancel()
        holds.clear()
        await holds.wait()  # bob
        last.cancel()
        await asyncio.gather(inside, last, *waiting, return_exceptions=True)
        async with asyncio.timeout(1):
            async with turnstile.turn("ada", 1):
                pass

    run(main())


def test_who_is_cancelled_in_the_moment_of_his_call_passes_it_on():
    async def main():
        turnstile = Turnstile(1)
        await turnstile.enter("ada", 1)
        first = asyncio.create_task(turnstile.enter("ada", 1))
        await asyncio.sleep(0)
        second = asyncio.create_task(turnstile.enter("ada", 1))
        await asyncio.sleep(0)
        turnstile.leave()  # calls the first
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        async with asyncio.timeout(1):
            await second

    run(main())


def test_pieces_are_read_by_turns_and_their_source_is_closed():
    async def main():
        turnstile = Turnstile(1)
        closed = []

        async def source(name: str, count: int) -> AsyncIterator[bytes]:
            try:
                for _ in range(count):
                    await elapse(1.0)
                    yield name.encode()
            finally:
                closed.append(name)

        read: list[bytes] = []

        async def reader(name: str, count: int) -> None:
            async for piece in turnstile.paced(name, source(name, count)):
                read.append(piece)  # noqa: PERF401 - others append as well

        many = [asyncio.create_task(reader("a", 10)) for _ in range(10)]
        await elapse(20.5)
        before = len(read)
        await reader("b", 5)
        assert read[before:].count(b"a") <= 2 * 5 + 2, "not ten for each"
        await asyncio.gather(*many)
        assert len(read) == 105
        stopped = turnstile.paced("c", source("c", 9))
        assert await anext(stopped) == b"c"
        await stopped.aclose()
        assert closed.count("c") == 1
        assert sorted(set(closed)) == ["a", "b", "c"]

    run(main())


class SlowBlobs(MemoryBlobs):
    """Blobs of which each piece takes a second; counts how many are read or written at once."""

    inside = most = 0

    def open(self, sha256: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        return self._slowly(super().open(sha256, start, length))

    async def _slowly(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in pieces:
            self.inside += 1
            self.most = max(self.most, self.inside)
            await elapse(1.0)
            self.inside -= 1
            yield piece


def test_contents_are_read_by_turns():
    async def main():
        blobs, store = SlowBlobs(), MemoryStore()
        contents = Contents(blobs, store)
        stage = await contents.stage_for("ada")
        await stage.write(b"x" * 100_000)
        staged = await stage.finish()
        kept = await contents.keep(staged)
        assert kept == Blob(sha256=staged.sha256, size=100_000)
        job = Job(
            job_id="pool-1",
            owner="ada",
            state=JobState.QUEUED,
            manifest="{}",
            request=Request(interpreter="x"),
            submitted_at=0.0,
        )
        await store.commit([Unit(job=job, blobs=(kept,))])

        async def read() -> bytes:
            return b"".join([piece async for piece in contents.open(kept.sha256, owner="ada")])

        assert set(await asyncio.gather(*(read() for _ in range(3 * PIECES_AT_ONCE)))) == {b"x" * 100_000}
        assert blobs.most == PIECES_AT_ONCE

    run(main())
