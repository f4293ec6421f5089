"""Content-addressed bytes."""

from collections.abc import AsyncIterator
from typing import BinaryIO, Protocol


class BlobsError(Exception):
    """The blob store cannot do it; the message says why."""


class BlobsFullError(BlobsError):
    """No space is left."""


class BlobMissingError(BlobsError):
    """There is no such blob."""


class Staged(Protocol):
    """Bytes that were written and hashed, but are nobody's yet.

    Exactly one of `publish` and `discard` ends it; a second call of either does nothing.
    """

    @property
    def sha256(self) -> str:
        """Its digest in lower-case hex."""

    @property
    def size(self) -> int:
        """Its bytes."""

    async def publish(self) -> None:
        """Make the blob readable under its digest, durably: after this returns, a power cut keeps it.

        Publishing what is there already is no error and keeps the first copy.
        """

    async def discard(self) -> None:
        """Forget the bytes."""

    def read(self) -> AsyncIterator[bytes]:
        """Read the staged bytes; before `publish` and `discard` only."""

    def file(self) -> BinaryIO:
        """Open the staged bytes as a seekable file, for code that runs in a thread; likewise. The caller closes it."""


class Stage(Protocol):
    """A blob being written. Nothing of it is visible before `publish`; a crash leaves only what `sweep` removes."""

    @property
    def size(self) -> int:
        """Bytes written so far."""

    async def write(self, data: bytes) -> None:
        """Append. Raises BlobsFullError, BlobsError."""

    async def finish(self) -> Staged:
        """End the writing. Raises BlobsFullError, BlobsError."""

    async def abort(self) -> None:
        """Forget it."""


class Blobs(Protocol):
    """Contract.

    - A digest names its bytes for ever: what `open` yields has that digest.
    - `stage` … `publish` is the only way in. Staging holds at most one piece in memory.
    - Two publishes of the same bytes at once both succeed and leave one blob.
    - `delete` of what is not there is no error. A reader that has begun reads on to the end.
    - `sweep` removes stages that a crash left; it is called once, at start, before any `stage`.
    """

    async def stage(self) -> Stage:
        """Begin a blob. Raises BlobsFullError, BlobsError."""

    def open(self, sha256: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` on, `length` of them or all, in pieces. Raises BlobMissingError at the first."""

    async def size(self, sha256: str) -> int | None:
        """Return its size, or None when there is no such blob."""

    async def delete(self, sha256: str) -> None:
        """Remove it."""

    async def sweep(self) -> int:
        """Remove what a crash left of stages; return how many."""
