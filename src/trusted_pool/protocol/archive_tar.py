"""The tar formats: v7, ustar, GNU and PAX, for regular files and directories only."""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple
from zlib import adler32

from trusted_pool.protocol.archive_entry import Entry
from trusted_pool.protocol.archive_names import MAX_PATH, Census, shown
from trusted_pool.protocol.archive_streams import Feed
from trusted_pool.protocol.errors import BadArchiveError, TooLargeError

BLOCK = 512
_ZEROS = bytes(BLOCK)
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12s")
_CHECKSUM = slice(148, 156)
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*\Z")
_MAX_PAX = 64 * 1024  #: bytes of one extended header
_MAX_PAX_RECORDS = 100
_MAX_EXTENDED = 256 * 2**20  #: bytes of all extended headers
_MAX_PADDING = 4 * 2**20  #: bytes of zeros behind the end
_MAX_DIGITS = 19
_EXECUTABLE = 0o111
_POSITIVE_BASE_256, _NEGATIVE_BASE_256 = 0x80, 0xFF
_DEREFERENCE = "archives hold files and directories only; pack what it points to: tar czhf … --hard-dereference"
_REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a fifo",
    b"S": "a sparse file",
    b"M": "a piece of a multi-volume archive",
    b"V": "a volume label",
    b"D": "a GNU dump directory",
}


class _Header(NamedTuple):
    name: bytes
    kind: bytes
    size: int
    mode: int


class _Pending:
    """What extended headers say of the member that follows them."""

    def __init__(self) -> None:
        self.name: bytes | None = None
        self.size: int | None = None
        self.kinds = b""  #: of the extended headers so far

    def set_name(self, name: bytes) -> None:
        if self.name is not None:
            raise BadArchiveError(f"two headers name one member: {shown(self.name)} and {shown(name)}")
        self.name = name


def is_tar(block: bytes) -> bool:
    """Say whether a file that begins with this block may be a tar archive."""
    if len(block) < BLOCK:
        return False
    return block == _ZEROS or _checksum_fits(block)


def read_tar(feed: Feed, census: Census) -> Iterator[Entry]:
    """Yield the members.

    Raises:
        BadArchiveError, TooLargeError: as `read_archive`.
    """
    pending = _Pending()
    extended = 0
    while (block := feed.take(BLOCK)) != _ZEROS:
        number = 0 if pending.kinds else census.member()
        header = _parse(block, number)
        if header.kind in b"xgLK":
            extended += header.size
            _extend(header, feed, pending)
            if extended > _MAX_EXTENDED:
                raise TooLargeError(f"the archive's extended headers take more than {_MAX_EXTENDED} bytes")
            continue
        entry = _entry(header, pending, census, feed)
        pending = _Pending()
        if entry is not None:
            yield entry
            for _ in entry.chunks:  # what the caller left
                pass
            feed.take(-entry.size % BLOCK)
    if pending.kinds:
        raise BadArchiveError("the archive ends between an extended header and its member")
    _end(feed)


def _checksum_fits(block: bytes) -> bool:
    match = _OCTAL.match(block[_CHECKSUM])
    if match is None or not match[1]:
        return False
    return int(match[1], 8) == _sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" ")


def _sum(block: bytes) -> int:
    """Add up the bytes of a block, ten times faster than `sum`.

    The low half of Adler-32 is 1 + the sum modulo 65521, which 256 bytes cannot reach.
    """
    return (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2


def _parse(block: bytes, number: int) -> _Header:
    if not _checksum_fits(block):
        where = f"at member {number}" if number else "behind an extended header"
        raise BadArchiveError(f"the archive is damaged {where}: a header's checksum is wrong", hint="pack it again")
    fields = _HEADER.unpack(block)
    name, mode, size, kind, magic, prefix = fields[0], fields[1], fields[4], fields[7], fields[9], fields[15]
    name = _text(name)
    if magic == b"ustar\0" and prefix[0]:  # GNU tar keeps other things where ustar has the prefix
        name = _text(prefix) + b"/" + name
    return _Header(name, kind, _number(size, name, "size"), _number(mode, name, "mode"))


def _text(field: bytes) -> bytes:
    name, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise BadArchiveError(f"the name {shown(field)} holds a NUL character", hint="rename the file")
    return name


def _number(field: bytes, name: bytes, what: str) -> int:
    if field[0] == _POSITIVE_BASE_256:
        return int.from_bytes(field[1:], "big")
    if field[0] == _NEGATIVE_BASE_256:
        raise BadArchiveError(f"{shown(name)} has a negative {what}", hint="pack it again")
    match = _OCTAL.match(field)
    if match is None:
        raise BadArchiveError(f"the {what} of {shown(name)} is no number", hint="pack it again")
    return int(match[1] or b"0", 8)


def _extend(header: _Header, feed: Feed, pending: _Pending) -> None:
    """Read an extended header: PAX (`x`, `g`) or GNU's long name (`L`) and long link (`K`)."""
    cap = _MAX_PAX if header.kind in b"xg" else MAX_PATH + 1
    if header.size > cap:
        raise BadArchiveError(f"an extended header of {header.size} bytes; at most {cap} are read")
    data = feed.take(header.size)
    feed.take(-header.size % BLOCK)
    if header.kind == b"g":
        if pending.kinds:
            raise BadArchiveError("a global header stands between an extended header and its member")
        for key, _ in _records(data):
            if key in (b"path", b"size") or key.startswith(b"GNU.sparse."):
                raise BadArchiveError(f"a global header sets {shown(key)} for every member", hint="pack it again")
        return
    if header.kind in pending.kinds:
        raise BadArchiveError("two extended headers of one kind stand before one member", hint="pack it again")
    pending.kinds += header.kind
    if header.kind == b"L":
        pending.set_name(_text(data))
    elif header.kind == b"x":
        _pax(data, pending)


def _pax(data: bytes, pending: _Pending) -> None:
    for key, value in _records(data):
        if key == b"path":
            if not value:
                raise BadArchiveError("an extended header takes a member's name away")
            pending.set_name(value)
        elif key == b"size":
            if pending.size is not None or not value.isdigit() or len(value) > _MAX_DIGITS:
                raise BadArchiveError(f"an extended header has a wrong size: {shown(value)}")
            pending.size = int(value)
        elif key.startswith(b"GNU.sparse."):
            raise BadArchiveError("the archive holds a sparse file", hint="pack it without --sparse")


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    for _ in range(_MAX_PAX_RECORDS):
        if at == len(data):
            return
        space = data.find(b" ", at, at + 8)
        digits = data[at:space] if space > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not space < end <= len(data) or data[end - 1 : end] != b"\n" or not equals or not key:
            raise BadArchiveError("an extended header is damaged", hint="pack it again")
        yield key, value
        at = end
    raise BadArchiveError(f"an extended header of more than {_MAX_PAX_RECORDS} records")


def _entry(header: _Header, pending: _Pending, census: Census, feed: Feed) -> Entry | None:
    name = header.name if pending.name is None else pending.name
    size = header.size if pending.size is None else pending.size
    if header.kind in _REFUSED:
        raise BadArchiveError(f"{shown(name)} is {_REFUSED[header.kind]}", hint=_DEREFERENCE)
    if header.kind not in b"0\x0057":
        raise BadArchiveError(f"{shown(name)} is of an unknown kind, {shown(header.kind)}", hint=_DEREFERENCE)
    directory = header.kind == b"5" or (header.kind == b"\0" and name.endswith(b"/"))  # v7 knew no other way
    if directory and size:
        raise BadArchiveError(f"the directory {shown(name)} has a size", hint="pack it again")
    if name.endswith(b"/") and not directory:
        raise BadArchiveError(f"the file {shown(name)} is named like a directory", hint="pack it again")
    path = census.admit(name, directory, size)
    if not path:
        return None
    return Entry(path, "dir" if directory else "file", size, bool(header.mode & _EXECUTABLE), feed.run(size))


def _end(feed: Feed) -> None:
    """Check the second block of zeros and that nothing but zeros follows."""
    if feed.take(BLOCK) != _ZEROS:
        raise BadArchiveError("the archive goes on behind its end", hint="send one archive, packed in one go")
    padding = 0
    for piece in feed.rest():
        padding += len(piece)
        if padding > _MAX_PADDING or piece.count(0) != len(piece):
            raise BadArchiveError("bytes follow the end of the archive", hint="send one archive, packed in one go")
