"""Follow a job's log while it is written, over as many connections as it takes."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from trusted_pool.client.errors import AnswerError, ClientError, UnreachableError
from trusted_pool.client.sse import Parser, ServerEvent
from trusted_pool.client.transport import Transport
from trusted_pool.protocol.answers import EndEvent, LogEvent
from trusted_pool.protocol.decoding import DecodingError, decode

#: A live stream that says nothing for so long, not even a comment, is taken for dead.
SILENCE_S = 90.0
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0


class LogPiece(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a job's log. `stream`: stdout, stderr, or mark for the worker's own words."""

    stream: str
    at: float
    text: str
    offset: str  #: where to resume after it


async def follow(
    transport: Transport, job_id: str, *, after: str = "", patience_s: float = 120.0
) -> AsyncGenerator[LogPiece | EndEvent, None]:
    """Yield the log from `after` on, then the end. No piece comes twice and none is left out.

    A lost connection is made again, with growing pauses, for at most `patience_s` without a word of the pool.

    Raises:
        ClientError: the pool says no, or could not be reached for too long.
    """
    wait_s, heard_at = _FIRST_WAIT_S, time.monotonic()
    while True:
        trouble: ClientError
        try:
            events = _one_connection(transport, job_id, after)
            async with aclosing(events):
                async for event in events:
                    wait_s, heard_at = _FIRST_WAIT_S, time.monotonic()
                    piece = _read(event)
                    if isinstance(piece, EndEvent):
                        yield piece
                        return
                    if piece is not None:
                        after = piece.offset
                        yield piece
            trouble = UnreachableError("the pool ended the log's stream early", hint="try again")
        except ClientError as error:
            if not error.retryable:
                raise
            trouble = error
        if time.monotonic() - heard_at > patience_s:
            raise trouble
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 2, _LONGEST_WAIT_S)


async def _one_connection(transport: Transport, job_id: str, after: str) -> AsyncGenerator[ServerEvent, None]:
    headers = {"Accept": "text/event-stream"}
    if after:
        headers["Last-Event-ID"] = after
    parser = Parser()
    parser.last_id = after
    async with transport.stream(
        "GET", f"/logs/{job_id}", params={"follow": 1}, headers=headers, silence_s=SILENCE_S
    ) as response:
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            raise AnswerError(f"the log of {job_id} came as {kind or 'nothing'}, not as a stream of events")
        async for piece in response.aiter_bytes():
            for event in parser.feed(piece):
                yield event


def _read(event: ServerEvent) -> LogPiece | EndEvent | None:
    try:
        if event.name == "end":
            end: EndEvent = decode(event.data, EndEvent)
            return end
        if event.name in ("stdout", "stderr", "mark"):
            said: LogEvent = decode(event.data, LogEvent)
            return LogPiece(stream=event.name, at=said.at, text=said.text, offset=event.id)
    except DecodingError as error:
        raise AnswerError(f"an event of the log cannot be read: {error}") from None
    return None
