"""The disk that all jobs of a worker share: how much of it is kept back, and who took what nobody can see.

Files a job holds in ways that cannot be counted (see `held`) still take space. As long as there is enough, nobody is
hurt. When less than the reserve is free, the job that may have taken more than its limit unseen is ended.
"""

import os
from typing import Protocol

import msgspec

from trusted_pool.sandbox.policy import MB

_RESERVE_BYTES = 512 * MB
_RESERVE_SHARE = 20  #: at most one part in so many of the whole


class Tenant(Protocol):
    """A job that runs, for `Room`."""

    def over_room(self, seen: int, words: str) -> None:
        """End it: `seen` bytes are missing."""


class Account(msgspec.Struct, kw_only=True):
    """What is known of one running job, in bytes."""

    tenant: Tenant
    limit: int
    free_before: int  #: when it began
    explained: int = 0  #: that was counted when it was looked at last
    unseen: bool = False  #: it has means to hold more


class Room:
    """The file system below a directory. Used in the event loop alone, except `free`."""

    def __init__(self, directory: int) -> None:
        """`directory`: an open descriptor, which must stay open."""
        self._directory = directory
        found = os.fstatvfs(directory)
        self.total = found.f_blocks * found.f_frsize
        self.reserve = min(self.total // _RESERVE_SHARE, _RESERVE_BYTES)
        self._accounts: list[Account] = []
        self._ended: Account | None = None  #: what it held is not free yet

    @property
    def offered_mb(self) -> int:
        """What a job may ever have: the whole without the reserve, however full it is now."""
        return (self.total - self.reserve) // MB

    def free(self) -> int:
        """Bytes that are free now."""
        found = os.fstatvfs(self._directory)
        return found.f_bavail * found.f_frsize

    def there_mb(self) -> int:
        """How much there is for jobs: what is free beyond the reserve, and what those that run take of it already."""
        explained = sum(account.explained for account in self._accounts)
        return max(0, self.free() + explained - self.reserve) // MB

    def enter(self, tenant: Tenant, limit: int) -> Account:
        """Open the account of a job that begins."""
        account = Account(tenant=tenant, limit=limit, free_before=self.free())
        self._accounts.append(account)
        return account

    def leave(self, account: Account) -> None:
        """Close the account of a job none of whose processes is left."""
        self._accounts.remove(account)
        if self._ended is account:
            self._ended = None

    def judge(self, free: int) -> None:
        """End a job when too little is free and somebody may hold more than is counted. One at a time."""
        if free >= self.reserve or self._ended is not None:
            return
        explained = sum(account.explained for account in self._accounts)
        found = [
            (account.free_before - free - (explained - account.explained), place)
            for place, account in enumerate(self._accounts)
            if account.unseen and account.free_before - free - (explained - account.explained) > account.limit
        ]
        if not found:
            return
        missing, place = max(found)
        self._ended = self._accounts[place]
        words = f"{missing // MB} MB of the worker's disk went while it ran that are in no file that can be counted"
        if len(found) > 1:
            words += f"; {len(found)} jobs may hold them and cannot be told apart, this one was ended as the likeliest"
        self._ended.tenant.over_room(missing, words)
