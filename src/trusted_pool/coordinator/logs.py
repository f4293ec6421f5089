"""Logs of jobs: from the kept result when there is one, else live from the worker."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec

from trusted_pool.coordinator.bulletin import Bulletin
from trusted_pool.coordinator.contents import Contents
from trusted_pool.coordinator.jobs import Jobs
from trusted_pool.coordinator.read import Allowed
from trusted_pool.coordinator.roster import Roster
from trusted_pool.core.job import Job
from trusted_pool.core.words import AttemptState
from trusted_pool.ports.link import GoneError, LinkError
from trusted_pool.ports.store import Result, Store
from trusted_pool.protocol import frames

WAIT_S = 15.0
PAUSE_S = 0.5


class Place(msgspec.Struct, frozen=True):
    """Where a reader of a log is: behind `offset` bytes of the framed log of one attempt."""

    attempt: int = 0
    offset: int = 0


class Line(msgspec.Struct, frozen=True):
    """One frame, and the place behind it."""

    place: Place
    frame: frames.Frame


class Logs:
    """Reads logs, live or kept."""

    def __init__(self, store: Store, jobs: Jobs, roster: Roster, contents: Contents, bulletin: Bulletin) -> None:
        self._store = store
        self._jobs = jobs
        self._roster = roster
        self._contents = contents
        self._bulletin = bulletin
        self._followers: set[asyncio.Task[Any]] = set()

    def hang_up(self) -> None:
        """End all streams that are followed; their readers resume elsewhere or later."""
        for task in list(self._followers):
            task.cancel()

    async def now(self, job_id: str, allowed: Allowed) -> AsyncIterator[frames.Frame]:
        """Yield the frames of the newest attempt's log as it is now. Raises NotFoundError."""
        job = await self._jobs.get(job_id)
        allowed(job)
        async for line in self._read(job, await self._result(job), Place(), follow=False):
            if line is not None:
                yield line.frame

    async def follow(self, job_id: str, allowed: Allowed, place: Place) -> AsyncIterator[Line | Job | None]:
        """Yield lines from `place` on until the job is final, then the job; None every 15 s without any.

        A new attempt begins its log anew. Raises NotFoundError.
        """
        allowed(await self._jobs.get(job_id))
        task = asyncio.current_task()
        if task is not None:
            self._followers.add(task)
            task.add_done_callback(self._followers.discard)
        while not self._bulletin.closed:
            change = self._bulletin.expect(job_id)
            try:
                job = await self._jobs.get(job_id)
                result = await self._result(job)
                newest = result.attempt if result else len(job.attempts)
                if place.attempt != newest:
                    place = Place(newest, 0)
                async with aclosing(self._read(job, result, place, follow=True)) as lines:
                    async for line in lines:
                        place = place if line is None else line.place
                        yield line
                if job.final:
                    yield job
                    return
                if not await self._bulletin.until(change, job_id, WAIT_S):
                    yield None
            finally:
                self._bulletin.forget(change, job_id)

    async def _result(self, job: Job) -> Result | None:
        return await self._store.result(job.job_id) if job.final else None

    async def _read(
        self, job: Job, result: Result | None, place: Place, *, follow: bool
    ) -> AsyncGenerator[Line | None, None]:
        """Yield lines; None whenever a live log was quiet for a while."""
        decoder = frames.Decoder()
        attempt = result.attempt if result else len(job.attempts)
        async with aclosing(self._bytes(job, result, place.offset, follow=follow)) as pieces:
            async for piece in pieces:
                if not piece:
                    yield None
                for frame in decoder.feed(piece):
                    yield Line(Place(attempt, place.offset + decoder.offset), frame)

    async def _bytes(self, job: Job, result: Result | None, start: int, *, follow: bool) -> AsyncGenerator[bytes, None]:
        if result is not None:
            if result.log_sha256 is not None and start < result.log_size:
                async for piece in self._contents.open(result.log_sha256, start, owner=job.owner):
                    yield piece
            return
        attempt = job.attempt
        if attempt is None or attempt.remote_id is None or attempt.closed:
            return
        member = self._roster.members.get(attempt.worker_id)
        if member is None or attempt.state is AttemptState.DISPATCHING:
            return
        try:
            async with aclosing(_ticking(member.link.log(attempt.remote_id, start, follow=follow), WAIT_S)) as pieces:
                async for piece in pieces:
                    yield piece
        except GoneError:
            return  # it was collected in this moment: the next look finds the result
        except LinkError:
            if follow:
                await asyncio.sleep(PAUSE_S)


async def _ticking(pieces: AsyncIterator[bytes], every_s: float) -> AsyncGenerator[bytes, None]:
    """Pass pieces on; an empty one when none came for `every_s`."""
    coming: asyncio.Future[bytes] | None = None  # goes on while we tick: a cancelled one would end the stream
    try:
        while True:
            coming = coming or asyncio.ensure_future(_next(pieces))
            await asyncio.wait({coming}, timeout=every_s)
            if not coming.done():
                yield b""
                continue
            piece, coming = coming.result(), None
            if not piece:
                return
            yield piece
    finally:
        if coming is not None and not coming.done():
            coming.cancel()
            await asyncio.wait({coming})
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


async def _next(pieces: AsyncIterator[bytes]) -> bytes:
    """Return the next piece that is not empty; empty at the end."""
    async for piece in pieces:
        if piece:
            return piece
    return b""
