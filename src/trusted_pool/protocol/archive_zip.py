"""The zip format: stored and deflated members, read from the central directory and checked against each local header.

Every byte of the file must be accounted for: local headers and data without gaps or overlaps, then the directory, then
its end record. So no two readers can see two different archives in it.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from trusted_pool.protocol.archive_entry import CHUNK, Entry
from trusted_pool.protocol.archive_names import Census, shown
from trusted_pool.protocol.archive_zip_directory import LOCAL_MAGIC, Member, directory, exactly, zip64
from trusted_pool.protocol.errors import BadArchiveError

_LOCAL = struct.Struct("<4s5H3I2H")
_DESCRIPTOR_SIZES = frozenset({12, 16, 20, 24})  # with or without its signature, with 4- or 8-byte sizes
_DESCRIPTOR_MAGIC = b"PK\x07\x08"
_STREAMED = 0x0008
_SAME_FLAGS = 0x0809  # encrypted, streamed, UTF-8
_UNSET = 0xFFFFFFFF
_RAW_DEFLATE = -15


class _Local(msgspec.Struct):
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    name: bytes
    data_at: int


def read_zip(file: BinaryIO, census: Census) -> Iterator[Entry]:
    """Yield the members in the order of their data. The file must be seekable.

    Raises:
        BadArchiveError, TooLargeError: as `read_archive`.
    """
    members, directory_at = directory(file, census)
    members.sort(key=lambda member: member.offset)
    at = 0
    for index, member in enumerate(members):
        if member.offset != at:
            words = "overlaps another member" if member.offset < at else "has unaccounted bytes before it"
            raise BadArchiveError(f"{shown(member.name)} {words}", hint="pack it again with zip or python -m zipfile")
        local = _local(file, member)
        end = members[index + 1].offset if index + 1 < len(members) else directory_at
        at = _end_of(file, member, local, end)
        path = census.admit(member.name, member.directory, member.size)
        chunks = _data(file, member, local.data_at)
        if path:
            yield Entry(path, "dir" if member.directory else "file", member.size, member.executable, chunks)
        for _ in chunks:  # what the caller left
            pass
    if at != directory_at:
        raise BadArchiveError("the zip file has unaccounted bytes before its directory", hint="pack it again")


def _local(file: BinaryIO, member: Member) -> _Local:
    file.seek(member.offset)
    magic, _, flags, method, _, _, crc, packed, size, name_len, extra_len = _LOCAL.unpack(exactly(file, _LOCAL.size))
    if magic != LOCAL_MAGIC:
        raise BadArchiveError(f"{shown(member.name)} is not where the zip directory says", hint="pack it again")
    name = exactly(file, name_len)
    extra = exactly(file, extra_len)
    if _UNSET in (packed, size):
        size, packed, _ = zip64(extra, name, (size, packed, 0))
    local = _Local(flags, method, crc, packed, size, name, member.offset + _LOCAL.size + name_len + extra_len)
    same = (
        local.name == member.name
        and local.method == member.method
        and (local.flags ^ member.flags) & _SAME_FLAGS == 0
        and _agrees(local, member)
    )
    if not same:
        raise BadArchiveError(
            f"the two headers of {shown(member.name)} contradict each other", hint="pack it again with zip"
        )
    return local


def _agrees(local: _Local, member: Member) -> bool:
    """Compare sizes and checksum; a streamed member's local header may leave out any."""
    pairs = ((local.crc, member.crc), (local.packed, member.packed), (local.size, member.size))
    streamed = bool(local.flags & _STREAMED)
    return all(told == true or (streamed and told == 0) for told, true in pairs)


def _end_of(file: BinaryIO, member: Member, local: _Local, limit: int) -> int:
    """Return where the member ends: behind its data, and its data descriptor when it was streamed."""
    end = local.data_at + member.packed
    if end > limit:
        raise BadArchiveError(f"{shown(member.name)} overlaps another member", hint="pack it again with zip")
    gap = limit - end
    if not member.flags & _STREAMED or gap not in _DESCRIPTOR_SIZES:
        return end
    file.seek(end)
    data = exactly(file, gap)
    fields = data[4:] if gap in (16, 24) else data
    crc, packed, size = struct.unpack("<3I" if gap < 20 else "<I2Q", fields)  # noqa: PLR2004 - see _DESCRIPTOR_SIZES
    signed = gap not in (16, 24) or data[:4] == _DESCRIPTOR_MAGIC
    if not signed or (crc, packed, size) != (member.crc, member.packed, member.size):
        raise BadArchiveError(f"what follows {shown(member.name)} contradicts the zip directory", hint="pack it again")
    return limit


def _data(file: BinaryIO, member: Member, at: int) -> Iterator[bytes]:
    """Yield the member's bytes; exactly as many as its size, with its checksum."""
    inflater = zlib.decompressobj(_RAW_DEFLATE) if member.method else None
    left, given, crc = member.packed, 0, 0
    data = b""
    full = False  # more may come out without anything going in
    while left or data or full:
        if not data and left and not full:
            file.seek(at)  # the caller may read elsewhere between two pieces
            data = exactly(file, min(CHUNK, left))
            at += len(data)
            left -= len(data)
        if inflater is None:
            piece, data = data, b""
        else:
            try:
                piece = inflater.decompress(data, CHUNK)
            except zlib.error as error:
                raise BadArchiveError(f"{shown(member.name)} is damaged: {error}", hint="pack it again") from None
            data = inflater.unconsumed_tail
            full = len(piece) == CHUNK
            if inflater.eof and (left or inflater.unused_data):
                raise BadArchiveError(f"bytes follow the data of {shown(member.name)}", hint="pack it again")
        given += len(piece)
        crc = zlib.crc32(piece, crc)
        if given > member.size:
            break
        if piece:
            yield piece
        if inflater is not None and inflater.eof:
            break
    whole = inflater is None or inflater.eof or member.packed == 0
    if not whole or given != member.size or crc != member.crc:
        raise BadArchiveError(
            f"{shown(member.name)} is damaged: its size or checksum is not what the archive says", hint="pack it again"
        )
