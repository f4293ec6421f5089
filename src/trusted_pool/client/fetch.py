"""Fetch outputs: streamed, checked against the listing, put in place whole or not at all."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import msgspec

from trusted_pool.client.errors import ClientError, IntegrityError, RequestError
from trusted_pool.client.paths import NewFile, new_file, parts_of
from trusted_pool.client.transport import Transport
from trusted_pool.protocol.answers import OutputEntry

#: Called with the bytes that arrived since the last call; negative when a broken transfer starts again.
OnBytes = Callable[[int], None]

_TRIES = 4
_PAUSE_S = 0.2
_AT_ONCE = 8
_TOO_MANY = 429
#: How long a fetch waits in all for others of the same owner to end.
_PATIENCE_S = 120.0
_LONGEST_PAUSE_S = 10.0
_PARTIAL = 206


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """An output that was written."""

    path: str  #: its name in the job
    file: Path
    size: int
    sha256: str


async def fetch_all(
    transport: Transport, job_id: str, entries: list[OutputEntry], into: Path, on_bytes: OnBytes | None = None
) -> list[Fetched]:
    """Fetch outputs into a directory, several at once. Every path is checked before the first byte is asked for.

    Raises:
        UnsafePathError, IntegrityError, ClientError.
    """
    for entry in entries:
        parts_of(entry.path)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(entry: OutputEntry, number: int) -> Fetched:
        async with gate:
            return await fetch_one(transport, job_id, entry, into, key=f"{job_id}-{number}", on_bytes=on_bytes)

    tasks = [asyncio.ensure_future(one(entry, n)) for n, entry in enumerate(entries)]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def fetch_one(
    transport: Transport, job_id: str, entry: OutputEntry, into: Path, *, key: str, on_bytes: OnBytes | None = None
) -> Fetched:
    """Fetch one output. A broken transfer goes on where it broke."""
    with new_file(into, entry.path, key) as file:
        transfer = _Transfer(file, entry, on_bytes)
        attempt, waited_s = 1, 0.0
        while True:
            try:
                await transfer.go(transport, f"/outputs/{job_id}/{quote(entry.path)}")
                break
            except ClientError as error:
                pause_s = _PAUSE_S * attempt
                if isinstance(error, RequestError) and error.status == _TOO_MANY and waited_s < _PATIENCE_S:
                    # The owner has other transfers under way: that is no failure of this one.
                    pause_s = min(max(pause_s, error.retry_after_s or 0.0), _LONGEST_PAUSE_S)
                    waited_s += pause_s
                elif attempt == _TRIES or not error.retryable:
                    raise
                else:
                    attempt += 1
                await asyncio.sleep(pause_s)
        file.put(executable=entry.executable)
    return Fetched(path=entry.path, file=into / entry.path, size=entry.size, sha256=entry.sha256)


class _Transfer:
    """One output on its way: the hash and the count go on over broken connections."""

    def __init__(self, file: NewFile, entry: OutputEntry, on_bytes: OnBytes | None) -> None:
        self._file = file
        self._entry = entry
        self._on_bytes = on_bytes or (lambda _n: None)
        self._hash = hashlib.sha256()
        self._got = 0

    async def go(self, transport: Transport, url: str) -> None:
        """Fetch what is missing and check the whole."""
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if self._got:
            headers["Range"] = f"bytes={self._got}-"
            headers["If-Range"] = f'"{self._entry.sha256}"'
        try:
            async with transport.stream("GET", url, headers=headers) as response:
                if self._got and response.status_code != _PARTIAL:
                    self._restart()
                async for piece in response.aiter_raw():
                    self._take(piece)
        except RequestError as error:
            if error.status == 416:  # noqa: PLR2004 - range not satisfiable: what we have is more than there is
                self._restart()
            raise
        if self._got != self._entry.size or self._hash.hexdigest() != self._entry.sha256:
            self._restart()
            raise IntegrityError(f"{self._entry.path}: the bytes that came are not what the listing says")

    def _take(self, piece: bytes) -> None:
        self._got += len(piece)
        if self._got > self._entry.size:
            self._got -= len(piece)
            self._restart()
            raise IntegrityError(f"{self._entry.path}: more bytes came than the {self._entry.size} of the listing")
        self._file.write(piece)
        self._hash.update(piece)
        self._on_bytes(len(piece))

    def _restart(self) -> None:
        self._on_bytes(-self._got)
        self._file.restart()
        self._hash = hashlib.sha256()
        self._got = 0
