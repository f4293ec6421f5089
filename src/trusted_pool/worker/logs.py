"""Reading an attempt's log: raw and live, or as text."""

from collections.abc import AsyncIterator

from trusted_pool.ports.journal import Journal
from trusted_pool.protocol import frames
from trusted_pool.protocol.answers import LogsAnswer
from trusted_pool.worker.attempts import Attempts

PIECE = 64 * 1024
#: Bytes of the framed log that are shown as text at most.
SHOWN_BYTES = 4 * 2**20


async def follow_log(
    attempts: Attempts, journal: Journal, remote_id: str, start: int, *, follow: bool
) -> AsyncIterator[bytes]:
    """Yield the framed log from byte `start` on; with `follow` wait for more until the attempt has ended."""
    while True:
        bell = attempts.log_bell(remote_id)
        seen = bell.rings if bell is not None else 0
        while piece := await journal.read_log(remote_id, start, PIECE):
            start += len(piece)
            yield piece
        if not follow or bell is None:
            return
        await bell.wait(seen)


async def read_text(journal: Journal, remote_id: str) -> LogsAnswer:
    """Return the log as text, up to 4 MiB of it."""
    decoder = frames.Decoder()
    streams: dict[int, bytearray] = {frames.STDOUT: bytearray(), frames.STDERR: bytearray()}
    position = 0
    while position < SHOWN_BYTES and (piece := await journal.read_log(remote_id, position, PIECE)):
        position += len(piece)
        for frame in decoder.feed(piece):
            if frame.stream in streams:
                streams[frame.stream] += frame.data
    return LogsAnswer(
        job_id=remote_id,
        stdout=streams[frames.STDOUT].decode("utf-8", "replace"),
        stderr=streams[frames.STDERR].decode("utf-8", "replace"),
        truncated=journal.log_size(remote_id) > position,
    )
