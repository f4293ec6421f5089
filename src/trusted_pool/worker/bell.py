"""A bell: many wait, one ring wakes all."""

import asyncio


class Bell:
    """Wakes those who wait for something new.

    Read `rings` before looking at what may be new, and wait with that number: a ring in between is not missed.
    """

    def __init__(self) -> None:
        self.rings = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Wake all."""
        self.rings += 1
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, seen: int, timeout_s: float | None = None) -> bool:
        """Return when `rings` has gone beyond `seen`: True; or after the timeout: False."""
        if self.rings != seen:
            return True
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(future)
        return True
