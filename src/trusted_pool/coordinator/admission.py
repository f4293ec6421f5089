"""Who may begin what: submits, uploads, downloads and long polls, each within the limits of its owner.

Counted in memory is what is under way; what is kept is counted by the store. A small submit is judged by the commit
that keeps it, so that it costs no question; whoever was refused there is asked about before his next is read.
"""

import asyncio
import contextlib
from collections.abc import Iterator

import msgspec

from trusted_pool.coordinator import refusals
from trusted_pool.coordinator.contents import SMALL_BYTES, Contents
from trusted_pool.coordinator.intake import Account, Intake, Upload
from trusted_pool.coordinator.owner_limits import OwnerLimits
from trusted_pool.core.job import Job
from trusted_pool.core.limits import Bucket, Limits, OwnerUsage, beyond_bytes, beyond_queue
from trusted_pool.ports.clock import Clock
from trusted_pool.ports.store import Store
from trusted_pool.protocol.errors import OverQuotaError, PoolError, TooManyError

#: How much longer the answer to a refused submit takes for each other that waits for its own.
HOLD_S = 0.02
LONGEST_HOLD_S = 5.0


class UnderWay(msgspec.Struct, frozen=True, kw_only=True):
    """What an owner has under way."""

    transfers: int = 0
    waits: int = 0
    staged: int = 0  #: bytes
    submits_left: int | None = None  #: that it may send at once; None: any number


class Admission:
    """Keeps an account of each owner that has something under way. There are as many as owners of keys."""

    def __init__(self, *, store: Store, contents: Contents, limits: OwnerLimits, clock: Clock) -> None:
        self._store = store
        self._contents = contents
        self._plain = Intake(contents)
        self._limits = limits
        self._clock = clock
        self._accounts: dict[str, Account] = {}

    def _account(self, owner: str) -> Account:
        account = self._accounts.get(owner)
        if account is None:
            account = self._accounts[owner] = Account(owner)
        return account

    def noticed(self, _before: Job | None, after: Job) -> None:
        """Take note that what an owner has may have changed."""
        account = self._accounts.get(after.owner)
        if account is not None:
            account.changed()

    async def _usage(self, account: Account) -> OwnerUsage:
        """Return what an owner has, asked for again only after a change."""
        while account.usage is None:
            age = account.age
            usage = await self._store.usage(account.owner)
            if age == account.age:
                account.usage = usage
        return account.usage

    async def submit(self, owner: str, length: int | None, key: str | None = None, *, dry: bool = False) -> Intake:
        """Let a submit begin whose body has this length (None: not said); its `end` must be called.

        `key`: of idempotency. What was submitted before is answered even beyond a limit. `dry`: no job is meant.

        Raises:
            TooManyError, OverQuotaError: the owner is at a limit.
        """
        try:
            return await self._begin(owner, length, key, dry=dry)
        except (TooManyError, OverQuotaError):
            await self._hold_back(self._account(owner))
            raise

    async def _hold_back(self, account: Account) -> None:
        """Let the answers to an owner's refused submits take the longer, the more of them there are.

        Whoever tries again as fast as he can would else be as heavy for the others as if he were let in.
        """
        account.refusing += 1
        try:
            await asyncio.sleep(min(LONGEST_HOLD_S, (account.refusing - 1) * HOLD_S))
        finally:
            account.refusing -= 1

    async def _begin(self, owner: str, length: int | None, key: str | None, *, dry: bool) -> Intake:
        limits = self._limits.of(owner)
        small = length is not None and length <= SMALL_BYTES
        again = None if key is None else await self._known(owner, key)
        if again is None:
            self._take_token(owner, limits)
            if small and ((account := self._accounts.get(owner)) is None or not account.refused or dry):
                return self._plain
        elif small:
            return self._plain
        account = self._account(owner)
        usage = await self._usage(account)
        if again is None and not dry:
            if beyond := beyond_queue(limits, usage, account.uploads):
                raise refusals.too_many_queued(owner, beyond)
            if small and (beyond := beyond_bytes(limits, usage, account.staged, 1)):
                raise refusals.over_quota(owner, beyond)
            account.refused = False
        if small:
            return self._plain
        return self._upload(account, limits, usage, length, again)

    async def _known(self, owner: str, key: str) -> Job | None:
        """Return the job that a key was used for."""
        held = await self._store.idempotency(owner, key, self._clock.now())
        row = None if held is None else await self._store.job(held.job_id)
        return None if row is None else row.job

    def _take_token(self, owner: str, limits: Limits) -> None:
        if not limits.submits_per_minute:
            return
        account, now = self._account(owner), self._clock.now()
        if account.bucket is None:
            account.bucket = Bucket(limits.submits_per_minute, now)
        if wait_s := account.bucket.take(limits.submits_per_minute, now):
            raise refusals.too_fast(owner, limits.submits_per_minute, wait_s)

    def _upload(
        self, account: Account, limits: Limits, usage: OwnerUsage, length: int | None, again: Job | None
    ) -> Intake:
        """Begin an upload of more than a small file."""
        self._may_transfer(account, limits)
        beyond = beyond_bytes(limits, usage, account.staged, length or 1)
        room = 0
        if beyond and again is None:
            raise refusals.over_quota(account.owner, beyond)
        if beyond and again is not None:
            # What comes should be there already. It is looked at all the same, one at a time and no more than that.
            if account.again:
                raise refusals.too_many_transfers(account.owner, 1)
            room = sum(file.size for file in again.inputs)
        return Upload(self._contents, account, self._limits, self._usage, room=room)

    def _may_transfer(self, account: Account, limits: Limits) -> None:
        if limits.transfers and account.transfers >= limits.transfers:
            raise refusals.too_many_transfers(account.owner, limits.transfers)

    def resubmit(self, owner: str) -> None:
        """Take a token for a job whose files are here already. Raises TooFastError."""
        self._take_token(owner, self._limits.of(owner))

    async def refused(self, owner: str, conflict: str, needed: int) -> PoolError:
        """Return what is said of a job that was not kept because of a cap. `needed`: its bytes at most."""
        account, limits = self._account(owner), self._limits.of(owner)
        account.refused = True
        account.changed()
        usage = await self._usage(account)
        if conflict == "bytes":
            beyond = beyond_bytes(limits, usage, 0, needed) or refusals.at_least(usage.bytes, limits.bytes, needed)
            return refusals.over_quota(owner, beyond)
        beyond = beyond_queue(limits, usage) or refusals.at_least(usage.queued, limits.queued, 1)
        return refusals.too_many_queued(owner, beyond)

    @contextlib.contextmanager
    def wait(self, owner: str) -> Iterator[None]:
        """Count a long poll or a followed log. Raises TooManyWaitsError."""
        account, limits = self._account(owner), self._limits.of(owner)
        if limits.waits and account.waits >= limits.waits:
            raise refusals.too_many_waits(owner, limits.waits)
        account.waits += 1
        try:
            yield
        finally:
            account.waits -= 1

    @contextlib.contextmanager
    def download(self, owner: str) -> Iterator[None]:
        """Count a download of more than a small file. Raises TooManyTransfersError."""
        account = self._account(owner)
        self._may_transfer(account, self._limits.of(owner))
        account.downloads += 1
        try:
            yield
        finally:
            account.downloads -= 1

    def under_way(self, owner: str) -> UnderWay:
        """Return what an owner has under way."""
        account, per_minute = self._accounts.get(owner), self._limits.of(owner).submits_per_minute
        if account is None:
            return UnderWay(submits_left=per_minute or None)
        left: int | None = None
        if per_minute:
            left = per_minute if account.bucket is None else account.bucket.left(per_minute, self._clock.now())
        return UnderWay(transfers=account.transfers, waits=account.waits, staged=account.staged, submits_left=left)
