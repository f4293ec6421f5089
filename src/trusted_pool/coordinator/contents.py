"""The bytes of jobs: small blobs live in the store, so that a small submit costs one fsync; others among the blobs."""

from collections.abc import AsyncIterator

from trusted_pool.core.job import InputFile
from trusted_pool.ports.blobs import BlobMissingError, Blobs, Stage, Staged
from trusted_pool.ports.store import Blob, Store

SMALL_BYTES = 64 * 1024


class Contents:
    """Where bytes go to and come from."""

    def __init__(self, blobs: Blobs, store: Store) -> None:
        self._blobs = blobs
        self._store = store

    async def stage(self) -> Stage:
        """Begin to write bytes. Raises BlobsFullError, BlobsError."""
        return await self._blobs.stage()

    async def keep(self, staged: Staged) -> Blob:
        """Make staged bytes ready to be committed: a large blob is durable now, a small one with the commit."""
        if staged.size > SMALL_BYTES:
            await staged.publish()
            return Blob(sha256=staged.sha256, size=staged.size)
        data = b"".join([piece async for piece in staged.read()])
        await staged.discard()
        return Blob(sha256=staged.sha256, size=staged.size, data=data)

    async def open(self, sha256: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield a blob's bytes. Raises BlobMissingError."""
        blob = await self._store.blob(sha256)
        if blob is None:
            raise BlobMissingError(sha256)
        if blob.data is not None:
            end = None if length is None else start + length
            yield blob.data[start:end]
            return
        async for piece in self._blobs.open(sha256, start, length):
            yield piece

    def open_input(self, file: InputFile) -> AsyncIterator[bytes]:
        """Yield the bytes of a job's input."""
        return self.open(file.sha256)
