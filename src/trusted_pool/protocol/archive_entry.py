"""What reading an archive yields, and the limits it is read under."""

from collections.abc import Iterator
from typing import Literal

import msgspec

#: Bytes moved at a time. Nothing larger of a file is ever in memory.
CHUNK = 64 * 1024


class ArchiveLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much an archive may hold. All are checked while it is read, before the bytes are used."""

    max_bytes: int = 10 * 2**30  #: of all its files, unpacked
    max_members: int = 100_000  #: files and directories, named or implied
    max_name_bytes: int = 16 * 2**20  #: of all names together


class Entry:
    """One file or directory of an archive.

    `chunks` yields the file's bytes, at most 64 KiB at a time, exactly `size` in all. It must be used before the next
    entry is asked for; what is left of it is read and checked then.
    """

    __slots__ = ("chunks", "executable", "kind", "path", "size")

    def __init__(
        self, path: str, kind: Literal["file", "dir"], size: int, executable: bool, chunks: Iterator[bytes]
    ) -> None:
        """`path`: relative, canonical, with `/`. `executable`: the one thing that is kept of its mode."""
        self.path = path
        self.kind = kind
        self.size = size
        self.executable = executable
        self.chunks = chunks


class Listing(msgspec.Struct, frozen=True):
    """What an archive holds."""

    sizes: dict[str, int]  #: bytes of every file by its path, in the archive's order
    contents: dict[str, bytes]  #: of the wanted files that are there

    @property
    def names(self) -> set[str]:
        """The paths of its files."""
        return set(self.sizes)
