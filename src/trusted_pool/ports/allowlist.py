"""The file in which its operator keeps the allowlist."""

from typing import Protocol

import msgspec


class FileError(Exception):
    """It cannot be read or written; the message says why. Of a change, nothing was made."""


class FileChangedError(FileError):
    """It is not what it was when it was read."""


class FileInDoubtError(FileError):
    """It was changed; whether that outlasts a power cut is not known."""


class Content(msgspec.Struct, frozen=True):
    """What the file held at one time."""

    raw: bytes
    mark: str  #: see `AllowlistFile.mark`


class AllowlistFile(Protocol):
    """Contract.

    - The file is the operator's. Between any two calls he may change it, remove it or put another in its place.
    - `replace` is one step: whoever reads meanwhile, and whoever reads after a crash, finds the old file or the new
      one, whole. The new one has the old one's mode and owner. When it returns, the change is durable.
    - What was changed by somebody else since it was read is never overwritten, as far as a look right before can tell.
    """

    name: str  #: for people

    async def read(self) -> Content:
        """Read it. Raises FileError."""

    async def mark(self) -> str:
        """Return a word that is another one whenever the file may have changed; empty when it is not there."""

    async def replace(self, old: Content, new: bytes) -> None:
        """Change it from `old` to `new`. Raises FileChangedError, FileInDoubtError, FileError."""
