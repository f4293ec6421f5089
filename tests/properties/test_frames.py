"""Framed logs, however they are cut."""

from hypothesis import given
from hypothesis import strategies as st

from trusted_pool.protocol.frames import MARK, STDERR, STDOUT, Decoder, Frame, FrameError, encode

times = st.floats(allow_nan=False, allow_infinity=False)
frames = st.lists(st.builds(Frame, times, st.sampled_from([STDOUT, STDERR, MARK]), st.binary(min_size=1, max_size=50)))


def cut(raw: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({place % (len(raw) + 1) for place in cuts})
    return [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)]


@given(frames, st.lists(st.integers(0, 10**6), max_size=20))
def test_any_split_decodes_to_the_same(written: list[Frame], cuts: list[int]) -> None:
    log = b"".join(encode(frame.at, frame.stream, frame.data) for frame in written)
    decoder = Decoder()
    assert [frame for piece in cut(log, cuts) for frame in decoder.feed(piece)] == written
    assert decoder.offset == len(log)


@given(frames, st.integers(0, 10**6))
def test_reading_on_from_an_offset(written: list[Frame], first: int) -> None:
    log = b"".join(encode(frame.at, frame.stream, frame.data) for frame in written)
    decoder = Decoder()
    before = list(decoder.feed(log[: first % (len(log) + 1)]))
    assert before + list(Decoder().feed(log[decoder.offset :])) == written


@given(st.binary(max_size=200), st.lists(st.integers(0, 10**6), max_size=5))
def test_garbage_raises_frame_errors_only(raw: bytes, cuts: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> tuple[list[Frame], str]:
        decoder, got = Decoder(), []
        try:
            for piece in pieces:
                got += decoder.feed(piece)
        except FrameError as error:
            return got, str(error)
        return got, ""

    whole, split = outcome([raw]), outcome(cut(raw, cuts))
    assert whole == split  # `list +=` of a generator that raises keeps what came before
