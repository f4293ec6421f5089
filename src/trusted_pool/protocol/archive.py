"""Reading the archives that clients send. Both ends use it: the coordinator to refuse, the worker to unpack.

What is an archive is told by its name: the only uploaded file, named `.tar.gz`, `.tgz`, `.tar`, `.tar.zst` or
`.zip`. Its format is told by its first bytes. Members are regular files and directories, nothing else; of their modes
only the executable bit is kept. One bad member refuses the whole archive.

Synchronous, and streaming: at most one piece of 64 KiB is in memory, beside the names.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from trusted_pool.protocol.archive_entry import ArchiveLimits, Entry, Listing
from trusted_pool.protocol.archive_names import Census, plain_name, require_canonical, shown
from trusted_pool.protocol.archive_streams import GZIP_MAGIC, ZSTD_MAGIC, Feed, gunzip, plain, unzstd
from trusted_pool.protocol.archive_tar import BLOCK, is_tar, read_tar
from trusted_pool.protocol.archive_zip import read_zip
from trusted_pool.protocol.archive_zip_directory import END_MAGIC, LOCAL_MAGIC
from trusted_pool.protocol.errors import BadArchiveError, BadRequestError
from trusted_pool.protocol.manifest import MAX_BYTES as MAX_WANTED

__all__ = [
    "EXTENSIONS",
    "ArchiveLimits",
    "Entry",
    "Listing",
    "inspect",
    "is_archive",
    "plan",
    "read_archive",
    "require_canonical",
    "shown",
]

EXTENSIONS = (".tar.gz", ".tgz", ".tar", ".tar.zst", ".zip")
_FORMATS = f"send one of {', '.join(EXTENSIONS)}: tar czf project.tar.gz -C project ."


def is_archive(name: str) -> bool:
    """Say whether a file of this name is an archive, when it is the only one."""
    return name.lower().endswith(EXTENSIONS)


def plan(names: Sequence[str]) -> tuple[str, ...] | None:
    """Say what becomes of uploaded files of these names: None when the one file is an archive to unpack.

    Else the canonical paths at which they are placed, in the order of the names.

    Raises:
        BadRequestError: no file at all.
        BadArchiveError, TooLargeError: a bad name, or names that cannot stand together.
    """
    if not names:
        raise BadRequestError("the request holds no files", hint='add them: curl -F "files=@project.tar.gz" …')
    if len(names) == 1 and is_archive(names[0]):
        return None
    census = Census(ArchiveLimits())
    return tuple(census.admit(plain_name(name).encode(), directory=False, size=0) for name in names)


def read_archive(file: BinaryIO, limits: ArchiveLimits, name: str = "the file") -> Iterator[Entry]:
    """Yield the members of an archive: files, and directories that it names, in its order.

    The file is read from its beginning and must be seekable. `name` is for messages.

    Raises:
        BadArchiveError: no archive; damaged, truncated, or with bytes behind its end; a member that is no file or
            directory; a bad name; names that cannot stand together. May come after entries were yielded: whoever
            unpacks must throw away what it has.
        TooLargeError: one of the limits.
    """
    file.seek(0)
    head = file.read(BLOCK)
    file.seek(0)
    census = Census(limits)
    if head.startswith(GZIP_MAGIC):
        return read_tar(_tar_in(gunzip(file), name), census)
    if head.startswith(ZSTD_MAGIC):
        return read_tar(_tar_in(unzstd(file), name), census)
    if head.startswith((LOCAL_MAGIC, END_MAGIC)):
        return read_zip(file, census)
    if is_tar(head):
        return read_tar(Feed(plain(file)), census)
    words = "is empty" if not head else "is no archive, by its first bytes"
    raise BadArchiveError(f"{shown(name)} {words}", hint=_FORMATS)


def _tar_in(pieces: Iterator[bytes], name: str) -> Feed:
    """Check that a compressed stream holds a tar archive, so that a mere .gz is told from a damaged .tar.gz."""
    head = b""
    while len(head) < BLOCK and (piece := next(pieces, b"")):
        head += piece
    if not is_tar(head[:BLOCK]):
        raise BadArchiveError(f"{shown(name)} is compressed, but what it holds is no tar archive", hint=_FORMATS)
    return Feed(_joined(head, pieces))


def _joined(head: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from pieces


def inspect(
    file: BinaryIO, limits: ArchiveLimits, want: Iterable[str] = ("job.json",), name: str = "the file"
) -> Listing:
    """Read a whole archive without keeping it; return its files' sizes, and what the wanted ones hold.

    Of a wanted file at most one byte more is returned than a manifest may have.

    Raises:
        BadArchiveError, TooLargeError: as `read_archive`.
    """
    wanted = frozenset(want)
    sizes: dict[str, int] = {}
    contents: dict[str, bytes] = {}
    for entry in read_archive(file, limits, name):
        if entry.kind == "dir":
            continue
        sizes[entry.path] = entry.size
        if entry.path in wanted:
            data = b""
            for chunk in entry.chunks:
                data += chunk[: MAX_WANTED + 1 - len(data)]
            contents[entry.path] = data
    return Listing(sizes, contents)
