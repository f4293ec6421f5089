"""Who wants to know when a job changes, and how they are told."""

import asyncio
from collections.abc import Callable

from trusted_pool.core.job import Job

#: Called after a commit with the job before (None when new) and after it. Never blocks and never raises.
OnChange = Callable[[Job | None, Job], None]


class Bulletin:
    """Tells listeners of every committed change, and wakes those who wait for one job."""

    def __init__(self) -> None:
        self._listeners: list[OnChange] = []
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self.closed = False

    def listen(self, listener: OnChange) -> None:
        """Have the listener called after every committed change."""
        self._listeners.append(listener)

    def publish(self, before: Job | None, after: Job) -> None:
        """Tell all."""
        for listener in self._listeners:
            listener(before, after)
        for future in self._waiting.pop(after.job_id, ()):
            if not future.done():
                future.set_result(None)

    async def wait(self, job_id: str, timeout_s: float) -> bool:
        """Wait for the job's next change; False when none came in time.

        A caller that looks at the job first must begin to wait before it looks: see `expect`.
        """
        return await self.until(self.expect(job_id), job_id, timeout_s)

    def expect(self, job_id: str) -> asyncio.Future[None]:
        """Begin to wait: every change from now on is noticed by `until`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.closed:
            future.cancel()
            return future
        self._waiting.setdefault(job_id, set()).add(future)
        return future

    async def until(self, future: asyncio.Future[None], job_id: str, timeout_s: float) -> bool:
        """Wait for what `expect` began."""
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        except asyncio.CancelledError:
            if not self.closed or not future.cancelled():
                raise
            return False  # nobody is told any more
        else:
            return True
        finally:
            self.forget(future, job_id)

    def hang_up(self) -> None:
        """Let everybody who waits go, now and from now on: the pool is about to stop."""
        self.closed = True
        for waiting in self._waiting.values():
            for future in waiting:
                future.cancel()

    def forget(self, future: asyncio.Future[None], job_id: str) -> None:
        """End what `expect` began."""
        waiting = self._waiting.get(job_id)
        if waiting is not None:
            waiting.discard(future)
            if not waiting:
                del self._waiting[job_id]
