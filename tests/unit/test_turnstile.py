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


def test_who_has_nobody_inside_never_waits():
    async def main():
        turnstile, inside = Turnstile(2), []

        async def one(owner: str) -> None:
            async with turnstile.turn(owner, 10):
                inside.append(owner)
                await elapse(10.0)
                inside.remove(owner)

        crowd = [asyncio.create_task(one("ada")) for _ in range(50)]
        await elapse(15.0)
        assert inside == ["ada"] * 2
        few = [asyncio.create_task(one("bob")) for _ in range(2)]
        await elapse(1.0)
        assert sorted(inside) == ["ada", "ada", "bob"], "one at once, not behind those who wait; the other waits"
        await asyncio.gather(*few, *crowd)

    run(main())


def test_two_that_have_many_take_turns():
    async def main():
        turnstile, order = Turnstile(2), []

        async def one(owner: str) -> None:
            async with turnstile.turn(owner, 10):
                order.append(owner)
                await elapse(1.0)

        crowd = [asyncio.create_task(one("ada")) for _ in range(50)]
        await elapse(5.5)
        seen = len(order)
        others = [asyncio.create_task(one("bob")) for _ in range(10)]
        await asyncio.gather(*others)
        assert abs(order[seen:].count("ada") - 10) <= 4
        await asyncio.gather(*crowd)
        assert len(order) == 60

    run(main())


def test_the_next_of_an_owner_goes_on_where_its_last_was():
    """Even when all room is another's: one of each is always inside."""

    async def main():
        turnstile, ended = Turnstile(1), []
        await turnstile.enter("ada", 1)  # and never leaves

        async def one(number: int) -> None:
            async with turnstile.turn("bob", 1):
                await elapse(1.0)
                ended.append(number)

        await asyncio.gather(*(one(number) for number in range(5)))
        assert ended == [0, 1, 2, 3, 4]
        turnstile.leave("ada")
        async with asyncio.timeout(1):
            await turnstile.enter("carl", 1)

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
        turnstile, inside = Turnstile(1), []

        async def one(name: str) -> None:
            async with turnstile.turn("ada", 1):
                inside.append(name)
                await elapse(100.0)

        tasks = {name: asyncio.create_task(one(name)) for name in "abcde"}
        await elapse(1.0)
        for gone in "bd":
            tasks[gone].cancel()
        tasks["a"].cancel()
        await elapse(1.0)
        assert inside == ["a", "c"]
        tasks["c"].cancel()
        await elapse(1.0)
        assert inside == ["a", "c", "e"]
        tasks["e"].cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        async with asyncio.timeout(1):
            await turnstile.enter("ada", 1)
            await turnstile.enter("bob", 1)

    run(main())


def test_who_is_cancelled_in_the_moment_of_his_call_passes_it_on():
    async def main():
        turnstile = Turnstile(1)
        await turnstile.enter("ada", 1)
        first = asyncio.create_task(turnstile.enter("ada", 1))
        await asyncio.sleep(0)
        second = asyncio.create_task(turnstile.enter("ada", 1))
        await asyncio.sleep(0)
        turnstile.leave("ada")  # calls the first
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
        assert read[before:].count(b"a") <= 5 + 2, "one for each, not ten"
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
