"""Where a backup's files go: one `.tar`, or a directory with the same names in it.

Both are written under another name and get their own when they are whole and durable: what has the name of a backup
is one.
"""

import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Protocol, cast

MANIFEST, DATABASE, KEY = "backup.json", "coordinator.db", "pool.pem"
BLOB = re.compile(r"blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})\Z")
PARTIAL = ".partial"
_PIECE = 1024 * 1024


class BundleError(Exception):
    """The backup cannot be written or read; the message is one line."""


def blob_name(sha256: str) -> str:
    """Return the name of a blob's file in a backup, which is that in a data directory."""
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


class Writer(Protocol):
    """A backup being written: `add` …, then `finish` or `abort`."""

    partial: Path

    def add(self, name: str, file: BinaryIO, size: int) -> None:
        """Copy `size` bytes. Raises OSError; BundleError when the file is shorter."""

    def finish(self) -> None:
        """Make it durable and give it its name. Raises OSError."""

    def abort(self) -> None:
        """Leave nothing of it."""


def begin(target: Path) -> Writer:
    """Begin a backup; one that ends in `.tar` is a file. Raises BundleError when there is something already."""
    partial = target.with_name(target.name + PARTIAL)
    for path in (target, partial):
        if os.path.lexists(path):
            left = " (left by a backup that did not end?)" if path == partial else ""
            raise BundleError(f"{path} exists already{left}; a backup overwrites nothing: remove it or choose another")
    try:
        return TarWriter(target, partial) if target.suffix == ".tar" else DirectoryWriter(target, partial)
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error.strerror}") from None


class TarWriter:
    """One file."""

    def __init__(self, target: Path, partial: Path) -> None:
        self.partial = partial
        self._target = target
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(fd, "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  # kept open

    def add(self, name: str, file: BinaryIO, size: int) -> None:
        """Copy `size` bytes."""
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o600
        self._tar.addfile(member, _exactly(name, file))

    def finish(self) -> None:
        """Make it durable and give it its name."""
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.partial.rename(self._target)
        sync_directory(self._target.parent)

    def abort(self) -> None:
        """Leave nothing of it."""
        self._file.close()
        self.partial.unlink(missing_ok=True)


class DirectoryWriter:
    """A directory."""

    def __init__(self, target: Path, partial: Path) -> None:
        self.partial = partial
        self._target = target
        partial.mkdir(mode=0o700)

    def add(self, name: str, file: BinaryIO, size: int) -> None:
        """Copy `size` bytes."""
        path = self.partial / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as out:
            shutil.copyfileobj(file, out, _PIECE)
            if out.tell() != size:
                raise BundleError(f"{name} changed while it was copied")
            out.flush()
            os.fsync(out.fileno())

    def finish(self) -> None:
        """Make it durable and give it its name."""
        for directory, _, _ in os.walk(self.partial, topdown=False):
            sync_directory(Path(directory))
        self.partial.rename(self._target)
        sync_directory(self._target.parent)

    def abort(self) -> None:
        """Leave nothing of it."""
        shutil.rmtree(self.partial, ignore_errors=True)


def entries(source: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Yield the names of a backup's files with their bytes, which must be read before the next is asked for.

    Raises:
        BundleError: it is none, or holds what no backup holds.
    """
    try:
        if source.is_dir():
            for path in sorted(source.rglob("*")):
                if not path.is_dir():
                    with path.open("rb") as file:
                        yield _known(path.relative_to(source).as_posix()), file
            return
        with closing(tarfile.open(source, "r:")) as tar:
            for member in tar:
                inside = tar.extractfile(member) if member.isreg() else None
                if inside is None:
                    raise BundleError(f"{member.name!r} in {source} is no file: this is no backup")
                yield _known(member.name), cast("BinaryIO", inside)
    except tarfile.TarError as error:
        raise BundleError(f"{source} is no backup, or a damaged one: {error}") from None


def _known(name: str) -> str:
    if name not in (MANIFEST, DATABASE, KEY) and not BLOB.match(name):
        raise BundleError(f"{name!r} belongs to no backup")
    return name


def _exactly(name: str, file: BinaryIO) -> BinaryIO:
    """Turn the tar module's complaint about a file that is too short into ours."""

    class Exact:
        def read(self, size: int) -> bytes:
            data = file.read(size)
            if not data:
                raise BundleError(f"{name} changed while it was copied")
            return data

    return Exact()  # type: ignore[return-value]  # it is only read


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
