"""`advance`: the only way a job changes.

Order: the fence, then the attempt's table, then the move, then the job's table; bookkeeping comes last, so that
whatever raises has changed nothing.
"""

import msgspec

from trusted_pool.core import happenings as h
from trusted_pool.core.job import Attempt, Job
from trusted_pool.core.tables import ATTEMPT, JOB, Move
from trusted_pool.core.words import FAULT_OF, AttemptState, JobState, OnWorkerLoss, Reason

#: Why a worker counts as lost, in the words of who is told.
_LOST = {
    Reason.WORKER_LOST: "its worker was silent for longer than the grace period",
    Reason.WORKER_REMOVED: "its worker was removed from the allowlist",
}
#: The same, of a job that stays assigned.
_HELD = {
    Reason.WORKER_LOST: "its worker is silent; it stays assigned, as its policy says",
    Reason.WORKER_REMOVED: "its worker was removed from the allowlist; it stays assigned, as its policy says",
}
#: They say nothing about the job: the next backoff is no longer for them.
_NO_BACKOFF = (Reason.WORKER_FULL, Reason.WORKER_REMOVED)


class IllegalTransitionError(Exception):
    """What happened cannot happen in this state. The job is as it was."""


class StaleAttemptError(IllegalTransitionError):
    """The happening is about an attempt that is not current any more. The job is as it was."""


def advance(job: Job, happening: h.Happening, now: float) -> Job:
    """Return the job after the happening; the same object when nothing changed.

    Raises:
        StaleAttemptError: the attempt is over or was never begun.
        IllegalTransitionError: the tables hold no such transition.
    """
    match happening:
        case h.Placed():
            return _placed(job, happening, now)
        case h.OfAttempt():
            return _of_attempt(job, happening, now)
        case h.CancelRequested():
            return _cancel_requested(job, happening, now)
        case h.Reprioritised():
            return _reprioritised(job, happening)
        case h.Expired():
            return _give_up(job, Reason.EXPIRED, "it was not started before it expired", now)
        case h.Unplaceable():
            return _give_up(job, Reason.UNPLACEABLE, happening.words, now)
        case _:
            raise IllegalTransitionError(f"unknown happening {type(happening).__name__}")


def _to(job: Job, move: Move) -> JobState:
    try:
        return JOB[job.state, move]
    except KeyError:
        raise IllegalTransitionError(f"a {job.state} job has no move {move}") from None


def _reprioritised(job: Job, event: h.Reprioritised) -> Job:
    if job.state is not JobState.QUEUED:
        raise IllegalTransitionError(f"a {job.state} job has no place in the queue")
    if job.priority == event.priority:
        return job
    return msgspec.structs.replace(job, priority=event.priority)


def _give_up(job: Job, reason: Reason, words: str, now: float) -> Job:
    """Fail a job that waits. One that a worker has is not given up: its attempt decides."""
    if job.state is not JobState.QUEUED:
        raise IllegalTransitionError(f"a {job.state} job does not wait any more")
    return _finish(job, _to(job, Move.FAIL), reason, words, now)


def _placed(job: Job, event: h.Placed, now: float) -> Job:
    if event.attempt != len(job.attempts) + 1:
        raise StaleAttemptError(f"attempt {event.attempt} cannot follow {len(job.attempts)}")
    state = _to(job, Move.PLACE)
    if job.spent >= job.retry.max_attempts:
        raise IllegalTransitionError("no attempt is left")
    attempt = Attempt(
        number=event.attempt,
        worker_id=event.worker_id,
        state=AttemptState.DISPATCHING,
        dispatched_at=now,
        spent=True,
    )
    return msgspec.structs.replace(
        job, state=state, reason=None, fault=None, detail="", not_before=0.0, attempts=(*job.attempts, attempt)
    )


def _cancel_requested(job: Job, event: h.CancelRequested, now: float) -> Job:
    if job.cancel_requested_at is not None and not job.final:
        return job
    state = _to(job, Move.CANCEL if job.state is JobState.QUEUED else Move.KEEP)
    if job.final:
        raise IllegalTransitionError(f"the job is {job.state} already")
    detail = f"cancelled by {event.by}"
    job = msgspec.structs.replace(job, cancel_requested_at=now, detail=detail)
    if state is JobState.CANCELLED:
        return _finish(job, state, Reason.CANCELLED, detail, now)
    attempt = job.attempt
    if attempt is not None and attempt.state is AttemptState.ENDED:
        return job  # what is being collected already stands
    return msgspec.structs.replace(job, state=state, reason=Reason.CANCELLING)


def _of_attempt(job: Job, event: h.OfAttempt, now: float) -> Job:
    attempt = job.attempt
    if attempt is None or event.attempt != attempt.number:
        current = attempt.number if attempt else 0
        raise StaleAttemptError(f"attempt {event.attempt} is over; {current} is the newest")
    kind = type(event).__name__
    new_state = ATTEMPT.get((attempt.state, kind))
    if new_state is None:
        error = StaleAttemptError if attempt.closed else IllegalTransitionError
        raise error(f"{kind} cannot happen to an attempt that is {attempt.state}")
    after = _attempt_after(attempt, event, new_state, now)
    # A hold is said once; and any word of the attempt after it says that the worker is back.
    held_as = job.reason if job.reason in _HELD else None
    if after == attempt and held_as is (event.reason if isinstance(event, h.Held) else None):
        return job
    move, reason, words = _decide(job, attempt, event)
    state = _to(job, move)
    job = msgspec.structs.replace(job, attempts=(*job.attempts[:-1], after))
    if move in (Move.COMPLETE, Move.FAIL, Move.CANCEL):
        return _finish(job, state, reason, words, now)
    if move is Move.REQUEUE:
        return _requeue(job, state, event, reason, words)
    if reason is None and job.reason in (Reason.CANCELLING, Reason.COLLECTING):
        reason, words = job.reason, job.detail  # a late message does not undo what is under way
    return msgspec.structs.replace(job, state=state, reason=reason, detail=words)


def _attempt_after(attempt: Attempt, event: h.OfAttempt, state: AttemptState, now: float) -> Attempt:
    changes: dict[str, object] = {"state": state}
    match event:
        case h.Accepted() if attempt.remote_id is None:
            changes |= {"remote_id": event.remote_id, "accepted_at": now}
        case h.Started() if attempt.started_at is None:
            changes |= {"started_at": event.at}
        case h.Ended() if attempt.outcome is None:
            # The list of outputs, of up to some megabytes, is kept once: in the result. Rows stay small.
            outcome = msgspec.structs.replace(event.outcome, outputs=(), more_outputs=0)
            changes |= {"outcome": outcome, "ended_at": now}
        case h.Refused() | h.NotSent():
            changes |= {"words": event.words, "spent": False, "ended_at": now}
        case h.WorkerFull():
            changes |= {"words": "full", "spent": False, "ended_at": now}
        case h.ResultsLost() | h.Interrupted():
            changes |= {"words": event.words, "ended_at": attempt.ended_at or now}
        case h.WorkerLost() | h.CancelConfirmed():
            changes |= {"ended_at": attempt.ended_at or now}
        case _:
            pass
    return msgspec.structs.replace(attempt, **changes)


def _decide(job: Job, attempt: Attempt, event: h.OfAttempt) -> tuple[Move, Reason | None, str]:
    """Say what the happening means for the job: the move, its reason, one sentence."""
    match event:
        case h.Accepted():
            return Move.KEEP, None, ""
        case h.Started():
            return Move.START, None, ""
        case h.Ended():
            return Move.END, Reason.COLLECTING, "it ended; its results are being copied"
        case h.Collected():
            return _verdict(attempt)
        case h.Held():
            return Move.KEEP, event.reason, _HELD[event.reason]
        case h.CancelConfirmed():
            return Move.CANCEL, Reason.CANCELLED, job.detail
        case h.WorkerLost():
            return _again(job, event.reason, _LOST[event.reason])
        case h.Interrupted():
            return _again(job, event.reason, event.words)
        case h.ResultsLost():
            return _again(job, Reason.RESULTS_LOST, event.words)
        case h.WorkerFull():
            return _put_back(job, Reason.WORKER_FULL, "the worker was full")
        case h.NotSent():
            return _put_back(job, Reason.WORKER_UNREACHABLE, event.words)
        case h.Refused():
            if event.others:
                return _put_back(job, Reason.WORKER_REFUSED, event.words)
            return Move.FAIL, Reason.REJECTED, event.words
        case _:
            raise IllegalTransitionError(f"no move for {type(event).__name__}")


def _verdict(attempt: Attempt) -> tuple[Move, Reason | None, str]:
    outcome = attempt.outcome
    if outcome is None:
        raise IllegalTransitionError("collected before it ended")
    if outcome.reason is None:
        return Move.COMPLETE, None, ""
    if outcome.reason is Reason.CANCELLED:
        return Move.CANCEL, Reason.CANCELLED, outcome.detail
    return Move.FAIL, outcome.reason, outcome.detail


def _again(job: Job, reason: Reason, words: str) -> tuple[Move, Reason, str]:
    """Another attempt, when somebody wants one and one is left."""
    if job.cancel_requested_at is not None:
        return Move.CANCEL, Reason.CANCELLED, job.detail or words
    if job.retry.on_worker_loss is not OnWorkerLoss.RETRY or job.spent >= job.retry.max_attempts:
        return Move.FAIL, reason, words
    return Move.REQUEUE, reason, words


def _put_back(job: Job, reason: Reason, words: str) -> tuple[Move, Reason, str]:
    """Back to the queue with no attempt spent."""
    if job.cancel_requested_at is not None:
        return Move.CANCEL, Reason.CANCELLED, job.detail or words
    return Move.REQUEUE, reason, words


def _requeue(job: Job, state: JobState, event: h.OfAttempt, reason: Reason | None, words: str) -> Job:
    request = job.request
    if isinstance(event, h.Refused):
        refused = tuple(sorted({*request.refused_by, job.attempts[-1].worker_id}))
        request = msgspec.structs.replace(request, refused_by=refused)
    return msgspec.structs.replace(
        job,
        state=state,
        reason=reason,
        detail=words,
        request=request,
        not_before=getattr(event, "not_before", 0.0),
        backoffs=job.backoffs + (reason not in _NO_BACKOFF),
    )


def _finish(job: Job, state: JobState, reason: Reason | None, words: str, now: float) -> Job:
    fault = FAULT_OF.get(reason) if reason is not None and state is JobState.FAILED else None
    return msgspec.structs.replace(
        job, state=state, reason=reason, fault=fault, detail=words, completed_at=now, not_before=0.0
    )
