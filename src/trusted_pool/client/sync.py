"""The synchronous face of the client: each method runs the asynchronous one on a private loop in a thread."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from trusted_pool.client.client import AsyncPoolClient
from trusted_pool.client.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


def _call(
    method: Callable[Concatenate[AsyncPoolClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["PoolClient", P], T]:
    def face(self: "PoolClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(method(self._inner, *args, **kwargs))

    face.__name__, face.__doc__ = method.__name__, method.__doc__
    return face


def _iterate(
    method: Callable[Concatenate[AsyncPoolClient, P], AsyncIterator[T]],
) -> Callable[Concatenate["PoolClient", P], Iterator[T]]:
    def face(self: "PoolClient", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        stream = method(self._inner, *args, **kwargs)
        self._streams.append(stream)
        end = object()

        async def step() -> T | object:
            return await anext(stream, end)

        try:
            while (piece := self._run(step())) is not end:
                yield piece  # type: ignore[misc] # a T: the only other value is `end`
        finally:
            if stream in self._streams:  # else `close` ended it
                self._streams.remove(stream)
                self._run(_end(stream))

    face.__name__, face.__doc__ = method.__name__, method.__doc__
    return face


async def _end(stream: AsyncIterator[Any]) -> None:
    """Close a stream now: left to the garbage collector it would want a loop that may be gone by then."""
    if (aclose := getattr(stream, "aclose", None)) is not None:
        await aclose()


class PoolClient:
    """A client of one pool for programs without asyncio. Use it as a context manager, or call `close`.

    Its methods are AsyncPoolClient's. It may be used from several threads.
    """

    def __init__(self, settings: Settings | None = None, *, timeout_s: float = 30.0) -> None:
        """Without settings, the environment says where the pool is."""
        self._inner = AsyncPoolClient(settings, timeout_s=timeout_s)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="trusted-pool-client", daemon=True)
        self._thread.start()
        self._closed = False
        self._streams: list[AsyncIterator[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def settings(self) -> Settings:
        """Where the pool is."""
        return self._inner.settings

    def close(self) -> None:
        """Let go of connections and end the thread. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._run(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _finish(self) -> None:
        # Streams first: an iteration that was left by an exception may still be held by its traceback.
        while self._streams:
            await _end(self._streams.pop())
        await self._inner.close()
        # What these dropped on the way (generators inside of the HTTP library) ends in tasks of its own.
        await asyncio.sleep(0)
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # KeyboardInterrupt among them: the work must not go on unseen
            future.cancel()
            raise

    submit = _call(AsyncPoolClient.submit)
    status = _call(AsyncPoolClient.status)
    wait = _call(AsyncPoolClient.wait)
    logs = _call(AsyncPoolClient.logs)
    raw_log = _iterate(AsyncPoolClient.raw_log)
    follow = _iterate(AsyncPoolClient.follow)
    outputs = _call(AsyncPoolClient.outputs)
    download = _call(AsyncPoolClient.download)
    download_archive = _call(AsyncPoolClient.download_archive)
    cancel = _call(AsyncPoolClient.cancel)
    jobs = _call(AsyncPoolClient.jobs)
    pool = _call(AsyncPoolClient.pool)
    health = _call(AsyncPoolClient.health)
    try_submit = _call(AsyncPoolClient.try_submit)
    dry_run = _call(AsyncPoolClient.dry_run)
    explain = _call(AsyncPoolClient.explain)
    history = _call(AsyncPoolClient.history)
    rerun = _call(AsyncPoolClient.rerun)
    set_priority = _call(AsyncPoolClient.set_priority)
    cancel_all = _call(AsyncPoolClient.cancel_all)
    workers = _call(AsyncPoolClient.workers)
    set_duty = _call(AsyncPoolClient.set_duty)
    pause = _call(AsyncPoolClient.pause)
    whoami = _call(AsyncPoolClient.whoami)
    keys = _call(AsyncPoolClient.keys)
    create_key = _call(AsyncPoolClient.create_key)
    revoke_key = _call(AsyncPoolClient.revoke_key)
    usage = _call(AsyncPoolClient.usage)
    limits = _call(AsyncPoolClient.limits)
    set_limits = _call(AsyncPoolClient.set_limits)
    audit = _call(AsyncPoolClient.audit)
    export_audit = _iterate(AsyncPoolClient.export_audit)
    add_worker = _call(AsyncPoolClient.add_worker)
    remove_worker = _call(AsyncPoolClient.remove_worker)
    reload_workers = _call(AsyncPoolClient.reload_workers)
