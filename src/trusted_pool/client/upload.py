"""Files on their way to the pool: read piece by piece, never whole."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec

from trusted_pool.client.errors import PackError
from trusted_pool.client.pack import Pack

#: Called with bytes done and bytes in all.
OnProgress = Callable[[int, int], None]

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".tar.zst", ".zip")


class Upload(msgspec.Struct, frozen=True):
    """One file of a submit. `name`: what it is called there, without directories."""

    name: str
    file: IO[bytes]  #: open for reading, seekable
    size: int


def is_archive(path: Path) -> bool:
    """Whether the pool will unpack it, by its name."""
    return path.name.lower().endswith(ARCHIVES)


def open_file(path: Path) -> Upload:
    """Open a local file to send it. The caller closes `file`.

    Raises:
        PackError: it is no readable regular file.
    """
    try:
        if not path.is_file():
            what = "is not a regular file" if path.exists() else "does not exist"
            raise PackError(f"{path} {what}")
        file = path.open("rb")
    except OSError as error:
        raise PackError(f"cannot read {path}: {error.strerror}") from None
    return Upload(path.name, file, os.fstat(file.fileno()).st_size)


def of_pack(packed: Pack) -> Upload:
    """Return a packed directory as an upload."""
    return Upload(packed.name, packed.file, packed.size)


class Counted(io.RawIOBase):
    """A file that tells how much of it was read. It has no `fileno`, so that its size is asked by seeking."""

    def __init__(self, file: IO[bytes], on_read: Callable[[int], None]) -> None:
        """`on_read` is called with the number of bytes of each piece."""
        super().__init__()
        self._file = file
        self._on_read = on_read

    def read(self, size: int = -1, /) -> bytes:
        """Read one piece."""
        piece = self._file.read(size)
        self._on_read(len(piece))
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Where in the file."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Always: a lost answer means sending it again."""
        return True

    def readable(self) -> bool:
        """Always."""
        return True


def multipart_files(
    uploads: list[Upload], on_progress: OnProgress | None
) -> list[tuple[str, tuple[str, IO[bytes], str]]]:
    """Return httpx's `files` for one try, read from the start."""
    total = sum(u.size for u in uploads)
    done = 0

    def read(n: int) -> None:
        nonlocal done
        done += n
        if on_progress is not None:
            on_progress(done, total)

    parts: list[tuple[str, tuple[str, IO[bytes], str]]] = []
    for upload in uploads:
        upload.file.seek(0)
        counted: IO[bytes] = Counted(upload.file, read)  # type: ignore[assignment] # typeshed: RawIOBase is no IO
        parts.append(("files", (upload.name, counted, "application/octet-stream")))
    return parts
