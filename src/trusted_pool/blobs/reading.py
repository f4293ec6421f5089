"""Reading a blob's file in pieces, off the event loop."""

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trusted_pool.blobs.disk import explained
from trusted_pool.ports.blobs import BlobMissingError, BlobsError

PIECE = 256 * 1024


class Reader:
    """A range of a file in the hands of threads. The lock keeps `close` from pulling the file away under a read."""

    def __init__(self, root: Path, path: Path, sha256: str, start: int = 0, length: int | None = None) -> None:
        if start < 0 or (length is not None and length < 0):
            raise ValueError("start and length of a range are not negative")
        self._root, self._path, self._digest = root, path, sha256
        self._at, self._length, self._end = start, length, 0
        self._whole = False
        self._sha256 = hashlib.sha256()
        self._fd = -1
        self._closed = False
        self._lock = threading.Lock()

    def next(self) -> tuple[bytes, bool]:
        """Return the next piece and whether there are more; the first call opens the file.

        Of a whole blob the last piece is returned only when the digest is right.

        Raises:
            BlobMissingError: there is no such file.
            BlobsError: it cannot be read, or its bytes have not the digest.
        """
        with self._lock, explained(self._root):
            if self._closed:
                return b"", False
            if self._fd < 0:
                self._open()
            piece = os.pread(self._fd, min(PIECE, max(0, self._end - self._at)), self._at)
            self._at += len(piece)
            more = self._at < self._end and bool(piece)
            if self._whole:
                self._sha256.update(piece)
                if not more and self._sha256.hexdigest() != self._digest:
                    words = "is damaged: its bytes have another digest; delete it and submit them again"
                    raise BlobsError(f"the blob {self._path} {words}")
            return piece, more

    def _open(self) -> None:
        try:
            self._fd = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            if not self._path.parent.is_dir():
                raise
            raise BlobMissingError(f"there is no blob {self._path.name}") from None
        size = os.fstat(self._fd).st_size
        self._end = size if self._length is None else min(size, self._at + self._length)
        self._whole = self._at == 0 and self._end == size

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._closed = True
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


async def pieces(threads: ThreadPoolExecutor, reader: Reader) -> AsyncIterator[bytes]:
    """Yield a reader's range in pieces of at most 256 KiB, then close it. Raises like `Reader.next`."""
    more = True
    try:
        while more:
            piece, more = await asyncio.get_running_loop().run_in_executor(threads, reader.next)
            if piece:
                yield piece
    finally:
        # Not awaited: closing must also work while this is being cancelled.
        threads.submit(reader.close)
