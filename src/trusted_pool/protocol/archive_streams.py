"""The bytes inside a compressed file, a piece at a time, and a reader that takes exact amounts of them."""

import zlib
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO, cast

import zstandard

from trusted_pool.protocol.archive_entry import CHUNK
from trusted_pool.protocol.errors import BadArchiveError

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SEND_AGAIN = "pack it again, and check the upload"
_GZIP = 31  # zlib's wbits for a gzip wrapper with the largest window
#: Memory that a zstd frame may ask for. `zstd -19` asks for 8 MiB; only --ultra and --long ask for more than this.
_ZSTD_WINDOW = 32 * 2**20
#: Put behind the file: see `unzstd`.
_END = b"end of file: 9d1c6a5e4b7f2038"
_END_FRAME = zstandard.ZstdCompressor(write_checksum=True).compress(_END)


def plain(file: BinaryIO) -> Iterator[bytes]:
    """Yield the file as it is."""
    return iter(partial(file.read, CHUNK), b"")


def gunzip(file: BinaryIO) -> Iterator[bytes]:
    """Yield what one gzip stream holds, at most 64 KiB at a time.

    Raises:
        BadArchiveError: damaged, truncated, or followed by anything.
    """
    inflater = zlib.decompressobj(_GZIP)
    data = b""
    full = False  # more may come out without anything going in
    while not inflater.eof:
        if not data and not full:
            data = file.read(CHUNK)
            if not data:
                raise BadArchiveError("the gzip stream is truncated", hint=_SEND_AGAIN)
        try:
            piece = inflater.decompress(data, CHUNK)
        except zlib.error as error:
            raise BadArchiveError(f"the gzip stream is damaged: {error}", hint=_SEND_AGAIN) from None
        data = inflater.unconsumed_tail
        full = len(piece) == CHUNK
        if piece:
            yield piece
    if inflater.unused_data or file.read(1):
        raise BadArchiveError("bytes follow the end of the gzip stream", hint="send one .tar.gz, packed in one go")


class _EndMarked:
    """A file with the end frame behind it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rest = _END_FRAME

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        if not data:
            data, self._rest = self._rest[:size], self._rest[size:]
        return data


def unzstd(file: BinaryIO) -> Iterator[bytes]:
    """Yield what the zstd frames hold, at most 64 KiB at a time.

    The library's bounded reader takes a truncated file for a whole one. So the file is read with a known frame behind
    it: only when every frame before is whole does the output end with what the known frame holds.

    Raises:
        BadArchiveError: damaged, truncated, followed by anything, or a window over 32 MiB.
    """
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    reader = decompressor.stream_reader(cast("BinaryIO", _EndMarked(file)), read_size=CHUNK, read_across_frames=True)
    held = b""  # might be the end
    while True:
        try:
            piece = reader.read(CHUNK)
        except zstandard.ZstdError as error:
            raise BadArchiveError(
                f"the zstd stream is damaged or not for streaming: {error}",
                hint="pack it again with zstd -19 or less, without --long",
            ) from None
        if not piece:
            break
        held += piece
        if len(held) > len(_END):
            yield held[: -len(_END)]
            held = held[-len(_END) :]
    if held != _END:
        raise BadArchiveError("the zstd stream is truncated", hint=_SEND_AGAIN)


class Feed:
    """Takes exact amounts of bytes from a stream of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes; for small sizes.

        Raises:
            BadArchiveError: the stream ends before.
        """
        end = self._at + size
        if end <= len(self._piece):
            data = self._piece[self._at : end]
            self._at = end
            return data
        return b"".join(self.run(size))

    def run(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes as they come.

        Raises:
            BadArchiveError: the stream ends before.
        """
        while size:
            if self._at == len(self._piece) and not self._more():
                raise BadArchiveError("the archive is truncated", hint=_SEND_AGAIN)
            piece = self._piece[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece

    def rest(self) -> Iterator[bytes]:
        """Yield all that is left."""
        while self._at < len(self._piece) or self._more():
            piece = self._piece[self._at :]
            self._at = len(self._piece)
            yield piece

    def _more(self) -> bool:
        self._piece = next(self._pieces, b"")
        self._at = 0
        return bool(self._piece)
