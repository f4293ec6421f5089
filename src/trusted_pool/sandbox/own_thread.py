"""A permanent thread that is called from an event loop.

An executor of one thread would do, at three times the cost of a call: a lock, a condition and two futures each.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")
_Call = tuple[Callable[[], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class OwnThread:
    """One thread; calls run one after the other, in their order."""

    def __init__(self, name: str, begin: Callable[[], None] | None = None) -> None:
        """`begin` is run first, in the thread. When it fails, so does every call, with its error."""
        self._begin = begin
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def call(self, work: Callable[[], _T]) -> _T:
        """Run something in the thread. What has begun goes on when the caller is cancelled.

        Raises:
            RuntimeError: it is closed.
        """
        if self._closed:
            raise RuntimeError(f"the thread {self._thread.name} was closed")
        if self._thread.ident is None:
            self._thread.start()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T] = loop.create_future()
        self._calls.put((work, answer, loop))
        return await answer

    def close(self) -> None:
        """Let it end when it has done what was asked. Idempotent."""
        if not self._closed:
            self._closed = True
            self._calls.put(None)

    def join(self) -> None:
        """Wait for its end, after `close`. Blocks."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            if self._begin is not None:
                self._begin()
        except BaseException as error:  # noqa: BLE001  # whoever calls hears it
            failure = error
        while (call := self._calls.get()) is not None:
            work, answer, loop = call
            if answer.cancelled():
                continue
            value: object = None
            raised = failure
            if failure is None:
                try:
                    value = work()
                except BaseException as error:  # noqa: BLE001  # it is the caller's
                    raised = error
            with contextlib.suppress(RuntimeError):  # that loop was closed; it is done all the same
                loop.call_soon_threadsafe(_answer, answer, value, raised)
            del call, work, answer, value, raised  # nothing is kept alive while it waits


def _answer(answer: "asyncio.Future[Any]", value: object, error: BaseException | None) -> None:
    if answer.done():
        return  # whoever asked was cancelled
    if error is None:
        answer.set_result(value)
    else:
        answer.set_exception(error)
