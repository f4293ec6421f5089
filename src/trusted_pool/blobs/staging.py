"""Writing a blob into the directory: a stage, then staged bytes. Small ones stay in memory until `publish`."""

import asyncio
import hashlib
import io
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

from trusted_pool.blobs.disk import Disk, explained, write_all
from trusted_pool.blobs.reading import Reader, pieces
from trusted_pool.ports.blobs import BlobsError

_T = TypeVar("_T")

#: Staged bytes up to this many never touch the disk before `publish`.
SMALL_BYTES = 64 * 1024
#: Written bytes are handed to a thread when this many have come together.
BUFFER_BYTES = 256 * 1024


class DirectoryStaged:
    """Staged bytes: in memory (`data`) or in a file of staging (`path`)."""

    def __init__(self, disk: Disk, threads: ThreadPoolExecutor, sha256: str, size: int, held: bytes | Path) -> None:
        self.sha256 = sha256
        self.size = size
        self._disk, self._threads = disk, threads
        self._held: bytes | Path | None = held
        self._failed = ""
        self._lock = threading.Lock()

    async def publish(self) -> None:
        """Make the blob durable under its digest. Of a file that could not be, only `discard` is left."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._publish)

    async def discard(self) -> None:
        """Forget the bytes."""
        if isinstance(self._held, bytes):
            self._held = None
        elif self._held is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._discard)

    def read(self) -> AsyncIterator[bytes]:
        """Read the staged bytes; before `publish` and `discard` only."""
        return self._read()

    def file(self) -> BinaryIO:
        """Open the staged bytes as a seekable file; likewise. The caller closes it. Raises BlobsError."""
        held = self._held
        if held is None:
            raise BlobsError("these staged bytes were published or discarded")
        if isinstance(held, bytes):
            return io.BytesIO(held)
        with explained(self._disk.root):
            return held.open("rb")

    async def _read(self) -> AsyncIterator[bytes]:
        held = self._held
        if held is None:
            raise BlobsError("these staged bytes were published or discarded")
        if isinstance(held, bytes):
            if held:
                yield held
            return
        async for piece in pieces(self._threads, Reader(self._disk.root, held, self.sha256)):
            yield piece

    def _publish(self) -> None:
        with self._lock:
            if self._failed:
                raise BlobsError(f"{self._failed} (and these bytes cannot be trusted any more)")
            try:
                with explained(self._disk.root):
                    if isinstance(self._held, bytes):
                        self._disk.publish_bytes(self._held, self.sha256)
                    elif self._held is not None:
                        self._disk.publish(self._held, self.sha256, self.size)
            except BlobsError as error:
                # After a failed fsync the kernel counts the lost pages as written: a second try would lie.
                # Bytes in memory are written anew.
                if not isinstance(self._held, bytes):
                    self._failed = str(error)
                raise
            self._held = None

    def _discard(self) -> None:
        with self._lock, explained(self._disk.root):
            if isinstance(self._held, Path):
                self._held.unlink(missing_ok=True)
            self._held = None


class DirectoryStage:
    """A blob being written. One writer at a time; after a write that failed or was cancelled only `abort` is left."""

    def __init__(self, disk: Disk, threads: ThreadPoolExecutor) -> None:
        self._disk, self._threads = disk, threads
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._buffer = bytearray()
        self._path: Path | None = None
        self._fd = -1
        self._open = True  #: may be written or finished
        self._hopped = False  #: a thread may have made a file, or be about to
        self._aborted = False
        self._lock = threading.Lock()  # keeps `abort` from closing the file under a write whose task was cancelled

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    async def write(self, data: bytes) -> None:
        """Append. Raises BlobsFullError, BlobsError."""
        self._must_be_open()
        if len(self._buffer) + len(data) < BUFFER_BYTES:
            self._buffer += data
        else:
            buffer, self._buffer = self._buffer, bytearray()
            await self._hop(lambda: self._spill(buffer, data))
        self._size += len(data)

    async def finish(self) -> DirectoryStaged:
        """End the writing. Raises BlobsFullError, BlobsError."""
        self._must_be_open()
        held: bytes | Path
        if self._path is None and self._size <= SMALL_BYTES:
            held = bytes(self._buffer)
            self._sha256.update(held)
        else:
            buffer = self._buffer
            held = await self._hop(lambda: self._end(buffer))
        self._open = self._hopped = False
        self._buffer = bytearray()
        self._path = None  # it belongs to the staged bytes now
        return DirectoryStaged(self._disk, self._threads, self._sha256.hexdigest(), self._size, held)

    async def abort(self) -> None:
        """Forget it. After `finish` this does nothing."""
        self._open = False
        self._aborted = True
        self._buffer = bytearray()  # not cleared: a thread may be writing from the old one
        if self._path is not None or self._hopped:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._forget)

    def _must_be_open(self) -> None:
        if not self._open:
            raise BlobsError("this stage has ended or failed; begin another")

    async def _hop(self, work: Callable[[], _T]) -> _T:
        """Run it in a thread. The stage is open again only when it came back well."""
        self._open, self._hopped = False, True
        result = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        self._open = True
        return result

    def _spill(self, *parts: bytes | bytearray) -> None:
        with self._lock, explained(self._disk.root):
            if self._aborted:
                return
            if self._path is None:
                self._path, self._fd = self._disk.new_file()
            for part in parts:
                self._sha256.update(part)
                write_all(self._fd, part)

    def _end(self, buffer: bytearray) -> Path:
        self._spill(buffer)
        with self._lock:
            if self._path is None:
                raise BlobsError("this stage was aborted")
            os.close(self._fd)
            self._fd = -1
            return self._path

    def _forget(self) -> None:
        with self._lock, explained(self._disk.root):
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            if self._path is not None:
                self._path.unlink(missing_ok=True)
                self._path = None
