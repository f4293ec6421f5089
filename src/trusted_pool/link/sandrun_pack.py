"""Inputs as a .tar.gz, the one thing that every worker of the sandrun API unpacks.

A .tar.gz goes as it is. Plain files and other archives are packed on the way into a stage: such a worker needs to know
the length before the first byte. One piece of a file is in memory at a time.
"""

import asyncio
import hashlib
import tarfile
import zlib
from collections.abc import AsyncIterator, Generator
from functools import partial

from trusted_pool.core.job import InputFile
from trusted_pool.ports.blobs import Blobs, BlobsError, Stage, Staged
from trusted_pool.ports.link import OpenInput, RefusedError
from trusted_pool.protocol.archive import ArchiveLimits, is_archive, plan, read_archive
from trusted_pool.protocol.errors import PoolError

NAME = "project.tar.gz"
_GZIP = b"\x1f\x8b"
_BLOCK = 512
_LIMITS = ArchiveLimits()


class TarGz:
    """Writes a .tar.gz piece by piece: of each file its header, its bytes, its end; at last the end of all."""

    def __init__(self) -> None:
        self._gzip = zlib.compressobj(6, zlib.DEFLATED, 31)  # 31: with a gzip header, without name and time
        self._size = 0

    def begin(self, path: str, size: int, *, executable: bool = False, directory: bool = False) -> bytes:
        """Begin a file of `size` bytes, or name a directory."""
        info = tarfile.TarInfo(path)
        info.size, info.mtime = size, 0
        info.mode = 0o755 if executable or directory else 0o644
        info.type = tarfile.DIRTYPE if directory else tarfile.REGTYPE
        self._size = size
        return self._gzip.compress(info.tobuf(tarfile.PAX_FORMAT))

    def write(self, data: bytes) -> bytes:
        """Add bytes of the file."""
        return self._gzip.compress(data)

    def end(self) -> bytes:
        """End the file."""
        return self._gzip.compress(b"\0" * (-self._size % _BLOCK))

    def finish(self) -> bytes:
        """End the archive."""
        return self._gzip.compress(b"\0" * (2 * _BLOCK)) + self._gzip.flush()


class Packed:
    """A job's inputs as one file with a known size. `close` it."""

    def __init__(self, file: InputFile, staged: Staged | None, open_input: OpenInput, original: InputFile) -> None:
        self.file = file
        self._staged = staged
        self._open_input = open_input
        self._original = original

    def open(self, _: InputFile) -> AsyncIterator[bytes]:
        """Yield its bytes."""
        return self._staged.read() if self._staged is not None else self._open_input(self._original)

    async def close(self) -> None:
        """Forget what was packed."""
        if self._staged is not None:
            await self._staged.discard()


async def pack(inputs: tuple[InputFile, ...], open_input: OpenInput, blobs: Blobs) -> Packed:
    """Make one .tar.gz of a job's inputs.

    Raises:
        BlobsError: an input cannot be read, or there is no space to pack.
        RefusedError: the inputs are no files that can stand together.
    """
    if len(inputs) == 1 and is_archive(inputs[0].name) and await _is_gzip(open_input(inputs[0])):
        (only,) = inputs
        return Packed(InputFile(name=NAME, size=only.size, sha256=only.sha256), None, open_input, only)
    stage = await blobs.stage()
    try:
        if len(inputs) == 1 and is_archive(inputs[0].name):
            await _repack(stage, inputs[0], open_input, blobs)
        else:
            await _pack(stage, inputs, open_input)
        staged = await stage.finish()
    except PoolError as error:
        await stage.abort()
        raise RefusedError(error.status, error.message) from None
    except BaseException:
        await stage.abort()
        raise
    file = InputFile(name=NAME, size=staged.size, sha256=staged.sha256)
    return Packed(file, staged, open_input, inputs[0] if inputs else file)


async def digests(inputs: tuple[InputFile, ...], open_input: OpenInput, blobs: Blobs) -> dict[str, str]:
    """Return the sha256 of every file that a job brings, by its path. Raises BlobsError."""
    if not inputs:
        return {}
    paths = plan([file.name for file in inputs])
    if paths is not None:
        return {path: file.sha256 for path, file in zip(paths, inputs, strict=True)}
    staged = await _staged(inputs[0], open_input, blobs)
    try:
        return await asyncio.to_thread(_digests, staged)
    except PoolError as error:
        raise BlobsError(f"the kept bytes of {inputs[0].name!r} are no archive any more: {error.message}") from None
    finally:
        await staged.discard()


def _digests(staged: Staged) -> dict[str, str]:
    found = {}
    with staged.file() as file:
        for entry in read_archive(file, _LIMITS):
            if entry.kind == "file":
                digest = hashlib.sha256()
                for chunk in entry.chunks:
                    digest.update(chunk)
                found[entry.path] = digest.hexdigest()
    return found


async def _is_gzip(pieces: AsyncIterator[bytes]) -> bool:
    head = b""
    async for piece in pieces:
        head += piece
        if len(head) >= len(_GZIP):
            break
    return head.startswith(_GZIP)


async def _pack(stage: Stage, inputs: tuple[InputFile, ...], open_input: OpenInput) -> None:
    """Pack plain files under the paths that the pool gives them."""
    tar = TarGz()
    paths = plan([file.name for file in inputs]) if inputs else ()
    for path, file in zip(paths or (), inputs, strict=True):
        await stage.write(tar.begin(path, file.size))
        left = file.size
        async for piece in open_input(file):
            left -= len(piece)
            if left >= 0:
                await stage.write(tar.write(piece))
        if left:
            raise BlobsError(f"the kept bytes of {file.name!r} are not the {file.size} that were promised")
        await stage.write(tar.end())
    await stage.write(tar.finish())


async def _repack(stage: Stage, archive: InputFile, open_input: OpenInput, blobs: Blobs) -> None:
    """Pack an archive of another format anew, as it is unpacked: files and directories, nothing else."""
    staged = await _staged(archive, open_input, blobs)
    try:
        pieces = _tar_pieces(staged, archive.name)
        try:
            while piece := await asyncio.to_thread(partial(next, pieces, b"")):
                await stage.write(piece)
        finally:
            await asyncio.to_thread(pieces.close)
    finally:
        await staged.discard()


def _tar_pieces(staged: Staged, name: str) -> Generator[bytes, None, None]:
    tar = TarGz()
    held = bytearray()
    with staged.file() as file:
        for entry in read_archive(file, _LIMITS, name):
            directory = entry.kind == "dir"
            held += tar.begin(entry.path, entry.size, executable=entry.executable, directory=directory)
            for chunk in entry.chunks if not directory else ():
                held += tar.write(chunk)
                if held:
                    yield bytes(held)
                    held.clear()
            held += tar.end()
    yield bytes(held) + tar.finish()


async def _staged(file: InputFile, open_input: OpenInput, blobs: Blobs) -> Staged:
    stage = await blobs.stage()
    try:
        async for piece in open_input(file):
            await stage.write(piece)
        if stage.size != file.size:
            raise BlobsError(f"the kept bytes of {file.name!r} are not the {file.size} that were promised")
        return await stage.finish()
    except BaseException:
        await stage.abort()
        raise
