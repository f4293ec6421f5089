"""Input files on the worker: small ones in memory, larger ones as blobs, until their attempt has ended.

They need not survive a crash, since an attempt that was running at a crash is never started again: the directory of
these blobs is emptied before a worker starts.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from io import BytesIO
from typing import BinaryIO

from trusted_pool.core.job import InputFile
from trusted_pool.ports.blobs import BlobMissingError, Blobs, Stage, Staged

#: Files up to this size never touch the disk before they are unpacked.
MEMORY_BYTES = 64 * 1024


class Upload:
    """One file on its way in; hashed as it comes. Either `Inputs.keep` or `discard` ends it."""

    def __init__(self, name: str, blobs: Blobs) -> None:
        self.name = name
        self._blobs = blobs
        self._small = bytearray()
        self._stage: Stage | None = None
        self._staged: Staged | None = None
        self.size = 0

    async def write(self, data: bytes) -> None:
        """Append. Raises BlobsFullError, BlobsError."""
        self.size += len(data)
        if self._stage is None and self.size <= MEMORY_BYTES:
            self._small += data
            return
        if self._stage is None:
            self._stage = await self._blobs.stage()
            await self._stage.write(bytes(self._small))
            self._small.clear()
        await self._stage.write(data)

    async def finish(self) -> InputFile:
        """End the writing and say what came. Raises BlobsFullError, BlobsError."""
        if self._stage is not None:
            self._staged = await self._stage.finish()
            return InputFile(name=self.name, size=self.size, sha256=self._staged.sha256)
        return InputFile(name=self.name, size=self.size, sha256=hashlib.sha256(self._small).hexdigest())

    @property
    def small(self) -> bytes | None:
        """The bytes, when they are kept in memory."""
        return None if self._stage is not None else bytes(self._small)

    def file(self) -> BinaryIO:
        """Open the finished file for reading; that of a large one is for threads only. The caller closes it."""
        if self._staged is not None:
            return self._staged.file()
        return BytesIO(self._small)

    async def publish(self) -> None:
        """Make a large one readable by its digest."""
        if self._staged is not None:
            await self._staged.publish()

    async def discard(self) -> None:
        """Forget it. Idempotent."""
        if self._staged is not None:
            await self._staged.discard()
        elif self._stage is not None:
            await self._stage.abort()


class Inputs:
    """The files of attempts that have not ended. Equal files of several attempts are kept once."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._small: dict[str, bytes] = {}
        self._uses: dict[str, int] = {}
        self._deleting: dict[str, asyncio.Future[None]] = {}

    def upload(self, name: str) -> Upload:
        """Begin a file."""
        return Upload(name, self._blobs)

    async def keep(self, upload: Upload, file: InputFile) -> None:
        """Count one more use of a finished file and make it readable. Raises BlobsFullError, BlobsError."""
        sha256 = file.sha256
        while sha256 in self._deleting:  # its last use just ended: publishing now would race with the delete
            await asyncio.wait({self._deleting[sha256]})
        self._uses[sha256] = self._uses.get(sha256, 0) + 1
        small = upload.small
        if small is not None:
            self._small[sha256] = small
            return
        try:
            await upload.publish()
        except BaseException:
            await self.drop((file,))
            raise

    async def drop(self, files: tuple[InputFile, ...]) -> None:
        """Count one use less of each; what nobody uses is deleted. Raises BlobsError."""
        for file in files:
            sha256 = file.sha256
            left = self._uses.get(sha256, 0) - 1
            if left > 0:
                self._uses[sha256] = left
                continue
            self._uses.pop(sha256, None)
            if self._small.pop(sha256, None) is None:
                await self._delete(sha256)

    async def _delete(self, sha256: str) -> None:
        done = asyncio.get_running_loop().create_future()
        self._deleting[sha256] = done
        try:
            await self._blobs.delete(sha256)
        finally:
            del self._deleting[sha256]
            done.set_result(None)

    async def open(self, file: InputFile) -> AsyncIterator[bytes]:
        """Yield the file's bytes. Raises BlobMissingError."""
        small = self._small.get(file.sha256)
        if small is not None:
            yield small
            return
        if file.sha256 not in self._uses:
            raise BlobMissingError(f"{file.name} is not here any more")
        async for piece in self._blobs.open(file.sha256):
            yield piece
