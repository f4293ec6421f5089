"""Framed logs: what is written, what is refused."""

import math

import pytest

from trusted_pool.protocol.frames import HEADER, MARK, MAX_FRAME, STDERR, STDOUT, Decoder, Frame, FrameError, encode


def test_bytes_on_disk() -> None:
    assert encode(1.5, STDERR, b"hi") == b"\x3f\xf8\0\0\0\0\0\0" + b"\x02" + b"\0\0\0\x02" + b"hi"


def test_long_data_becomes_several_frames() -> None:
    data = bytes(range(256)) * 513
    frames = list(Decoder().feed(encode(2.0, STDOUT, data)))
    assert [len(frame.data) for frame in frames] == [MAX_FRAME, MAX_FRAME, 256]
    assert b"".join(frame.data for frame in frames) == data


def test_nothing_is_no_frame() -> None:
    assert encode(1.0, STDOUT, b"") == b""
    assert list(Decoder().feed(b"")) == []


def test_an_unfinished_frame_waits() -> None:
    decoder, log = Decoder(), encode(1.0, MARK, b"abc") + encode(2.0, STDOUT, b"def")
    assert list(decoder.feed(log[:-1])) == [Frame(1.0, MARK, b"abc")]
    assert decoder.offset == HEADER.size + 3
    assert list(decoder.feed(log[-1:])) == [Frame(2.0, STDOUT, b"def")]
    assert decoder.offset == len(log)


@pytest.mark.parametrize(
    "bad",
    [
        HEADER.pack(1.0, 0, 1),
        HEADER.pack(1.0, 4, 1),
        HEADER.pack(1.0, STDOUT, MAX_FRAME + 1),
        HEADER.pack(math.nan, STDOUT, 1),
        HEADER.pack(math.inf, STDOUT, 1),
    ],
)
def test_garbage_is_refused_at_its_place(bad: bytes) -> None:
    decoder, good = Decoder(), encode(1.0, STDOUT, b"good")
    frames = decoder.feed(good + bad + good)
    assert next(frames) == Frame(1.0, STDOUT, b"good")
    with pytest.raises(FrameError, match=f"byte {len(good)}$"):
        next(frames)
    with pytest.raises(FrameError):
        list(decoder.feed(good))
    assert decoder.offset == len(good)


def test_a_reader_may_stop_between_frames() -> None:
    decoder, log = Decoder(), encode(1.0, STDOUT, b"a") + encode(2.0, STDOUT, b"b")
    frames = decoder.feed(log)
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert list(decoder.feed(b"")) == [Frame(2.0, STDOUT, b"b")]
