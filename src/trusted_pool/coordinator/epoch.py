"""Epochs: each start of a coordinator takes a higher one than all before it, by which workers tell the newest."""

from trusted_pool.ports.store import Store, Unit

EPOCH = "epoch"  #: the setting


async def next_epoch(store: Store, now: float) -> int:
    """Take the epoch of this start and keep it. Nobody may be called before.

    It is above the kept one, whatever the clock says, and at least the whole seconds since the epoch of `now`: a copy
    of this store that is started later, such as a restored backup, is newer than what went on without it.

    Raises:
        StoreError: it could not be kept.
    """
    kept = (await store.settings()).get(EPOCH, "")
    epoch = max(int(kept) + 1 if kept.isdecimal() else 1, int(now))
    await store.commit([Unit(settings={EPOCH: str(epoch)})])
    return epoch
