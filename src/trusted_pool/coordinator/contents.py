"""The bytes of jobs: small blobs live in the store, so that a small submit costs one fsync; others among the blobs."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from trusted_pool.coordinator.turnstile import Turnstile
from trusted_pool.core.job import InputFile
from trusted_pool.ports.blobs import BlobMissingError, Blobs, Stage, Staged
from trusted_pool.ports.store import Blob, Store

SMALL_BYTES = 64 * 1024
#: Pieces of larger files that are written or read at once, of all owners. More would not be faster, and who has one
#: file on its way would wait longer for its turn among those of who has fifty.
PIECES_AT_ONCE = 4


class Contents:
    """Where bytes go to and come from; those of larger files by turns between owners."""

    def __init__(self, blobs: Blobs, store: Store) -> None:
        self._blobs = blobs
        self._store = store
        self._turnstile = Turnstile(PIECES_AT_ONCE)

    async def stage(self) -> Stage:
        """Begin to write a few bytes. Raises BlobsFullError, BlobsError."""
        return await self._blobs.stage()

    async def stage_for(self, owner: str) -> Stage:
        """Begin to write bytes, by turns. Raises BlobsFullError, BlobsError."""
        return PacedStage(await self._blobs.stage(), self._turnstile, owner)

    async def keep(self, staged: Staged) -> Blob:
        """Make staged bytes ready to be committed: a large blob is durable now, a small one with the commit."""
        if staged.size > SMALL_BYTES:
            await staged.publish()
            return Blob(sha256=staged.sha256, size=staged.size)
        data = b"".join([piece async for piece in staged.read()])
        await staged.discard()
        return Blob(sha256=staged.sha256, size=staged.size, data=data)

    async def open(
        self, sha256: str, start: int = 0, length: int | None = None, *, owner: str = ""
    ) -> AsyncIterator[bytes]:
        """Yield a blob's bytes. `owner`: whose turns it takes. Raises BlobMissingError."""
        blob = await self._store.blob(sha256)
        if blob is None:
            raise BlobMissingError(sha256)
        if blob.data is not None:
            end = None if length is None else start + length
            yield blob.data[start:end]
            return
        async with aclosing(self._turnstile.paced(owner, self._blobs.open(sha256, start, length))) as pieces:
            async for piece in pieces:
                yield piece

    def inputs_for(self, owner: str) -> Callable[[InputFile], AsyncIterator[bytes]]:
        """Return what yields the bytes of the inputs of an owner's jobs."""
        return lambda file: self.open(file.sha256, owner=owner)


class PacedStage:
    """A stage that is written by turns."""

    def __init__(self, stage: Stage, turnstile: Turnstile, owner: str) -> None:
        self._stage = stage
        self._turnstile = turnstile
        self._owner = owner

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._stage.size

    async def write(self, data: bytes) -> None:
        """Append. Raises BlobsFullError, BlobsError."""
        async with self._turnstile.turn(self._owner, len(data)):
            await self._stage.write(data)

    async def finish(self) -> Staged:
        """End the writing. Raises BlobsFullError, BlobsError."""
        async with self._turnstile.turn(self._owner, SMALL_BYTES):
            return await self._stage.finish()

    async def abort(self) -> None:
        """Forget it."""
        await self._stage.abort()
