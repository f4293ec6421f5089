"""Forms as clients send them, and the refusals of what is none."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from trusted_pool.protocol.errors import BadRequestError, PoolError, TooLargeError
from trusted_pool.protocol.form import FormLimits, parts

BOUNDARY = "------------------------d74496d66958873e"
KIND = f"multipart/form-data; boundary={BOUNDARY}"
Read = tuple[str, str | None, str | None, bytes]


def part(disposition: str, data: bytes = b"", kind: str = "") -> bytes:
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n"
    head += f"Content-Type: {kind}\r\n" if kind else ""
    return head.encode() + b"\r\n" + data + b"\r\n"


def form(*pieces: bytes) -> bytes:
    return b"".join(pieces) + f"--{BOUNDARY}--\r\n".encode()


FILES = part('name="files"; filename="project.tar.gz"', b"\x1f\x8b\r\n--binary\r\n", "application/gzip")
MANIFEST = part('name="manifest"', b'{"entrypoint":"main.py"}')


async def stream(body: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    for at in range(0, len(body), size):
        yield body[at : at + size]


def read(body: bytes, kind: str = KIND, limits: FormLimits | None = None, size: int = 1 << 16) -> list[Read]:
    async def run() -> list[Read]:
        return [
            (part.name, part.filename, part.content_type, b"".join([piece async for piece in part]))
            async for part in parts(kind, stream(body, size), limits)
        ]

    return asyncio.run(run())


def refusal(body: bytes, kind: str = KIND, limits: FormLimits | None = None) -> PoolError:
    errors = []
    for size in (1, 7, 1 << 16):
        with pytest.raises(PoolError) as caught:
            read(body, kind, limits, size)
        errors.append(caught.value)
    assert len({(type(error), error.status) for error in errors}) == 1
    return errors[-1]


EXPECTED: list[Read] = [
    ("files", "project.tar.gz", "application/gzip", b"\x1f\x8b\r\n--binary\r\n"),
    ("manifest", None, None, b'{"entrypoint":"main.py"}'),
]


@pytest.mark.parametrize("size", [1, 2, 3, 50, 1 << 16])
def test_a_form_of_curl(size: int) -> None:
    assert read(form(FILES, MANIFEST), size=size) == EXPECTED


@pytest.mark.parametrize(
    "kind",
    [
        f'multipart/form-data; boundary="{BOUNDARY}"',
        f"Multipart/Form-Data; charset=utf-8; boundary={BOUNDARY}",
    ],
)
def test_other_spellings_of_the_content_type(kind: str) -> None:
    assert read(form(FILES, MANIFEST), kind) == EXPECTED


def test_a_line_break_before_and_anything_behind_are_let_pass() -> None:
    for size in (1, 60, 1 << 16):
        assert read(b"\r\n" + form(FILES, MANIFEST) + b"epilogue\r\n", size=size) == EXPECTED


def test_names_of_files() -> None:
    sent = ["d/é x.py", r"a\"b.py", "a%22b.py", ""]
    body = form(*(part(f'name="files"; filename="{name}"') for name in sent))
    assert [name for _, name, _, _ in read(body)] == ["d/é x.py", 'a"b.py', 'a"b.py', ""]


def test_what_a_reader_leaves_is_skipped() -> None:
    async def run() -> list[tuple[str, bytes]]:
        seen = []
        async for one in parts(KIND, stream(form(FILES, FILES, MANIFEST), 5)):
            if one.name == "files":
                async for piece in one:
                    seen.append((one.name, piece))
                    break
            else:
                seen.append((one.name, await one.read(100)))
        return seen

    names = [name for name, _ in asyncio.run(run())]
    assert names == ["files", "files", "manifest"]


def test_read_has_a_limit_of_its_own() -> None:
    async def run() -> None:
        async for one in parts(KIND, stream(form(FILES))):
            await one.read(3)

    with pytest.raises(TooLargeError, match="'files' is larger than 3 bytes"):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("", "there is no Content-Type"),
        ("application/json", "not 'application/json'"),
        ("multipart/mixed; boundary=x", "not 'multipart/mixed'"),
        ("multipart/form-data", "boundary in the Content-Type is missing"),
        ("multipart/form-data; boundary=", "missing"),
        ("multipart/form-data; boundary=" + "x" * 71, "wrong"),
        ('multipart/form-data; boundary="a\u00e9"', "wrong"),
    ],
)
def test_content_types_that_are_no_form(kind: str, words: str) -> None:
    error = refusal(form(FILES), kind)
    assert (error.status, type(error)) == (400, BadRequestError)
    assert words in error.message
    assert "curl" in error.hint or "HTTP client" in error.hint


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--",
        b"{}",
        form(FILES, MANIFEST)[:-5],
        form(FILES, MANIFEST)[:200],
        FILES,
        f"--{BOUNDARY}\r\n".encode(),
        f"--{BOUNDARY}x\r\n\r\n".encode(),
        b"preamble\r\n" + form(FILES),
        form(FILES).replace(b"form-data", b"attachment"),
        form(FILES).replace(b"Content-Disposition", b"X-Other"),
        form(FILES).replace(b'name="files"; ', b""),
        form(FILES).replace(b"application/gzip", b"a\nb"),
        form(FILES).replace(b"project", b"\xff"),
        form(FILES).replace(b"Content-Type: application/gzip", b'Content-Disposition: form-data; name="x"'),
        form(part("name=\"files\"; filename*=UTF-8''a.py")),
        form(FILES).replace(b"Content-Type: application/gzip", b"Content-Length: 1"),
        form(FILES).replace(b"Content-Type: application/gzip", b"Content-Length: -1"),
    ],
)
def test_malformed_forms(body: bytes) -> None:
    error = refusal(body)
    assert error.status == 400
    assert error.hint


@pytest.mark.parametrize(
    ("body", "limits", "words"),
    [
        (form(*[part(f'name="f{n}"') for n in range(15_000)]), FormLimits(), "more than 1000 parts"),
        (form(FILES), FormLimits(max_bytes=100), "larger than 100 bytes"),
        (form(part('name="manifest"', b"x" * 300_000)), FormLimits(), "field 'manifest' is larger than 262144 bytes"),
        (form(part(f'name="{"n" * 5000}"')), FormLimits(), "headers beyond the limit"),
        (form(FILES).replace(b"\r\n\r\n", b"\r\nA: b" * 10 + b"\r\n\r\n"), FormLimits(), "headers beyond the limit"),
    ],
    ids=["parts", "bytes", "field", "header", "headers"],
)
def test_limits(body: bytes, limits: FormLimits, words: str) -> None:
    with pytest.raises(TooLargeError) as caught:
        read(body, limits=limits)
    assert caught.value.status == 413
    assert words in caught.value.message


def test_an_endless_upload_is_left_at_its_limit() -> None:
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        yield FILES
        while True:
            given += 1
            yield bytes(1000)

    async def run() -> None:
        async for one in parts(KIND, endless(), FormLimits(max_bytes=100_000)):
            async for _ in one:
                pass

    with pytest.raises(TooLargeError):
        asyncio.run(run())
    assert given <= 100
