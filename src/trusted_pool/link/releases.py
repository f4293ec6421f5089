"""Releases of one worker that come within a moment go in one request."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

from trusted_pool.ports.link import RefusedError

#: Nobody waits for a release but the worker's disk.
TOGETHER_S = 0.25
MOST = 64  #: in one request


class _Batch:
    """Ids on their way. `sent` gives those that still run."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.full = asyncio.Event()
        self.sent: asyncio.Future[Collection[str]]


class Releases:
    """Gathers. The callers of one batch share its fate."""

    def __init__(self, send: Callable[[list[str]], Awaitable[Collection[str]]]) -> None:
        """`send` releases ids and returns those that could not be because they run."""
        self._send = send
        self._batch: _Batch | None = None
        self._under_way: set[asyncio.Future[Collection[str]]] = set()

    async def add(self, remote_id: str) -> None:
        """Release an attempt. Raises what `send` raises; RefusedError when it runs."""
        batch = self._batch
        if batch is None:
            batch = self._batch = _Batch()
            batch.sent = asyncio.ensure_future(self._soon(batch))
            self._under_way.add(batch.sent)
            batch.sent.add_done_callback(self._done)
        batch.ids.append(remote_id)
        if len(batch.ids) == MOST:
            self._batch = None
            batch.full.set()
        if remote_id in await asyncio.shield(batch.sent):
            raise RefusedError(409, f"{remote_id} is running")

    async def _soon(self, batch: _Batch) -> Collection[str]:
        try:
            async with asyncio.timeout(TOGETHER_S):
                await batch.full.wait()
        except TimeoutError:
            pass
        if self._batch is batch:
            self._batch = None
        return await self._send(batch.ids)

    def _done(self, sent: "asyncio.Future[Collection[str]]") -> None:
        self._under_way.discard(sent)
        if not sent.cancelled():
            sent.exception()  # its callers may all be gone

    def close(self) -> None:
        """Give up what was not sent: reconciliation tells it again."""
        for sent in list(self._under_way):
            sent.cancel()
