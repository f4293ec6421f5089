"""When a job is tried again, and what its policy says about a lost worker."""

from trusted_pool.core import happenings as h
from trusted_pool.core.job import Job
from trusted_pool.core.words import OnWorkerLoss, Reason

FIRST_S = 1.0
LONGEST_S = 300.0


def backoff_s(times: int, jitter: float) -> float:
    """How long to wait before try number `times` + 1: 1 s doubled each time, at most 300 s.

    `jitter` in [0, 1) spreads it over the upper half of that span.
    """
    span = min(LONGEST_S, FIRST_S * 2.0 ** min(times, 16))
    return span * (0.5 + 0.5 * jitter)


def on_loss(job: Job, now: float, jitter: float) -> h.OfAttempt:
    """What a worker's silence beyond the grace means for a job that is assigned to it."""
    return _loss(job, Reason.WORKER_LOST, now + backoff_s(job.backoffs, jitter))


def on_removal(job: Job) -> h.OfAttempt:
    """What it means for a job that its worker was taken off the allowlist: lost at once, and no reason to wait."""
    return _loss(job, Reason.WORKER_REMOVED, 0.0)


def _loss(job: Job, reason: Reason, not_before: float) -> h.OfAttempt:
    attempt = job.attempt
    if attempt is None:
        raise ValueError("a job without an attempt has no worker to lose")
    if job.retry.on_worker_loss is OnWorkerLoss.HOLD and job.cancel_requested_at is None:
        return h.Held(attempt=attempt.number, reason=reason)
    return h.WorkerLost(attempt=attempt.number, not_before=not_before, reason=reason)
