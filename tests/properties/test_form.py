"""However a form is cut into chunks, its parts are the same; whatever the bytes, errors are typed."""

import asyncio
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from trusted_pool.protocol.errors import PoolError
from trusted_pool.protocol.form import parts

BOUNDARY = "xBx"
KIND = f"multipart/form-data; boundary={BOUNDARY}"
#: Data that is nearly a boundary is the interesting kind.
DATA = st.lists(st.sampled_from([b"\r", b"\n", b"-", b"\r\n--", b"xB", b"x", b"\r\n--xB", b"\0"]), max_size=12).map(
    b"".join
)
SAFE = st.binary(max_size=300).filter(lambda data: b"\r\n--xBx" not in data) | DATA.filter(
    lambda data: b"\r\n--xBx" not in b"\r\n" + data + b"\r\n"
)
NAMES = st.text(st.characters(exclude_categories=["C"], exclude_characters='"\\%'), min_size=1, max_size=20)
PARTS = st.lists(st.tuples(NAMES, st.none() | NAMES, SAFE), min_size=1, max_size=5)
Read = list[tuple[str, str | None, bytes]]


def body(of: Read) -> bytes:
    out = b""
    for name, filename, data in of:
        file = "" if filename is None else f'; filename="{filename}"'
        out += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"
    return out + f"--{BOUNDARY}--\r\n".encode()


def read(raw: bytes, cuts: list[int]) -> Read:
    async def chunks() -> AsyncIterator[bytes]:
        at = 0
        for cut in sorted(cut % (len(raw) + 1) for cut in cuts):
            yield raw[at:cut]
            at = cut
        yield raw[at:]

    async def run() -> Read:
        return [(p.name, p.filename, b"".join([piece async for piece in p])) async for p in parts(KIND, chunks())]

    return asyncio.run(run())


@given(PARTS, st.lists(st.integers(0, 10_000), max_size=30))
def test_any_split_gives_the_same_parts(of: Read, cuts: list[int]) -> None:
    assert read(body(of), cuts) == of


@given(PARTS, st.integers(0, 10_000), st.binary(max_size=8), st.integers(0, 8), st.lists(st.integers(0, 10_000)))
def test_any_damage_is_a_typed_error_or_a_form(of: Read, at: int, new: bytes, old: int, cuts: list[int]) -> None:
    raw = body(of)
    at %= len(raw)
    raw = raw[:at] + new + raw[at + old :]
    answers: list[Read | int] = []
    for how in ([], cuts):
        try:
            answers.append(read(raw, how))
        except PoolError as error:
            answers.append(error.status)
    assert answers[0] == answers[1]
    assert isinstance(answers[0], list) or 400 <= answers[0] < 500
