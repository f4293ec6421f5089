"""Routes of the coordinator: health, attempts, events, cancel, release."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import msgspec
from litestar import get, post
from litestar.params import FromPath, FromQuery
from litestar.response import Stream

from trusted_pool.protocol.errors import BadRequestError, ConflictError, NotFoundError
from trusted_pool.protocol.messages import AttemptsAnswer, HealthAnswer, ReleasesAnswer
from trusted_pool.worker.api.asked import Asked, Number, TheDaemon
from trusted_pool.worker.api.guard import pool_of
from trusted_pool.worker.events import to_lines
from trusted_pool.worker.reports import status_of

MOST_RELEASES = 1000


class CancelReply(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /cancel/{id}`: it was heard."""

    job_id: str
    status: str
    cancelled: bool  #: true: it is being ended; false: it had ended before


class ReleaseReply(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /release/{id}`: nothing of it is left."""

    job_id: str
    released: bool = True


@get("/health")
async def health(daemon: TheDaemon) -> HealthAnswer:
    """Say who this is, how it is and what it offers."""
    return daemon.health()


@get("/attempts")
async def attempts(request: Asked, daemon: TheDaemon) -> AttemptsAnswer:
    """Return all attempts of the asking pool."""
    return await daemon.events.report(pool_of(request))


@get("/events")
async def events(request: Asked, daemon: TheDaemon, journal: FromQuery[str] = "", after: Number = 0) -> Stream:
    """Tell what happens, one JSON object a line, from the event after `after` of this journal on."""
    pool_id = pool_of(request)

    async def lines() -> AsyncIterator[bytes]:
        async with aclosing(daemon.events.follow(pool_id, journal, after)) as batches:
            async for messages in batches:
                yield to_lines(messages)

    return Stream(lines(), media_type="application/x-ndjson")


@post("/cancel/{remote_id:str}", status_code=200)
async def cancel(request: Asked, daemon: TheDaemon, remote_id: FromPath[str]) -> CancelReply:
    """End an attempt: SIGTERM, 10 s, SIGKILL. Answers when heard."""
    entry = daemon.attempts.cancel(pool_of(request), remote_id)
    running = daemon.attempts.log_bell(remote_id) is not None
    return CancelReply(job_id=remote_id, status=status_of(entry).status, cancelled=running)


@post("/release/{remote_id:str}", status_code=200)
async def release(request: Asked, daemon: TheDaemon, remote_id: FromPath[str]) -> ReleaseReply:
    """Delete an ended attempt with its log and files."""
    await daemon.attempts.release(pool_of(request), remote_id)
    return ReleaseReply(job_id=remote_id)


@post("/release", status_code=200)
async def release_all(request: Asked, daemon: TheDaemon, job: FromQuery[list[str]]) -> ReleasesAnswer:
    """Delete many, in one commit. Those that are gone are no error; those that run are named and stay."""
    if len(job) > MOST_RELEASES:
        raise BadRequestError(f"more than {MOST_RELEASES} attempts at once", hint="send several requests")
    pool_id, running = pool_of(request), []

    async def one(remote_id: str) -> None:
        try:
            await daemon.attempts.release(pool_id, remote_id)
        except NotFoundError:
            return
        except ConflictError:
            running.append(remote_id)

    await asyncio.gather(*(one(remote_id) for remote_id in dict.fromkeys(job)))
    return ReleasesAnswer(running=tuple(running))
