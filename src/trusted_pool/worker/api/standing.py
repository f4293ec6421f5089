"""Requests that are being answered, by pool: those of a pool that is out, or of an older epoch, are cut at once.

Event streams and followed logs have no end of their own, and a download may be long: what is checked only when a
request begins would leave them open.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trusted_pool.worker.pools import Pools


class _Answering:
    """One request."""

    def __init__(self, epoch: int | None, hang_up: Callable[[], None]) -> None:
        self.epoch = epoch
        self.hang_up = hang_up


class Standing:
    """All requests that are being answered."""

    def __init__(self, pools: Pools) -> None:
        self._open: dict[str, set[_Answering]] = {}
        pools.on_out.append(self._cut)
        pools.on_newer.append(self._cut)

    @contextmanager
    def answering(self, pool_id: str, epoch: int | None, hang_up: Callable[[], None]) -> Iterator[None]:
        """Count a request in. `hang_up` ends its connection."""
        one = _Answering(epoch, hang_up)
        all_of_it = self._open.setdefault(pool_id, set())
        all_of_it.add(one)
        try:
            yield
        finally:
            all_of_it.discard(one)
            if not all_of_it:
                self._open.pop(pool_id, None)

    def _cut(self, pool_id: str, newest: int | None = None) -> None:
        """End all of a pool, or those that said an older epoch."""
        for one in list(self._open.get(pool_id, ())):
            if newest is None or (one.epoch is not None and one.epoch < newest):
                one.hang_up()
