"""Keys of a coordinator that does not run: by whoever has its data directory."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from trusted_pool.compose.coordinator import pool_key
from trusted_pool.compose.head_file import HeadFile
from trusted_pool.compose.system import StartError, SystemClock, SystemDice
from trusted_pool.coordinator.audit import Audit
from trusted_pool.coordinator.keys import Keys
from trusted_pool.ports.store import StoreError, StoreInUseError
from trusted_pool.protocol.identity import identity_of
from trusted_pool.store.sqlite import SqliteStore

T = TypeVar("T")


def with_keys(data: Path, work: Callable[[Keys], Awaitable[T]]) -> T:
    """Do something with the keys in a data directory, which is made when it is missing.

    Raises:
        StartError: the directory cannot be used, or a coordinator runs there.
        PoolError: what the work raises.
    """
    key = pool_key(data)

    async def run() -> T:
        store = SqliteStore.open(data / "coordinator.db")
        clock, dice = SystemClock(), SystemDice()
        head = HeadFile(data / "audit.head")
        audit = Audit(store=store, clock=clock, dice=dice, pool_id=identity_of(key), sign=key.sign, anchor=head)
        keys = Keys(store=store, audit=audit, clock=clock, dice=dice, without_key=None)
        try:
            await audit.start()
            await keys.start()
            return await work(keys)
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except StoreInUseError:
        raise StartError(f"a coordinator runs on {data}: leave out --data and ask it, with an admin's key") from None
    except StoreError as error:
        raise StartError(str(error)) from None
