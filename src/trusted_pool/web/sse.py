"""Logs as server-sent events."""

import codecs
from collections.abc import AsyncIterator

import msgspec

from trusted_pool.coordinator.logs import Line, Place
from trusted_pool.core.job import Job
from trusted_pool.protocol import frames
from trusted_pool.protocol.answers import EndEvent, LogEvent
from trusted_pool.protocol.errors import BadRequestError


def place_of(last_event_id: str | None) -> Place:
    """Read the id of the last event that a client has seen: `attempt:offset`. Raises BadRequestError."""
    if not last_event_id:
        return Place()
    attempt, colon, offset = last_event_id.partition(":")
    short = len(last_event_id) < 40  # noqa: PLR2004 - two numbers are never longer
    if colon and short and attempt.isdecimal() and offset.isdecimal():
        return Place(int(attempt), int(offset))
    raise BadRequestError(f"Last-Event-ID {last_event_id[:40]!r} is none of this log", hint="leave it out")


async def log_events(lines: AsyncIterator[Line | Job | None]) -> AsyncIterator[bytes]:
    """Write log lines as events; a comment keeps an idle connection open."""
    decoders: dict[tuple[int, int], codecs.IncrementalDecoder] = {}
    yield b": log\n\n"
    async for line in lines:
        if line is None:
            yield b": waiting\n\n"
        elif isinstance(line, Job):
            end = EndEvent(state=line.state, reason=line.reason, detail=line.detail)
            yield b"event: end\ndata: " + msgspec.json.encode(end) + b"\n\n"
        else:
            frame, place = line.frame, line.place
            key = (place.attempt, frame.stream)
            if key not in decoders:
                decoders[key] = codecs.getincrementaldecoder("utf-8")("replace")
            data = msgspec.json.encode(LogEvent(at=frame.at, text=decoders[key].decode(frame.data)))
            head = f"id: {place.attempt}:{place.offset}\nevent: {frames.NAMES[frame.stream]}\ndata: "
            yield head.encode() + data + b"\n\n"
