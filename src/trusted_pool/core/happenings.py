"""What can happen to a job. Each says something that is already true, in the past tense."""

import msgspec

from trusted_pool.core.job import Outcome
from trusted_pool.core.words import Reason


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all; `kind` in the tables is the class's name."""


class OfAttempt(Happening, frozen=True, kw_only=True):
    """Something about one attempt; `attempt` is its number, the fence."""

    attempt: int


class Placed(OfAttempt, frozen=True, kw_only=True):
    """The dispatcher chose a worker. `attempt` is the number of the attempt this begins."""

    worker_id: str


class Accepted(OfAttempt, frozen=True, kw_only=True):
    """The worker has it durably, under its own id."""

    remote_id: str


class Started(OfAttempt, frozen=True, kw_only=True):
    """The worker started it at `at` (the worker's clock)."""

    at: float


class Ended(OfAttempt, frozen=True, kw_only=True):
    """It ended on the worker; results are still there."""

    outcome: Outcome


class Collected(OfAttempt, frozen=True, kw_only=True):
    """Logs and outputs are in the blob store, durably."""


class ResultsLost(OfAttempt, frozen=True, kw_only=True):
    """It ended, but its results cannot be had any more."""

    words: str


class Refused(OfAttempt, frozen=True, kw_only=True):
    """The worker said no for good (a 4xx). `others` : whether another worker might say yes."""

    words: str
    others: bool


class WorkerFull(OfAttempt, frozen=True, kw_only=True):
    """The worker said 429 or 503: later. `not_before` from its Retry-After."""

    not_before: float


class NotSent(OfAttempt, frozen=True, kw_only=True):
    """No byte of the job reached the worker. `not_before` by the caller's backoff."""

    words: str
    not_before: float


class WorkerLost(OfAttempt, frozen=True, kw_only=True):
    """The worker was silent for longer than the grace, or was removed; the job's policy is retry or fail."""

    not_before: float
    reason: Reason = Reason.WORKER_LOST


class Held(OfAttempt, frozen=True, kw_only=True):
    """The worker was silent for longer than the grace, or was removed; the job's policy is to stay assigned."""

    reason: Reason = Reason.WORKER_LOST


class Interrupted(OfAttempt, frozen=True, kw_only=True):
    """The attempt is over without a result: a restart of the worker ended it, or it could not be set up."""

    words: str
    not_before: float
    reason: Reason = Reason.INTERRUPTED


class CancelRequested(Happening, frozen=True, kw_only=True):
    """The owner or an operator asked for it."""

    by: str


class CancelConfirmed(OfAttempt, frozen=True, kw_only=True):
    """The worker says that the attempt is gone or was never there."""


class Reprioritised(Happening, frozen=True, kw_only=True):
    """Somebody gave it another priority."""

    priority: int
    by: str


class Expired(Happening, frozen=True, kw_only=True):
    """`expires_at` passed before a start."""


class Unplaceable(Happening, frozen=True, kw_only=True):
    """No worker of the allowlist can ever run it any more."""

    words: str
