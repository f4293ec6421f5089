"""Routes about what jobs print."""

from collections.abc import AsyncIterator
from typing import Any, Literal

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.response import Stream

from trusted_pool.coordinator.service import Coordinator
from trusted_pool.protocol import frames
from trusted_pool.protocol.answers import LogsAnswer
from trusted_pool.web.caller import VIEWER, caller_of
from trusted_pool.web.describe import FOLLOWS, fails, sends
from trusted_pool.web.places import hold
from trusted_pool.web.sse import log_events, place_of

MAX_LOG_TEXT = 4 * 1024 * 1024

#: The answer is one of two, so the type that documents it stands here.
_ANSWER = {200: ResponseSpec(LogsAnswer, description="The log, or a stream of events")}

Req = Request[Any, Any, Any]


def log_routes(coordinator: Coordinator) -> list[HTTPRouteHandler]:
    """Return the routes, bound to a coordinator."""

    @get("/logs/{job_id:str}", summary="What a job printed", responses=_ANSWER, opt=VIEWER | FOLLOWS | fails(429))
    async def logs(request: Req, job_id: str, follow: bool = False) -> Response[Any]:
        """With `follow`, live server-sent events: stdout, stderr, mark, then `end`. Resume with Last-Event-ID."""
        caller = caller_of(request)
        may = caller.may_see
        if follow:
            place = place_of(request.headers.get("last-event-id"))
            lines = coordinator.logs.follow(job_id, may, place)
            may(await coordinator.jobs.get(job_id))
            hold(request, coordinator.admission.wait(caller.owner))
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            return Stream(log_events(lines), media_type="text/event-stream", headers=headers)
        texts = {frames.STDOUT: bytearray(), frames.STDERR: bytearray()}
        truncated = False
        async for frame in coordinator.logs.now(job_id, may):
            text = texts.get(frame.stream)
            if text is None or len(text) + len(frame.data) > MAX_LOG_TEXT:
                truncated = True
                continue
            text += frame.data
        answer = LogsAnswer(
            job_id=job_id,
            stdout=texts[frames.STDOUT].decode("utf-8", "replace"),
            stderr=texts[frames.STDERR].decode("utf-8", "replace"),
            truncated=truncated,
        )
        return Response(answer)

    @get(
        "/logs/{job_id:str}/{stream:str}",
        summary="One stream of what a job printed, byte for byte",
        opt=VIEWER | sends("text/plain"),
    )
    async def raw_log(request: Req, job_id: str, stream: Literal["stdout", "stderr"]) -> Stream:
        """As it is now."""
        caller_of(request).may_see(await coordinator.jobs.get(job_id))
        wanted = frames.STDOUT if stream == "stdout" else frames.STDERR

        async def pieces() -> AsyncIterator[bytes]:
            async for frame in coordinator.logs.now(job_id, caller_of(request).may_see):
                if frame.stream == wanted:
                    yield frame.data

        headers = {"Content-Security-Policy": "sandbox; default-src 'none'"}
        return Stream(pieces(), media_type="text/plain", headers=headers)

    return [logs, raw_log]
