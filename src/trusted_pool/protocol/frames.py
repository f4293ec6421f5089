"""The framed log: stdout and stderr of one attempt in one file, in the order they were read.

A frame is a 13-byte header and its bytes: time (float64 seconds since the epoch), stream (uint8), length
(uint32), all big-endian. A file may end inside a frame: the rest has not been written yet.
"""

import math
import struct
from collections.abc import Iterator

import msgspec

STDOUT = 1
STDERR = 2
MARK = 3  #: the worker's own words, for instance that the log was cut
NAMES = {STDOUT: "stdout", STDERR: "stderr", MARK: "mark"}

HEADER = struct.Struct(">dBI")
MAX_FRAME = 64 * 1024


class Frame(msgspec.Struct, frozen=True):
    """Bytes that were read from one stream at one time."""

    at: float
    stream: int
    data: bytes


class FrameError(ValueError):
    """Bytes that are no framed log."""


def encode(at: float, stream: int, data: bytes) -> bytes:
    """Write the data as one or more frames of at most 64 KiB."""
    parts = []
    for start in range(0, len(data), MAX_FRAME):
        piece = data[start : start + MAX_FRAME]
        parts.append(HEADER.pack(at, stream, len(piece)) + piece)
    return b"".join(parts)


class Decoder:
    """Turns a stream of bytes into frames; feed it pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""
        self.offset = 0  #: bytes of the log that have become whole frames

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are whole now.

        Raises:
            FrameError: an unknown stream, a frame over 64 KiB, or a time that is no number. Frames before it were
                yielded; feeding on raises it again.
        """
        self._rest += data
        start = 0
        try:
            while len(self._rest) - start >= HEADER.size:
                at, stream, length = HEADER.unpack_from(self._rest, start)
                if stream not in NAMES or length > MAX_FRAME or not math.isfinite(at):
                    raise FrameError(f"no frame of a log at byte {self.offset}")
                end = start + HEADER.size + length
                if end > len(self._rest):
                    break
                frame = Frame(at, stream, self._rest[start + HEADER.size : end])
                self.offset += end - start
                start = end
                yield frame
        finally:
            self._rest = self._rest[start:]
