"""Blobs in a directory of the local disk."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from trusted_pool.blobs.disk import Disk, explained
from trusted_pool.blobs.reading import Reader, pieces
from trusted_pool.blobs.staging import DirectoryStage
from trusted_pool.ports.blobs import BlobMissingError

_T = TypeVar("_T")

#: Threads for system calls that wait for the disk. More would only queue there instead of here.
THREADS = 8


class DirectoryBlobs:
    """The Blobs port on plain files. One process per directory.

    Args:
        root: the directory; made, with those above it, when missing.
        durable: False leaves out every fsync: for a spool whose bytes exist elsewhere too. Publishing then survives
            the end of the process, not a power cut.

    Raises:
        BlobsError: the directory cannot be made or written.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self._disk = Disk(root, durable=durable)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="blobs")

    async def stage(self) -> DirectoryStage:
        """Begin a blob."""
        return DirectoryStage(self._disk, self._threads)

    def open(self, sha256: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` on, in pieces of at most 256 KiB. Damage found in a whole read: BlobsError."""
        return self._open(sha256, start, length)

    async def _open(self, sha256: str, start: int, length: int | None) -> AsyncIterator[bytes]:
        path = self._disk.path(sha256)
        if path is None:
            raise BlobMissingError(f"{sha256[:80]!r} is no digest: 64 lower-case hex digits")
        reader = Reader(self._disk.root, path, sha256, start, length)
        async for piece in pieces(self._threads, reader):
            yield piece

    async def size(self, sha256: str) -> int | None:
        """Return its size, or None when there is no such blob."""
        path = self._disk.path(sha256)
        return None if path is None else await self._run(lambda: self._disk.size(path))

    async def delete(self, sha256: str) -> None:
        """Remove it. Not made durable: after a power cut it may be there again, which is only garbage."""
        path = self._disk.path(sha256)
        if path is not None:
            await self._run(lambda: path.unlink(missing_ok=True))

    async def sweep(self) -> int:
        """Remove what a crash left of stages; return how many."""
        return await self._run(self._disk.sweep)

    async def _run(self, work: Callable[[], _T]) -> _T:
        def explained_work() -> _T:
            with explained(self._disk.root):
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._threads, explained_work)
