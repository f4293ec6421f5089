"""What is said to an owner that is at a limit: how much there is, how much may be, and what to do."""

from trusted_pool.core.limits import Beyond
from trusted_pool.protocol import sizes
from trusted_pool.protocol.errors import (
    OverQuotaError,
    TooFastError,
    TooManyQueuedError,
    TooManyTransfersError,
    TooManyWaitsError,
)

QUEUED_S = 10.0
TRANSFERS_S = 2.0
WAITS_S = 5.0


def at_least(used: int, allowed: int, needed: int) -> Beyond:
    """Say that it is too much, by figures that may have changed since that was found."""
    return Beyond(used=used, allowed=allowed, needed=needed)


def _detail(owner: str, beyond: Beyond) -> dict[str, object]:
    return {"owner": owner, "used": beyond.used, "limit": beyond.allowed, "needed": beyond.needed}


def too_many_queued(owner: str, beyond: Beyond) -> TooManyQueuedError:
    """No more jobs may wait."""
    return TooManyQueuedError(
        f"{owner} has {beyond.used} jobs queued and may have {beyond.allowed}",
        hint="wait until some have started, or cancel some: tpool cancel --state queued; "
        f"an admin may allow more: tpool limits set {owner} queued=N",
        retry_after_s=QUEUED_S,
        detail=_detail(owner, beyond),
    )


def too_fast(owner: str, per_minute: int, wait_s: float) -> TooFastError:
    """The minute's submits are used up."""
    return TooFastError(
        f"{owner} may submit {per_minute} jobs a minute",
        hint=f"try again in {wait_s:.1f} s; an admin may allow more: tpool limits set {owner} submits-per-minute=N",
        retry_after_s=wait_s,
        detail={"owner": owner, "limit": per_minute},
    )


def over_quota(owner: str, beyond: Beyond) -> OverQuotaError:
    """No more bytes may be kept."""
    needs = f"at least {beyond.needed} bytes" if beyond.needed < sizes.KILO else sizes.say(beyond.needed)
    return OverQuotaError(
        f"{owner} uses {sizes.say(beyond.used)} and may use {sizes.say(beyond.allowed)}; this needs {needs} more",
        hint="send less, or see what is kept: tpool usage; "
        f"an admin may allow more: tpool limits set {owner} bytes=SIZE",
        detail=_detail(owner, beyond),
    )


def too_many_transfers(owner: str, allowed: int) -> TooManyTransfersError:
    """No more uploads and downloads may be under way."""
    return TooManyTransfersError(
        f"{owner} has {allowed} uploads and downloads under way and may have no more",
        hint=f"wait for one to end; an admin may allow more: tpool limits set {owner} transfers=N",
        retry_after_s=TRANSFERS_S,
        detail={"owner": owner, "limit": allowed},
    )


def too_many_waits(owner: str, allowed: int) -> TooManyWaitsError:
    """No more requests may wait for news."""
    return TooManyWaitsError(
        f"{owner} has {allowed} long polls and followed logs, and may have no more",
        hint=f"let some go; an admin may allow more: tpool limits set {owner} waits=N",
        retry_after_s=WAITS_S,
        detail={"owner": owner, "limit": allowed},
    )
