"""Pack a directory into a .tar.gz: the same tree gives the same bytes, whoever packs it and whenever.

Names are sorted; times, owners and all mode bits but "executable" are left out. A symbolic link to a regular file
inside the directory is packed as that file; every other link, and what is neither file nor directory, is refused by
name, because the pool takes only files and directories.
"""

import gzip
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from trusted_pool.client.errors import PackError
from trusted_pool.client.ignore import Rules

#: Up to here a pack stays in memory; beyond, it goes to a temporary file.
SPOOL_BYTES = 8 * 1024 * 1024
_GZIP_LEVEL = 6

#: Called with the number of files and of bytes packed so far.
OnPack = Callable[[int, int], None]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The largest directory that is packed: a guard against packing a home directory by mistake."""

    files: int = 100_000
    size: int = 16 * 1024**3  #: bytes, before compression


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """A packed directory. The caller closes `file`."""

    file: IO[bytes]  #: at its start
    name: str  #: of the archive
    size: int  #: bytes, compressed
    n_files: int
    n_skipped: int  #: entries left out, a directory counts once
    unpacked_size: int  #: bytes, sum of all files


class _Entry(msgspec.Struct, frozen=True):
    path: Path
    name: str  #: in the archive
    is_dir: bool


class _Count:
    def __init__(self) -> None:
        self.files = self.size = self.skipped = 0


def pack(
    directory: Path,
    *,
    limits: Limits | None = None,
    on_progress: OnPack | None = None,
) -> Pack:
    """Pack a directory.

    Raises:
        PackError: nothing in it, over the limits, or something that cannot be packed; it is named.
    """
    if not directory.is_dir():
        raise PackError(f"{directory} is no directory")
    count = _Count()
    # SpooledTemporaryFile is a file in all that matters here; the caller closes it.
    spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115
    try:
        entries = _walk(directory, count)
        _write(spool, directory, entries, count, limits=limits or Limits(), on_progress=on_progress)
        size = spool.seek(0, os.SEEK_END)
        spool.seek(0)
    except OSError as error:
        spool.close()
        raise PackError(f"cannot pack {directory}: {error.strerror or error}") from None
    except BaseException:
        spool.close()
        raise
    return Pack(
        file=spool,
        name=f"{_archive_name(directory)}.tar.gz",
        size=size,
        n_files=count.files,
        n_skipped=count.skipped,
        unpacked_size=count.size,
    )


def _write(
    spool: IO[bytes],
    directory: Path,
    entries: Iterator[_Entry],
    count: _Count,
    *,
    limits: Limits,
    on_progress: OnPack | None,
) -> None:
    # Level and time are fixed and no name is given, so that the gzip header never differs.
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=spool, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for entry in entries:
            if entry.is_dir:
                tar.addfile(_header(entry.name, tarfile.DIRTYPE, 0o755, 0))
                continue
            if count.files == limits.files:
                raise PackError(f"{directory} holds more than {limits.files} files", hint=_IGNORE_HINT)
            count.files += 1
            count.size += _add(tar, entry, limits.size - count.size, directory, limits)
            if on_progress is not None:
                on_progress(count.files, count.size)
    if count.files == 0:
        raise PackError(f"{directory} holds no files to send" + (" (all are ignored)" if count.skipped else ""))


_IGNORE_HINT = "leave out what the job does not need by a .tpoolignore file"


def _archive_name(directory: Path) -> str:
    name = directory.resolve().name
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name).strip(".-")
    return plain[:100] or "project"


def _walk(root: Path, count: _Count) -> Iterator[_Entry]:
    """Yield what is packed, a directory before what is in it, names in the order of their code points."""
    inside = root.resolve()
    # A stack, not recursion: directories may be nested deeper than Python's stack.
    top = [_Entry(root / n, n, is_dir=False) for n in _names(root)]
    stack: list[tuple[Rules, Iterator[_Entry]]] = [(Rules().inside(root, ""), iter(top))]
    while stack:
        rules, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        mode = _mode(entry.path)
        is_dir = stat.S_ISDIR(mode)
        if rules.skip(entry.name, is_dir=is_dir):
            count.skipped += 1
            continue
        _check_name(entry)
        if stat.S_ISLNK(mode):
            _check_link(entry, inside)
        elif not is_dir and not stat.S_ISREG(mode):
            raise PackError(f"{entry.path} is neither file nor directory", hint=_IGNORE_HINT)
        yield msgspec.structs.replace(entry, is_dir=is_dir)
        if is_dir:
            children = [_Entry(entry.path / n, f"{entry.name}/{n}", is_dir=False) for n in _names(entry.path)]
            stack.append((rules.inside(entry.path, entry.name), iter(children)))


def _names(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except OSError as error:
        raise PackError(f"cannot read {directory}: {error.strerror}", hint=_IGNORE_HINT) from None


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError as error:
        raise PackError(f"cannot read {path}: {error.strerror}", hint=_IGNORE_HINT) from None


def _check_name(entry: _Entry) -> None:
    try:
        entry.name.encode("utf-8")
    except UnicodeEncodeError:
        raise PackError(f"the name {entry.name!r} is not UTF-8", hint="rename it or " + _IGNORE_HINT) from None
    if any(ord(c) < 32 or ord(c) == 127 for c in entry.name):  # noqa: PLR2004 - control characters
        raise PackError(f"the name {entry.name!r} holds a control character", hint="rename it or " + _IGNORE_HINT)


def _check_link(entry: _Entry, inside: Path) -> None:
    try:
        target = entry.path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise PackError(f"the link {entry.path} leads nowhere", hint=_IGNORE_HINT) from None
    if not target.is_relative_to(inside):
        raise PackError(f"the link {entry.path} leads outside the directory, to {target}", hint=_IGNORE_HINT)
    if not target.is_file():
        raise PackError(f"the link {entry.path} leads to no file; only links to files are packed", hint=_IGNORE_HINT)


def _header(name: str, kind: bytes, mode: int, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size = kind, mode, size
    info.mtime = info.uid = info.gid = 0
    return info


def _add(tar: tarfile.TarFile, entry: _Entry, room: int, directory: Path, limits: Limits) -> int:
    try:
        file = entry.path.open("rb")
    except OSError as error:
        raise PackError(f"cannot read {entry.path}: {error.strerror}", hint=_IGNORE_HINT) from None
    with file:
        found = os.fstat(file.fileno())
        if found.st_size > room:
            raise PackError(f"{directory} is larger than {limits.size} bytes", hint=_IGNORE_HINT)
        mode = 0o755 if found.st_mode & stat.S_IXUSR else 0o644
        try:
            # Exactly as many bytes as the header says, even when the file grows while it is read.
            tar.addfile(_header(entry.name, tarfile.REGTYPE, mode, found.st_size), file)
        except OSError as error:
            if error.errno is not None:
                raise
            raise PackError(f"{entry.path} became shorter while it was packed", hint="try again") from None
    return found.st_size
