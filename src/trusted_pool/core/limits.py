"""What one owner may have of the pool at once, and what happens at the limit."""

import math
from collections.abc import Mapping

import msgspec

NO_LIMIT = 0
MINUTE_S = 60.0


class OwnerUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What an owner has of the pool now, kept in the transactions that change it."""

    owner: str
    queued: int = 0  #: jobs that wait
    running: int = 0  #: jobs that are dispatched or running
    bytes: int = 0  #: the blobs that its jobs refer to, each once, and the jobs' manifests and results


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one owner may have. 0: no limit."""

    queued: int = NO_LIMIT  #: jobs that wait; more are refused
    running: int = NO_LIMIT  #: jobs that are dispatched or running; more wait
    bytes: int = NO_LIMIT  #: of `OwnerUsage.bytes` and of uploads under way; more are refused
    submits_per_minute: int = NO_LIMIT  #: in the long run; and as many at once after a minute without any
    transfers: int = NO_LIMIT  #: uploads and downloads of more than a small file, at once
    waits: int = NO_LIMIT  #: long polls and followed logs, at once


class LimitsChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is said for one owner in place of the usual limits. None: the usual one."""

    queued: int | None = None
    running: int | None = None
    bytes: int | None = None
    submits_per_minute: int | None = None
    transfers: int | None = None
    waits: int | None = None

    def over(self, usual: Limits) -> Limits:
        """Return the limits that hold for the owner."""
        said = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        return msgspec.structs.replace(usual, **said)


class RunningCaps(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs of each owner may be dispatched or running. None: any number."""

    usual: int | None = None
    of: Mapping[str, int | None] = {}  #: for these owners, in place of `usual`

    def cap(self, owner: str) -> int | None:
        """Return the cap of an owner."""
        return self.of.get(owner, self.usual)


class Beyond(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants and may not have."""

    used: int
    allowed: int
    needed: int = 1


def cap(limit: int) -> int | None:
    """Return a limit as a cap: None for no limit."""
    return None if limit == NO_LIMIT else limit


def beyond_queue(limits: Limits, usage: OwnerUsage, coming: int = 0) -> Beyond | None:
    """Say whether one more job in the queue is too many. `coming`: the owner's uploads that will be jobs."""
    if limits.queued == NO_LIMIT or usage.queued + coming < limits.queued:
        return None
    return Beyond(used=usage.queued + coming, allowed=limits.queued)


def beyond_bytes(limits: Limits, usage: OwnerUsage, staged: int, needed: int) -> Beyond | None:
    """Say whether so many bytes more are too many. `staged`: what the owner's uploads hold that are no jobs yet."""
    if limits.bytes == NO_LIMIT or usage.bytes + staged + needed <= limits.bytes:
        return None
    return Beyond(used=usage.bytes + staged, allowed=limits.bytes, needed=needed)


class Bucket:
    """A token bucket: a minute's submits at once, then at their rate. Mutable; `now` in seconds."""

    __slots__ = ("_at", "_per_minute", "_tokens")

    def __init__(self, per_minute: int, now: float) -> None:
        self._per_minute = per_minute
        self._tokens = float(per_minute)
        self._at = now

    def _fill(self, per_minute: int, now: float) -> None:
        """Let time pass, in which the rate may have been changed."""
        if per_minute != self._per_minute:
            self._tokens += max(0, per_minute - self._per_minute)
            self._per_minute = per_minute
        passed_s = max(0.0, now - self._at)
        self._tokens = min(per_minute, self._tokens + passed_s * per_minute / MINUTE_S)
        self._at = now

    def take(self, per_minute: int, now: float) -> float:
        """Take one token and return 0, or return the seconds until there is one."""
        self._fill(per_minute, now)
        if self._tokens < 1:
            return (1 - self._tokens) * MINUTE_S / per_minute
        self._tokens -= 1
        return 0.0

    def left(self, per_minute: int, now: float) -> int:
        """Return how many tokens there are."""
        self._fill(per_minute, now)
        return math.floor(self._tokens)
