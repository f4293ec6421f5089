"""The central directory of a zip file: what members it has and where."""

import stat
import struct
from typing import BinaryIO

import msgspec

from trusted_pool.protocol.archive_names import Census, shown
from trusted_pool.protocol.errors import BadArchiveError, TooLargeError

LOCAL_MAGIC = b"PK\x03\x04"
END_MAGIC = b"PK\x05\x06"
_CENTRAL_MAGIC = b"PK\x01\x02"
_END64_MAGIC = b"PK\x06\x06"
_LOCATOR_MAGIC = b"PK\x06\x07"
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_MAX_COMMENT = 65535
_MAX_DIRECTORY = 64 * 2**20  #: bytes
_UNSET_16, _UNSET_32 = 0xFFFF, 0xFFFFFFFF
_ZIP64_EXTRA, _UNICODE_PATH_EXTRA = 0x0001, 0x7075
_ENCRYPTED = 0x2041  # plain, strong, masked headers
_PATCHED = 0x0020
_STORED, _DEFLATED = 0, 8
_EXECUTABLE = 0o111
_AGAIN = "pack it again with zip or python -m zipfile"


class Member(msgspec.Struct):
    """A member as the central directory has it."""

    name: bytes
    flags: int
    method: int  #: 0 stored, 8 deflated
    crc: int
    packed: int  #: bytes in the archive
    size: int
    offset: int  #: of its local header
    directory: bool
    executable: bool


class _End(msgspec.Struct, frozen=True):
    count: int
    size: int
    offset: int


def exactly(file: BinaryIO, size: int) -> bytes:
    """Read exactly that many bytes.

    Raises:
        BadArchiveError: the file ends before.
    """
    data = file.read(size)
    if len(data) != size:
        raise BadArchiveError("the zip file is truncated", hint=_AGAIN)
    return data


def directory(file: BinaryIO, census: Census) -> tuple[list[Member], int]:
    """Read the central directory; return its members and where it begins.

    Raises:
        BadArchiveError, TooLargeError: as `read_archive`.
    """
    end = _find_end(file)
    if end.size > _MAX_DIRECTORY:
        raise TooLargeError(f"the zip directory takes more than {_MAX_DIRECTORY} bytes")
    file.seek(end.offset)
    data = exactly(file, end.size)
    members: list[Member] = []
    at = 0
    while at < len(data):
        census.member()
        member, at = _member(data, at)
        members.append(member)
    if len(members) != end.count:
        raise BadArchiveError(f"the zip directory holds {len(members)} members and says {end.count}", hint=_AGAIN)
    return members, end.offset


def _find_end(file: BinaryIO) -> _End:
    """Find the end record. Its comment may hold anything, so it must be the only one that fits."""
    size = file.seek(0, 2)
    tail_at = max(0, size - _END.size - _MAX_COMMENT)
    file.seek(tail_at)
    tail = exactly(file, size - tail_at)
    found: list[int] = []
    at = tail.find(END_MAGIC)
    while 0 <= at <= len(tail) - _END.size:
        if at + _END.size + int.from_bytes(tail[at + 20 : at + 22], "little") == len(tail):
            found.append(at)
        at = tail.find(END_MAGIC, at + 1)
    if len(found) != 1:
        words = "it has two ends" if found else "it is truncated, or bytes follow its end"
        raise BadArchiveError(f"this is no whole zip file: {words}", hint=_AGAIN)
    end_at = tail_at + found[0]
    _, disk, first_disk, here, count, length, offset, _ = _END.unpack_from(tail, found[0])
    if (disk, first_disk) not in ((0, 0), (_UNSET_16, _UNSET_16)) or here != count:
        raise BadArchiveError("the zip file is one of several pieces", hint="pack it as one file")
    end = _End(count, length, offset)
    if _UNSET_16 in (disk, count) or _UNSET_32 in (length, offset) or _has_locator(file, end_at):
        end, end_at = _end64(file, end_at, end)
    if end.offset + end.size != end_at:
        raise BadArchiveError("the zip file says a wrong place for its directory", hint=_AGAIN)
    return end


def _has_locator(file: BinaryIO, end_at: int) -> bool:
    if end_at < _LOCATOR.size:
        return False
    file.seek(end_at - _LOCATOR.size)
    return file.read(4) == _LOCATOR_MAGIC


def _end64(file: BinaryIO, end_at: int, short: _End) -> tuple[_End, int]:
    """Read the zip64 end record; each number that the short record holds too must be the same."""
    locator_at = end_at - _LOCATOR.size
    if locator_at < _END64.size:
        raise BadArchiveError("the zip64 end record is missing", hint=_AGAIN)
    file.seek(locator_at)
    magic, disk, at, disks = _LOCATOR.unpack(exactly(file, _LOCATOR.size))
    if magic != _LOCATOR_MAGIC or disk or disks > 1 or at != locator_at - _END64.size:
        raise BadArchiveError("the zip64 end record is missing or elsewhere", hint=_AGAIN)
    file.seek(at)
    magic, length, _, _, disk, first_disk, here, count, size, offset = _END64.unpack(exactly(file, _END64.size))
    end = _End(count, size, offset)
    lies = (
        short.count not in (_UNSET_16, count) or short.size not in (_UNSET_32, size),
        short.offset not in (_UNSET_32, offset),
        magic != _END64_MAGIC or length != _END64.size - 12,
        disk or first_disk or here != count,
    )
    if any(lies):
        raise BadArchiveError("the zip64 end record contradicts the rest", hint=_AGAIN)
    return end, at


def _member(data: bytes, at: int) -> tuple[Member, int]:
    if at + _CENTRAL.size > len(data):
        raise BadArchiveError("the zip directory is damaged", hint=_AGAIN)
    fields = _CENTRAL.unpack_from(data, at)
    magic, _, _, flags, method, _, _, crc, packed, size, name_len, extra_len, comment_len, disk, _, mode, offset = (
        fields
    )
    name_at = at + _CENTRAL.size
    extra_at = name_at + name_len
    end = extra_at + extra_len + comment_len
    if magic != _CENTRAL_MAGIC or end > len(data) or disk not in (0, _UNSET_16):
        raise BadArchiveError("the zip directory is damaged", hint=_AGAIN)
    name = data[name_at:extra_at]
    extra = data[extra_at : extra_at + extra_len]
    size, packed, offset = zip64(extra, name, (size, packed, offset))
    unix = mode >> 16
    member = Member(
        name=name,
        flags=flags,
        method=method,
        crc=crc,
        packed=packed,
        size=size,
        offset=offset,
        directory=name.endswith(b"/"),
        executable=bool(unix & _EXECUTABLE),
    )
    _refuse(member, stat.S_IFMT(unix))
    return member, end


def _refuse(member: Member, kind: int) -> None:
    """Refuse what is no plain file or directory, and what cannot be unpacked."""
    name = shown(member.name)
    if member.flags & _ENCRYPTED:
        raise BadArchiveError(f"{name} is encrypted", hint="pack it without a password")
    if member.method not in (_STORED, _DEFLATED) or member.flags & _PATCHED:
        raise BadArchiveError(f"{name} is packed by method {member.method}", hint="use deflate, or send a .tar.gz")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a symbolic link" if kind == stat.S_IFLNK else "neither a file nor a directory"
        raise BadArchiveError(f"{name} is {what}", hint="pack what it points to (zip without -y)")
    if kind and (kind == stat.S_IFDIR) != member.directory:
        raise BadArchiveError(f"{name} is named as a directory or says it is one, not both", hint=_AGAIN)
    if member.directory and member.size:
        raise BadArchiveError(f"the directory {name} has a size", hint=_AGAIN)
    if member.method == _STORED and member.packed != member.size:
        raise BadArchiveError(f"{name} is stored and has two sizes", hint=_AGAIN)
    if b"\\" in member.name:
        raise BadArchiveError(f"the name {name} holds a backslash", hint="pack it with / between directories")


def zip64(extra: bytes, name: bytes, numbers: tuple[int, int, int]) -> tuple[int, int, int]:
    """Walk the extra field; fill in (size, packed, offset) from zip64 where the header leaves them to it.

    Raises:
        BadArchiveError: damaged, another name inside, or zip64 numbers missing or repeated.
    """
    values: bytes | None = None
    at = 0
    while at < len(extra):
        if at + 4 > len(extra):
            raise BadArchiveError(f"the extra field of {shown(name)} is damaged", hint=_AGAIN)
        tag, length = struct.unpack_from("<2H", extra, at)
        value = extra[at + 4 : at + 4 + length]
        if len(value) != length or (tag == _ZIP64_EXTRA and values is not None):
            raise BadArchiveError(f"the extra field of {shown(name)} is damaged", hint=_AGAIN)
        if tag == _ZIP64_EXTRA:
            values = value
        if tag == _UNICODE_PATH_EXTRA and value[5:] != name:
            raise BadArchiveError(f"{shown(name)} has a second name, {shown(value[5:])}", hint=_AGAIN)
        at += 4 + length
    out = list(numbers)
    rest = values or b""
    for index, number in enumerate(numbers):
        if number == _UNSET_32:
            if len(rest) < 8:  # noqa: PLR2004 - bytes of a 64-bit number
                raise BadArchiveError(f"the zip64 sizes of {shown(name)} are missing", hint=_AGAIN)
            out[index] = int.from_bytes(rest[:8], "little")
            rest = rest[8:]
    return out[0], out[1], out[2]
