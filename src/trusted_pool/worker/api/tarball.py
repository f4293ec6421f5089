"""All outputs of an attempt as one `.tar.gz`, made while it is sent."""

import asyncio
import tarfile
import zlib
from collections.abc import AsyncIterator, Callable, Sequence

from trusted_pool.core.job import OutputFile

_FAST = 1  # outputs are mostly compressed already
_GZIP = 16 + zlib.MAX_WBITS
_IN_THREAD = 256 * 1024  # smaller pieces cost less to press than to hand over

OpenFile = Callable[[OutputFile], AsyncIterator[bytes]]


async def tarball(files: Sequence[OutputFile], open_file: OpenFile, mtime: float) -> AsyncIterator[bytes]:
    """Yield the archive in pieces; holds one piece in memory."""
    press = zlib.compressobj(_FAST, zlib.DEFLATED, _GZIP)
    async for plain in _tar(files, open_file, int(mtime)):
        data = await asyncio.to_thread(press.compress, plain) if len(plain) >= _IN_THREAD else press.compress(plain)
        if data:
            yield data
    yield press.flush()


async def _tar(files: Sequence[OutputFile], open_file: OpenFile, mtime: int) -> AsyncIterator[bytes]:
    for file in files:
        member = tarfile.TarInfo(file.path)
        member.size, member.mtime = file.size, mtime
        member.mode = 0o755 if file.executable else 0o644
        yield member.tobuf(tarfile.PAX_FORMAT)
        async for piece in open_file(file):
            yield piece
        yield bytes(-file.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)
