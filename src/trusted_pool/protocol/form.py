"""Reading uploads: multipart/form-data as a stream, nothing larger than one piece in memory."""

import enum
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Literal

import msgspec
from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from trusted_pool.protocol.errors import BadRequestError, TooLargeError

_CURL = """curl -F "files=@project.tar.gz" -F 'manifest={"entrypoint":"main.py"}' URL/submit"""
_HINT = f"send multipart/form-data, as curl does: {_CURL}"
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]\Z")  # RFC 2046, 5.1.1
_MAX_CONTENT_TYPE = 1000


class FormLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much a form may hold."""

    max_bytes: int = 10 * 2**30  #: of the whole body
    max_parts: int = 1000
    max_field_bytes: int = 256 * 1024  #: of a part without a file name
    max_header_bytes: int = 4096 + 128  #: of one header line of a part
    max_headers: int = 8  #: of one part


class Part:
    """One part of a form. Iterate over it, or `read` it, before the next part is asked for; what is left is skipped."""

    __slots__ = ("_data", "content_type", "filename", "name")

    def __init__(
        self, name: str, filename: str | None, content_type: str | None, data: AsyncGenerator[bytes, None]
    ) -> None:
        """`filename`: as sent, unchecked; None for a field."""
        self.name = name
        self.filename = filename
        self.content_type = content_type
        self._data = data

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._data

    async def read(self, limit: int) -> bytes:
        """Return all its bytes.

        Raises:
            TooLargeError: more than `limit` bytes.
        """
        pieces: list[bytes] = []
        size = 0
        async for piece in self._data:
            size += len(piece)
            if size > limit:
                raise TooLargeError(f"the part {self.name!r} is larger than {limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)


async def parts(
    content_type: str, chunks: AsyncIterator[bytes], limits: FormLimits | None = None
) -> AsyncGenerator[Part, None]:
    """Yield the parts of a form in the order they arrive. How the body is cut into chunks makes no difference.

    Raises:
        BadRequestError: no form, malformed, truncated.
        TooLargeError: one of the limits; raised as soon as it is passed.
    """
    events = _Events(_boundary(content_type), chunks, limits or FormLimits())
    while (event := await events.next()) is not _Form.END:
        if not isinstance(event, MultipartSegment):
            continue  # of a part whose reader was closed
        _check_headers(event)
        data = events.data(event)
        yield Part(event.name or "", event.filename, event.content_type, data)
        async for _ in data:  # what the reader left
            pass


def too_large(limits: FormLimits) -> TooLargeError:
    """Say that a body is larger than it may be."""
    return TooLargeError(f"the request is larger than {limits.max_bytes} bytes", hint="send less")


class _Form(enum.Enum):
    END = enum.auto()


class _Events:
    """The parser's events, one at a time, fed from the chunks as needed."""

    def __init__(self, boundary: str, chunks: AsyncIterator[bytes], limits: FormLimits) -> None:
        self._start = b"--" + boundary.encode()
        self._chunks = chunks
        self._limits = limits
        self._parser = PushMultipartParser(
            boundary,
            max_header_size=limits.max_header_bytes,
            max_header_count=limits.max_headers,
            max_segment_count=limits.max_parts,
        )
        self._events: Iterator[MultipartSegment | bytes | None] = iter(())
        self._bytes = 0

    async def next(self) -> MultipartSegment | bytes | Literal[_Form.END] | None:
        """Return a segment that begins, bytes of it, or None where it ends."""
        while True:
            try:
                for event in self._events:
                    return event
                chunk = await self._chunk()
                if not chunk:
                    self._parser.close()
                    return _Form.END
                self._events = self._parser.parse(chunk)
            except ParserLimitReached as error:
                raise self._beyond(str(error)) from None
            except MultipartError as error:
                raise BadRequestError(f"the form is malformed or cut short: {error}", hint=_HINT) from None

    async def data(self, segment: MultipartSegment) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the segment that has just begun."""
        cap = self._limits.max_field_bytes if segment.filename is None else None
        size = 0
        while isinstance(piece := await self.next(), bytes):
            size += len(piece)
            if cap is not None and size > cap:
                raise TooLargeError(
                    f"the field {segment.name!r} is larger than {cap} bytes",
                    hint="send a file with its name: -F files=@NAME",
                )
            yield piece

    async def _chunk(self) -> bytes:
        """Return the next chunk that is not empty; the first one holds at least the first boundary."""
        chunk = b""
        first = self._bytes == 0
        async for more in self._chunks:
            self._bytes += len(more)
            if self._bytes > self._limits.max_bytes:
                raise too_large(self._limits)
            chunk = chunk + more if chunk else bytes(more)
            if chunk and (not first or len(chunk) >= len(self._start) + 2):
                break
        if first:
            if not chunk:
                raise BadRequestError("the request has no body", hint=_HINT)
            chunk = chunk.removeprefix(b"\r\n")
            if not chunk.startswith(self._start):  # the parser would look for it in all that follows
                raise BadRequestError("the body does not begin with the boundary of its Content-Type", hint=_HINT)
        return chunk

    def _beyond(self, words: str) -> TooLargeError:
        limits = self._limits
        if "count" in words and "header" not in words:
            return TooLargeError(
                f"the form has more than {limits.max_parts} parts", hint="pack the files into one archive: tar czf"
            )
        return TooLargeError(f"a part of the form has headers beyond the limit: {words}", hint="use shorter file names")


def _boundary(content_type: str) -> str:
    """Return the boundary that the Content-Type header says."""
    kind, options = parse_options_header(content_type[:_MAX_CONTENT_TYPE])
    if kind != "multipart/form-data":
        said = f"not {kind[:100]!r}" if kind else "and there is no Content-Type"
        raise BadRequestError(f"the body must be multipart/form-data, {said}", hint=_HINT)
    boundary = str(options.get("boundary", ""))
    if not _BOUNDARY.match(boundary):
        words = "wrong" if boundary else "missing"
        raise BadRequestError(
            f"the boundary in the Content-Type is {words}", hint="let the HTTP client set the Content-Type by itself"
        )
    return boundary


def _check_headers(segment: MultipartSegment) -> None:
    """Refuse what two readers might read in two ways."""
    dispositions = 0
    for name, value in segment.headerlist:
        if name == "Content-Disposition":
            dispositions += 1
            if segment.filename is None and "filename*" in value:
                raise BadRequestError("a part names its file by filename*=", hint="send filename=, as RFC 7578 says")
        if "\n" in value or "\r" in value or "\0" in value:
            raise BadRequestError(f"a part's header {name} holds a control character", hint=_HINT)
    if dispositions > 1:
        raise BadRequestError("a part has two Content-Disposition headers", hint=_HINT)
    if not segment.name:
        raise BadRequestError("a part has no name", hint=_HINT)
