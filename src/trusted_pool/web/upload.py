"""Uploads: streamed to the blob store while they are hashed, never a whole file in memory."""

from collections.abc import AsyncIterable, AsyncIterator

import msgspec

from trusted_pool.coordinator.intake import Intake
from trusted_pool.coordinator.submit import Upload
from trusted_pool.ports.blobs import Staged
from trusted_pool.protocol import form, manifest
from trusted_pool.protocol.errors import BadManifestError, BadRequestError, TooLargeError

LIMITS = form.FormLimits()


class Received(msgspec.Struct):
    """What a submit brought: staged files and the manifest, if it brought one."""

    files: list[Upload]
    manifest: bytes | None = None

    async def discard(self) -> None:
        """Forget the files."""
        for file in self.files:
            await file.staged.discard()


async def receive(
    content_type: str, chunks: AsyncIterator[bytes], intake: Intake, length: int | None = None
) -> Received:
    """Read a multipart body. `length`: what is announced, if anything.

    Raises:
        PoolError: it is malformed or too large; nothing is left staged.
        BlobsError: the files cannot be staged; likewise.
    """
    if length is not None and length > LIMITS.max_bytes:
        raise form.too_large(LIMITS)
    received = Received(files=[])
    try:
        async for part in form.parts(content_type, chunks, LIMITS):
            if part.name == "files":
                name = part.filename or ""
                if not name:
                    raise BadRequestError("a file has no name", hint="curl -F files=@project.tar.gz …")
                received.files.append(Upload(name, await _stage(part, intake)))
            elif part.name == "manifest":
                if received.manifest is not None:
                    raise BadManifestError("there are two manifests", hint="send one field named manifest")
                received.manifest = await _manifest(part)
            else:
                raise BadRequestError(
                    f"unknown field {part.name[:100]!r}", hint="the fields are `files` (one or several) and `manifest`"
                )
    except BaseException:
        await received.discard()
        raise
    return received


async def _manifest(part: form.Part) -> bytes:
    try:
        return await part.read(manifest.MAX_BYTES)
    except TooLargeError:
        raise TooLargeError(
            f"the manifest is larger than {manifest.MAX_BYTES // 1024} KiB", hint="what is large belongs into the files"
        ) from None


async def _stage(data: AsyncIterable[bytes], intake: Intake) -> Staged:
    stage = await intake.stage()
    try:
        async for piece in data:
            await stage.write(piece)
        return await stage.finish()
    except BaseException:
        await stage.abort()
        raise
