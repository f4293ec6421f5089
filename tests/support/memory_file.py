"""An allowlist's file in memory: what a hand does to it, and a disk that fails."""

import json
from typing import Any

from trusted_pool.ports.allowlist import Content, FileChangedError, FileError


class MemoryFile:
    """An `AllowlistFile`. `raw` is what it holds, None when it is not there; setting it is what a hand does."""

    name = "workers.json"

    def __init__(self, *entries: dict[str, Any]) -> None:
        self._raw: bytes | None = json.dumps(entries, indent=2).encode()
        self._changes = 0
        self.unwritable = ""  #: why it cannot be changed
        self.reads = 0

    @property
    def raw(self) -> bytes | None:
        """What it holds."""
        return self._raw

    @raw.setter
    def raw(self, raw: bytes | None) -> None:
        self._raw = raw
        self._changes += 1

    @property
    def entries(self) -> list[dict[str, Any]]:
        """What it says."""
        return list(json.loads(self._raw or b"null"))

    def write(self, *entries: dict[str, Any]) -> None:
        """Write it anew, by hand."""
        self.raw = json.dumps(entries).encode()

    async def read(self) -> Content:
        """Read it."""
        self.reads += 1
        if self._raw is None:
            raise FileError("the allowlist workers.json cannot be read: No such file or directory")
        return Content(self._raw, await self.mark())

    async def mark(self) -> str:
        """Return the number of changes."""
        return "" if self._raw is None else str(self._changes)

    async def replace(self, old: Content, new: bytes) -> None:
        """Change it."""
        if self.unwritable:
            raise FileError(self.unwritable)
        if self._raw != old.raw:
            raise FileChangedError("the allowlist workers.json was changed by somebody else in this moment")
        self.raw = new
