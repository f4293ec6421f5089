"""The body of a submit: multipart/form-data of known length, streamed.

Pieces are joined up to 64 KiB, so that a small job is one write (and one TLS record).
"""

import hashlib
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from trusted_pool.core.job import InputFile
from trusted_pool.ports.blobs import BlobsError
from trusted_pool.ports.link import OpenInput, Order

_JOINED = 64 * 1024


class SubmitBody(aiohttp.Payload):
    """`manifest`, then every input as `files`. `begun` turns true before the first byte is written.

    `error` holds what reading an input raised; the body then stays incomplete, so that no worker can take it.
    """

    def __init__(self, order: Order, open_input: OpenInput, on_progress: Callable[[], None]) -> None:
        """`on_progress` is called whenever the worker has taken something, and at the end."""
        # The boundary cannot stand in a file: files are kept before the job's id is made.
        boundary = hashlib.sha256(f"{order.job_id}/{order.attempt}".encode()).hexdigest()[:32]
        super().__init__(order, content_type=f"multipart/form-data; boundary={boundary}")
        self.begun = False
        self.error: Exception | None = None
        self._open_input = open_input
        self._on_progress = on_progress
        self._first = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="manifest"\r\n'
            f"Content-Type: application/json\r\n\r\n{order.manifest}"
        ).encode()
        self._parts = [(_head(boundary, file), file) for file in order.inputs]
        self._last = f"\r\n--{boundary}--\r\n".encode()
        self._size = len(self._first) + len(self._last) + sum(len(head) + file.size for head, file in self._parts)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 - its base's signature
        """Refuse: a stream has no text."""
        raise TypeError("a submit's body is a stream")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write it. Raises what reading an input raises."""
        self.begun = True
        buffer = bytearray(self._first)
        try:
            for head, file in self._parts:
                buffer += head
                left = file.size
                async for piece in self._open_input(file):
                    left -= len(piece)
                    if left < 0:
                        break
                    buffer += piece
                    if len(buffer) >= _JOINED:
                        await writer.write(bytes(buffer))
                        buffer.clear()
                        self._on_progress()
                if left:
                    raise BlobsError(f"the kept bytes of {file.name!r} are not the {file.size} that were promised")
        except (aiohttp.ClientError, ConnectionError):
            raise
        except Exception as error:
            self.error = error
            raise
        await writer.write(bytes(buffer + self._last))
        self._on_progress()

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:  # noqa: ARG002
        """Write it: its length is what was announced."""
        await self.write(writer)

    async def as_bytes(self, encoding: str = "utf-8", errors: str = "strict") -> Any:
        """Refuse: it may be larger than memory."""
        self.decode(encoding, errors)


def _head(boundary: str, file: InputFile) -> bytes:
    name = file.name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
    return (
        f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
