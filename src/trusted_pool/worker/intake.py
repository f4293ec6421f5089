"""The intake: from the parts of a submit to an accepted attempt, or to a refusal that leaves nothing behind."""

import asyncio
from collections.abc import AsyncIterator

import msgspec

from trusted_pool.core.job import InputFile
from trusted_pool.core.words import OnWorkerLoss
from trusted_pool.ports.blobs import BlobsError, BlobsFullError
from trusted_pool.ports.journal import Entry
from trusted_pool.protocol import archive, manifest
from trusted_pool.protocol.errors import (
    BadManifestError,
    BadRequestError,
    PoolError,
    StorageFullError,
    UnavailableError,
)
from trusted_pool.protocol.manifest import Resolved
from trusted_pool.worker.admission import Admission
from trusted_pool.worker.attempts import Attempts
from trusted_pool.worker.inputs import Inputs, Upload

#: A job of more plain files than this is sent as an archive.
MAX_FILES = 1000


class FilePart(msgspec.Struct, frozen=True):
    """One uploaded file. Its bytes must be used up before the next part is asked for."""

    name: str
    pieces: AsyncIterator[bytes]


class ManifestPart(msgspec.Struct, frozen=True):
    """The manifest's bytes."""

    raw: bytes


Part = FilePart | ManifestPart


class Intake:
    """Takes submits in. Whatever fails, no file, no slot and no entry is left of it."""

    def __init__(self, attempts: Attempts, inputs: Inputs) -> None:
        self._attempts = attempts
        self._inputs = inputs

    async def take(self, admission: Admission, parts: AsyncIterator[Part]) -> Entry:
        """Receive the parts, check them, accept the attempt.

        Raises:
            PoolError: refused.
        """
        received: list[tuple[Upload, InputFile]] = []
        try:
            raw = await self._receive(parts, received)
            try:
                resolved = await _resolve(raw, received)
                return await self._accept(admission, raw, resolved, received)
            except PoolError as error:
                self._attempts.refuse(admission.key, error)
                raise
        except BlobsFullError:
            raise StorageFullError("the worker's disk is full", hint="the worker's operator must free space") from None
        except BlobsError as error:
            raise UnavailableError(f"the worker cannot keep the files: {error}", hint="see the worker's log") from error
        finally:
            for upload, _ in received:
                await upload.discard()

    async def _receive(self, parts: AsyncIterator[Part], received: list[tuple[Upload, InputFile]]) -> bytes:
        raw: bytes | None = None
        async for part in parts:
            if isinstance(part, ManifestPart):
                if raw is not None:
                    raise BadManifestError("there are two manifests", hint="send one")
                raw = part.raw
                continue
            if len(received) >= MAX_FILES:
                raise BadRequestError(f"more than {MAX_FILES} files", hint="send one archive")
            upload = self._inputs.upload(part.name)
            try:
                async for piece in part.pieces:
                    await upload.write(piece)
                received.append((upload, await upload.finish()))
            except BaseException:
                await upload.discard()
                raise
        if raw is None:
            raise BadManifestError("there is no manifest", hint="send the form field `manifest` beside `files`")
        if not received:
            raise BadRequestError("no files were sent", hint="send them as the form field `files`")
        return raw

    async def _accept(
        self, admission: Admission, raw: bytes, resolved: Resolved, received: list[tuple[Upload, InputFile]]
    ) -> Entry:
        kept: list[InputFile] = []
        try:
            for upload, file in received:
                await self._inputs.keep(upload, file)
                kept.append(file)
            return await self._attempts.accept(admission, raw.decode(), resolved, tuple(kept))
        except BaseException:
            await self._inputs.drop(tuple(kept))
            raise


async def _resolve(raw: bytes, received: list[tuple[Upload, InputFile]]) -> Resolved:
    """Check manifest and files. Raises PoolError."""
    parsed = manifest.parse(raw)
    placed = archive.plan([file.name for _, file in received])
    if placed is not None:
        return manifest.resolve(parsed, set(placed), OnWorkerLoss.RETRY)
    upload, file = received[0]

    def inside() -> set[str]:
        with upload.file() as opened:
            return archive.inspect(opened, archive.ArchiveLimits(), (), file.name).names

    names = inside() if upload.small is not None else await asyncio.to_thread(inside)
    return manifest.resolve(parsed, names, OnWorkerLoss.RETRY)
