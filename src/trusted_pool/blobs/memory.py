"""Blobs in memory: the fake of tests and simulations. No threads, no files, nothing left to chance."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from typing import BinaryIO

from trusted_pool.ports.blobs import BlobMissingError, BlobsError, BlobsFullError

_PIECE = 256 * 1024


class _Shelf:
    """What blobs, stages and staged bytes of one incarnation share."""

    def __init__(self, *, durable: bool, room: int | None) -> None:
        self.visible: dict[str, bytes] = {}
        self.kept: dict[str, bytes] = {}  #: what a power cut leaves
        self.durable = durable
        self.room = room
        self.unended = 0  #: stages and staged bytes that nobody has ended
        self.held = 0  #: their bytes
        self.crashed = False

    async def turn(self) -> None:
        """Let others run, where the directory waits for the disk."""
        self.must_live()
        await asyncio.sleep(0)
        self.must_live()

    def must_live(self) -> None:
        if self.crashed:
            raise BlobsError("the power was cut")

    def take(self, size: int) -> None:
        used = self.held + sum(map(len, self.visible.values()))
        if self.room is not None and used + size > self.room:
            raise BlobsFullError(f"no space for blobs in memory: {used} of {self.room} bytes are used")
        self.held += size


class MemoryStaged:
    """Staged bytes."""

    def __init__(self, shelf: _Shelf, data: bytes) -> None:
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.size = len(data)
        self._shelf = shelf
        self._data: bytes | None = data

    async def publish(self) -> None:
        """Make the blob visible, one turn later durable, then return."""
        shelf = self._shelf
        await shelf.turn()
        if self._data is None:
            return
        data = shelf.visible.setdefault(self.sha256, self._data)
        self._end()
        await shelf.turn()
        if shelf.durable and self.sha256 in shelf.visible:
            shelf.kept[self.sha256] = data

    async def discard(self) -> None:
        """Forget the bytes."""
        self._shelf.must_live()
        if self._data is not None:
            self._end()

    def read(self) -> AsyncIterator[bytes]:
        """Read the staged bytes; before `publish` and `discard` only."""
        return self._read()

    def file(self) -> BinaryIO:
        """Open the staged bytes as a seekable file; likewise. The caller closes it. Raises BlobsError."""
        if self._data is None:
            raise BlobsError("these staged bytes were published or discarded")
        return io.BytesIO(self._data)

    async def _read(self) -> AsyncIterator[bytes]:
        await self._shelf.turn()
        if self._data is None:
            raise BlobsError("these staged bytes were published or discarded")
        data = self._data
        for at in range(0, len(data), _PIECE):
            yield data[at : at + _PIECE]
            await self._shelf.turn()

    def _end(self) -> None:
        self._data = None
        self._shelf.held -= self.size
        self._shelf.unended -= 1


class MemoryStage:
    """A blob being written."""

    def __init__(self, shelf: _Shelf) -> None:
        self._shelf = shelf
        self._buffer: bytearray | None = bytearray()
        self._size = 0
        shelf.unended += 1

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    async def write(self, data: bytes) -> None:
        """Append. Raises BlobsFullError, BlobsError."""
        buffer = self._must_be_open()
        await self._shelf.turn()
        self._shelf.take(len(data))
        buffer += data
        self._size += len(data)

    async def finish(self) -> MemoryStaged:
        """End the writing. Raises BlobsError."""
        buffer = self._must_be_open()
        await self._shelf.turn()
        self._buffer = None
        return MemoryStaged(self._shelf, bytes(buffer))

    async def abort(self) -> None:
        """Forget it. After `finish` this does nothing."""
        self._shelf.must_live()
        if self._buffer is not None:
            self._buffer = None
            self._shelf.held -= self._size
            self._shelf.unended -= 1

    def _must_be_open(self) -> bytearray:
        self._shelf.must_live()
        if self._buffer is None:
            raise BlobsError("this stage has ended; begin another")
        return self._buffer


class MemoryBlobs:
    """The Blobs port on a dictionary; keeps the contract that the directory keeps.

    Calls give other tasks a turn where the directory waits for a thread, so that a simulation can come between:
    a published blob is visible one turn before it is durable.

    Args:
        durable: False: nothing published survives `crash`, as in a spool after a power cut.
        room: bytes that fit, staged ones included; None: no limit.
    """

    def __init__(self, *, durable: bool = True, room: int | None = None) -> None:
        self._shelf = _Shelf(durable=durable, room=room)

    def crash(self) -> "MemoryBlobs":
        """Cut the power: the returned blobs have what was durable; whoever holds the old ones gets BlobsError."""
        old = self._shelf
        old.crashed = True
        after = MemoryBlobs(durable=old.durable, room=old.room)
        after._shelf.kept = dict(old.kept)
        after._shelf.visible = dict(old.kept)
        return after

    @property
    def unended(self) -> int:
        """Stages and staged bytes that were neither published nor forgotten. A test ends with none."""
        return self._shelf.unended

    async def stage(self) -> MemoryStage:
        """Begin a blob."""
        self._shelf.must_live()
        return MemoryStage(self._shelf)

    def open(self, sha256: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` on, in pieces of at most 256 KiB."""
        return self._open(sha256, start, length)

    async def _open(self, sha256: str, start: int, length: int | None) -> AsyncIterator[bytes]:
        if start < 0 or (length is not None and length < 0):
            raise ValueError("start and length of a range are not negative")
        await self._shelf.turn()
        data = self._shelf.visible.get(sha256)
        if data is None:
            raise BlobMissingError(f"there is no blob {sha256[:80]!r}")
        end = len(data) if length is None else min(len(data), start + length)
        for at in range(start, end, _PIECE):
            yield data[at : min(end, at + _PIECE)]
            await self._shelf.turn()

    async def size(self, sha256: str) -> int | None:
        """Return its size, or None when there is no such blob."""
        await self._shelf.turn()
        data = self._shelf.visible.get(sha256)
        return None if data is None else len(data)

    async def delete(self, sha256: str) -> None:
        """Remove it."""
        await self._shelf.turn()
        self._shelf.visible.pop(sha256, None)
        self._shelf.kept.pop(sha256, None)

    async def sweep(self) -> int:
        """Remove what a crash left of stages: here it leaves none."""
        await self._shelf.turn()
        return 0
