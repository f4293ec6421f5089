"""A link in memory, for simulations: the same contract, and a wire that can be made to fail.

No sockets, no threads, no clock but the running loop's; which call fails how is the caller's to decide.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

import msgspec

from trusted_pool.core.job import OutputFile
from trusted_pool.core.worker import Worker
from trusted_pool.link.fake_worker import Parcel, WorkerEnd
from trusted_pool.link.trouble import of_status
from trusted_pool.ports.blobs import BlobsError
from trusted_pool.ports.link import (
    GoneError,
    NotSentError,
    OpenInput,
    Order,
    UnansweredError,
    WrongIdentityError,
)
from trusted_pool.protocol.errors import ErrorAnswer, PoolError
from trusted_pool.protocol.messages import HEARTBEAT_S, AcceptedAnswer, AttemptsAnswer, HealthAnswer, WorkerMessage

T = TypeVar("T")
CALL_S = 10.0
SILENCE_S = 3 * HEARTBEAT_S


class Fate(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to one call, or to one message of a stream. Times in seconds of the loop."""

    arrives: bool = True  #: False: a call never leaves; a stream breaks before this message
    answered: bool = True  #: False: the worker acts, and its reply is lost
    copies: int = 1  #: how often the worker gets the call, or the coordinator the message
    delay_s: float = 0.0  #: before it arrives
    reply_delay_s: float = 0.0


GOOD = Fate()


class Wire:
    """What lies between one coordinator and one worker.

    `fate` is asked once for each call and each message, by name ("submit", "events", "message", …).
    """

    def __init__(self, end: WorkerEnd, fate: Callable[[str], Fate] = lambda _: GOOD) -> None:
        self.end = end
        self.fate = fate
        self.refusal: PoolError | None = None  #: what its guard answers to every call, while it is set
        self._cut = asyncio.Event()

    @property
    def down(self) -> bool:
        """Whether nothing gets through."""
        return self._cut.is_set()

    def cut(self) -> None:
        """Break all that is under way and let nothing through until `mend`."""
        self._cut.set()

    def mend(self) -> None:
        """Let new calls through."""
        self._cut = asyncio.Event()

    async def until_cut(self, doing: Awaitable[T], over: asyncio.Event) -> T:
        """Wait for the outcome. Raises UnansweredError when the wire is cut first, or `over` is set."""
        task = asyncio.ensure_future(doing)
        cuts = [asyncio.ensure_future(event.wait()) for event in (self._cut, over)]
        try:
            await asyncio.wait({task, *cuts}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise UnansweredError("the line broke")
            return task.result()
        finally:
            for cut in cuts:
                cut.cancel()
            await _end(task)
            if not task.cancelled():
                task.exception()  # it is nobody's when the caller has gone


class FakeLink:
    """A `WorkerLink` over a `Wire`."""

    def __init__(self, worker: Worker, wire: Wire, pool_id: str, epoch: int = 1) -> None:
        self.worker = worker
        self._wire = wire
        self._pool_id = pool_id
        self._epoch = epoch
        self._closed = asyncio.Event()

    async def health(self) -> HealthAnswer:
        """Ask how it is."""
        return await self._call("health", self._wire.end.health)

    async def submit(self, order: Order, open_input: OpenInput) -> AcceptedAnswer:
        """Send an attempt."""
        self._reach()
        files: list[tuple[str, bytes]] = []
        for file in order.inputs:
            data = b"".join([piece async for piece in open_input(file)])
            if len(data) != file.size:
                raise BlobsError(f"the kept bytes of {file.name!r} are not the {file.size} that were promised")
            files.append((file.name, data))
        parcel = Parcel(pool_id=self._pool_id, epoch=self._epoch, order=order, files=tuple(files))
        return await self._call("submit", lambda: self._wire.end.submit(parcel))

    async def events(self, journal_id: str, after: int) -> AsyncIterator[WorkerMessage]:
        """Follow its events."""
        async with contextlib.aclosing(
            self._stream("events", lambda: self._wire.end.events(journal_id, after), SILENCE_S)
        ) as messages:
            async for message in messages:
                yield message
        raise UnansweredError("it ended the event stream")

    async def attempts(self) -> AttemptsAnswer:
        """Ask for all that it has of this pool."""
        return await self._call("attempts", self._wire.end.attempts)

    async def cancel(self, remote_id: str) -> None:
        """End an attempt there."""
        await self._call("cancel", lambda: self._wire.end.cancel(remote_id), may_be_gone=True)

    async def release(self, remote_id: str) -> None:
        """Say that the attempt's results are kept elsewhere."""
        with contextlib.suppress(GoneError):
            await self._call("release", lambda: self._wire.end.release(remote_id), may_be_gone=True)

    async def outputs(self, remote_id: str) -> tuple[OutputFile, ...]:
        """List the outputs of an ended attempt."""
        return await self._call("outputs", lambda: self._wire.end.outputs(remote_id), may_be_gone=True)

    async def output(self, remote_id: str, path: str) -> AsyncIterator[bytes]:
        """Read one output file."""
        pieces = self._stream("output", lambda: self._wire.end.output(remote_id, path), None, may_be_gone=True)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def log(self, remote_id: str, start: int, *, follow: bool) -> AsyncIterator[bytes]:
        """Read the framed log."""
        pieces = self._stream(
            "log", lambda: self._wire.end.log(remote_id, start, follow=follow), None, may_be_gone=True
        )
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        """Cut all that is under way."""
        self._closed.set()

    def _reach(self) -> None:
        """Raise unless the listed worker is at the other end of an open wire."""
        if self._closed.is_set():
            raise NotSentError("the line to it is closed")
        if self._wire.down:
            raise NotSentError("cannot connect")
        if self._wire.end.worker_id != self.worker.worker_id:
            raise WrongIdentityError("what answers there is not the listed worker")

    async def _arrive(self, name: str) -> Fate:
        fate = self._wire.fate(name)
        self._reach()
        if not fate.arrives:
            raise NotSentError("cannot connect")
        await asyncio.sleep(0)
        if fate.delay_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(fate.delay_s):
                    await self._closed.wait()
        self._reach()
        if self._wire.refusal is not None:
            raise _as_link_error(self._wire.refusal, may_be_gone=False)
        return fate

    async def _call(self, name: str, at_worker: Callable[[], Awaitable[T]], *, may_be_gone: bool = False) -> T:
        fate = await self._arrive(name)

        async def deliver() -> T:
            answer = await at_worker()
            for _ in range(fate.copies - 1):
                answer = await at_worker()
            await asyncio.sleep(fate.reply_delay_s)
            if not fate.answered:
                raise UnansweredError("the line broke before the answer was whole")
            return answer

        try:
            async with asyncio.timeout(CALL_S):
                return await self._wire.until_cut(deliver(), self._closed)
        except PoolError as error:
            raise _as_link_error(error, may_be_gone=may_be_gone) from None
        except TimeoutError:
            raise UnansweredError("no answer in time") from None

    async def _stream(
        self,
        name: str,
        at_worker: Callable[[], AsyncIterator[T]],
        silence_s: float | None,
        *,
        may_be_gone: bool = False,
    ) -> AsyncGenerator[T, None]:
        await self._arrive(name)
        source = at_worker()
        try:
            while True:
                try:
                    async with asyncio.timeout(silence_s):
                        message = await self._wire.until_cut(_next(source), self._closed)
                except StopAsyncIteration:
                    return
                except PoolError as error:
                    raise _as_link_error(error, may_be_gone=may_be_gone) from None
                except TimeoutError:
                    raise UnansweredError("it has been silent for too long") from None
                fate = self._wire.fate("message")
                if not fate.arrives:
                    raise UnansweredError("the line broke")
                await asyncio.sleep(fate.delay_s)
                for _ in range(fate.copies):
                    if self._closed.is_set():
                        raise UnansweredError("the line broke")
                    yield message
        finally:
            if hasattr(source, "aclose"):
                await source.aclose()


async def _end(task: asyncio.Future[T]) -> None:
    """End what is under way and wait for that; a cancel of the caller meanwhile comes after it."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def _next(source: AsyncIterator[T]) -> T:
    return await anext(source)


def _as_link_error(error: PoolError, *, may_be_gone: bool) -> Exception:
    said = None if error.retry_after_s is None else str(int(error.retry_after_s))
    return of_status(error.status, msgspec.json.encode(ErrorAnswer(error.body)), said, may_be_gone=may_be_gone)
