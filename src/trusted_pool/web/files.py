"""Serving what jobs left: bytes that nobody has looked at, so that a browser never runs them here."""

import mimetypes
import re
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from litestar import Response
from litestar.response import Stream

from trusted_pool.core.job import OutputFile
from trusted_pool.core.words import Fault
from trusted_pool.protocol.errors import PoolError
from trusted_pool.web.failures import answer

#: Types that a browser may show in place; all others are sent as attachments.
PASSIVE = frozenset(
    {
        "text/plain",
        "text/csv",
        "application/json",
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
        "video/mp4",
        "video/webm",
    }
)
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})\Z")  # no file has a size of more digits
_PARTIAL = 206

OpenRange = Callable[[int, int], AsyncIterator[bytes]]


class RangeError(PoolError):
    """The range lies outside the file."""

    status, code, fault = 416, "range_not_satisfiable", Fault.USER


def media_type(path: str) -> str:
    """Guess a file's media type by its name."""
    guessed, encoding = mimetypes.guess_type(path, strict=False)
    return guessed if guessed and encoding is None else "application/octet-stream"


def disposition(name: str, kind: str) -> str:
    """Write Content-Disposition for a file of this media type (RFC 6266, RFC 8187)."""
    how = "inline" if kind in PASSIVE else "attachment"
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in name)
    return f"{how}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def serve(file: OutputFile, open_range: OpenRange, asked: Mapping[str, str]) -> Response[Any]:
    """Answer with one file, the wanted range of it, or that it is still the same. `asked`: the request's headers."""
    etag = f'"{file.sha256}"'
    kind = media_type(file.path)
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition(PurePosixPath(file.path).name, kind),
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "private, no-cache",
    }
    known = asked.get("if-none-match", "")
    if known.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
        return Response(b"", status_code=304, headers=headers)
    start, length, status = 0, file.size, 200
    wanted = asked.get("range") if asked.get("if-range", etag) == etag else None
    try:
        found = None if wanted is None else _range(wanted, file.size)
    except RangeError as error:
        outside = answer(error)
        outside.headers["Content-Range"] = f"bytes */{file.size}"
        return outside
    if found is not None:
        start, length = found
        status = _PARTIAL
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{file.size}"
    headers["Content-Length"] = str(length)
    body = open_range(start, length) if length else _nothing()
    return Stream(body, status_code=status, media_type=kind, headers=headers)


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


def _range(wanted: str, size: int) -> tuple[int, int] | None:
    """Return start and length of a single range; None for what RFC 9110 lets a server ignore."""
    match = _RANGE.match(wanted.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        if length == 0:
            raise _outside(size)
        return size - length, length
    start = int(match[1])
    end = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < start:
        return None
    if start >= size:
        raise _outside(size)
    return start, end - start + 1


def _outside(size: int) -> RangeError:
    return RangeError(f"the file has {size} bytes", hint="ask for bytes that it has, or without Range for all of it")
