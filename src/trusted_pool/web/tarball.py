"""All outputs of a job as one `.tar.gz`, made while it is sent."""

import asyncio
import tarfile
import zlib
from collections.abc import AsyncIterator, Callable, Sequence

from trusted_pool.core.job import OutputFile

_BLOCK = 512
_LEVEL = 1  # outputs are mostly compressed already, and the line is faster than a better level
_IN_THREAD = 256 * 1024
_SEND = 64 * 1024

OpenFile = Callable[[OutputFile], AsyncIterator[bytes]]


async def tarball(files: Sequence[OutputFile], open_file: OpenFile, mtime: float) -> AsyncIterator[bytes]:
    """Yield the archive in pieces."""
    gzip = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
    ready = bytearray()

    async def press(data: bytes) -> None:
        if len(data) >= _IN_THREAD:
            ready.extend(await asyncio.to_thread(gzip.compress, data))
        else:
            ready.extend(gzip.compress(data))

    for file in files:
        info = tarfile.TarInfo(file.path)
        info.size = file.size
        info.mode = 0o755 if file.executable else 0o644
        info.mtime = int(mtime)
        await press(info.tobuf(tarfile.PAX_FORMAT))
        async for piece in open_file(file):
            await press(piece)
            if len(ready) >= _SEND:
                yield bytes(ready)
                ready.clear()
        await press(b"\0" * (-file.size % _BLOCK))
    await press(b"\0" * (2 * _BLOCK))
    yield bytes(ready) + gzip.flush()
