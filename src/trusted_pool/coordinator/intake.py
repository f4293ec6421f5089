"""The bytes of one submit on their way in, counted while they come."""

from collections.abc import Awaitable, Callable

from trusted_pool.coordinator import refusals
from trusted_pool.coordinator.contents import Contents
from trusted_pool.coordinator.owner_limits import OwnerLimits
from trusted_pool.core.limits import Bucket, OwnerUsage, beyond_bytes
from trusted_pool.ports.blobs import Stage, Staged


class Account:
    """What an owner has under way, and what it is known to have kept. Mutable."""

    __slots__ = (
        "again",
        "age",
        "bucket",
        "downloads",
        "owner",
        "refused",
        "refusing",
        "staged",
        "uploads",
        "usage",
        "waits",
    )

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.uploads = 0  #: of more than a small file; each will be a job
        self.downloads = 0
        self.waits = 0
        self.staged = 0  #: bytes of uploads
        self.again = False  #: one of them is of a job that is there already, beyond the limit of bytes
        self.bucket: Bucket | None = None
        self.refused = False  #: the last commit met a cap: the next submit is judged before it is read
        self.refusing = 0  #: refused submits that are not answered yet
        self.usage: OwnerUsage | None = None
        self.age = 0

    def changed(self) -> None:
        """Forget what is kept, since that has changed."""
        self.usage = None
        self.age += 1

    @property
    def transfers(self) -> int:
        """Uploads and downloads."""
        return self.uploads + self.downloads


class Intake:
    """A submit that is too small to be counted. `end` must be called."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    async def stage(self) -> Stage:
        """Begin a file. Raises BlobsFullError, BlobsError."""
        return await self._contents.stage()

    def end(self) -> None:
        """End it: its bytes are kept now, or gone. Idempotent."""


class Upload(Intake):
    """A submit whose bytes count from the moment they come."""

    def __init__(
        self,
        contents: Contents,
        account: Account,
        limits: OwnerLimits,
        usage_of: Callable[[Account], Awaitable[OwnerUsage]],
        *,
        room: int,
    ) -> None:
        """`room`: bytes that it may bring although its owner is at its limit."""
        super().__init__(contents)
        self._account = account
        self._limits = limits
        self._usage_of = usage_of
        self._room = room
        self._staged = 0
        self._ended = False
        account.uploads += 1
        account.again |= room > 0

    async def stage(self) -> Stage:
        """Begin a file. Raises BlobsFullError, BlobsError."""
        return CountedStage(await self._contents.stage_for(self._account.owner), self)

    async def grow(self, size: int) -> None:
        """Count bytes before they are written. Raises OverQuotaError."""
        account = self._account
        if self._staged + size > self._room:
            usage = await self._usage_of(account)
            if beyond := beyond_bytes(self._limits.of(account.owner), usage, account.staged, size):
                raise refusals.over_quota(account.owner, beyond)
        self._staged += size
        account.staged += size

    def end(self) -> None:
        """End it: its bytes are kept now, or gone. Idempotent."""
        if not self._ended:
            self._ended = True
            self._account.uploads -= 1
            self._account.staged -= self._staged
            if self._room:
                self._account.again = False


class CountedStage:
    """A stage whose bytes are counted before they are written."""

    def __init__(self, stage: Stage, upload: Upload) -> None:
        self._stage = stage
        self._upload = upload

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._stage.size

    async def write(self, data: bytes) -> None:
        """Append. Raises OverQuotaError, BlobsFullError, BlobsError."""
        await self._upload.grow(len(data))
        await self._stage.write(data)

    async def finish(self) -> Staged:
        """End the writing. Raises BlobsFullError, BlobsError."""
        return await self._stage.finish()

    async def abort(self) -> None:
        """Forget it."""
        await self._stage.abort()
