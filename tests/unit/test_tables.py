"""The state machines are whole: every pair of state and happening has one answer, and nothing leaves a final state."""

import importlib.util
from pathlib import Path

import pytest

from trusted_pool.core import happenings as h
from trusted_pool.core.advance import IllegalTransitionError, StaleAttemptError, advance
from trusted_pool.core.invariants import broken
from trusted_pool.core.job import Attempt, Job, Outcome, Retry
from trusted_pool.core.request import Request
from trusted_pool.core.retry import on_removal
from trusted_pool.core.tables import ATTEMPT, JOB, OF_ATTEMPT, OF_JOB, Move
from trusted_pool.core.words import (
    ATTEMPT_FINAL,
    FAULT_OF,
    JOB_FINAL,
    AttemptState,
    Fault,
    JobState,
    OnWorkerLoss,
    Reason,
)

ROOT = Path(__file__).parents[2]
A, J = AttemptState, JobState

#: One of each happening of an attempt, about attempt 1.
OF_ATTEMPT_1: dict[str, h.OfAttempt] = {
    "Accepted": h.Accepted(attempt=1, remote_id="job-1"),
    "Started": h.Started(attempt=1, at=2.0),
    "Ended": h.Ended(attempt=1, outcome=Outcome(exit_code=0)),
    "Collected": h.Collected(attempt=1),
    "ResultsLost": h.ResultsLost(attempt=1, words="gone"),
    "Refused": h.Refused(attempt=1, words="no", others=True),
    "WorkerFull": h.WorkerFull(attempt=1, not_before=3.0),
    "NotSent": h.NotSent(attempt=1, words="down", not_before=3.0),
    "WorkerLost": h.WorkerLost(attempt=1, not_before=3.0),
    "Held": h.Held(attempt=1),
    "Interrupted": h.Interrupted(attempt=1, words="restart", not_before=3.0),
    "CancelConfirmed": h.CancelConfirmed(attempt=1),
}


def queued(**changes: object) -> Job:
    fields: dict[str, object] = {
        "job_id": "pool-0",
        "owner": "local",
        "state": J.QUEUED,
        "reason": Reason.SUBMITTED,
        "manifest": "{}",
        "request": Request(interpreter="python3"),
        "submitted_at": 1.0,
    }
    return Job(**(fields | changes))


def job_with(state: AttemptState) -> Job:
    """Return a job whose only attempt is in this state, as the pool can have it."""
    steps: dict[AttemptState, list[str]] = {
        A.DISPATCHING: [],
        A.ACCEPTED: ["Accepted"],
        A.RUNNING: ["Accepted", "Started"],
        A.ENDED: ["Accepted", "Started", "Ended"],
        A.COLLECTED: ["Accepted", "Started", "Ended", "Collected"],
        A.REFUSED: ["Refused"],
        A.LOST: ["WorkerLost"],
        A.INTERRUPTED: ["Accepted", "Interrupted"],
        A.CANCELLED: ["CancelConfirmed"],
    }
    job = advance(queued(), h.Placed(attempt=1, worker_id="w"), 2.0)
    for kind in steps[state]:
        job = advance(job, OF_ATTEMPT_1[kind], 3.0)
    assert job.attempts[0].state is state
    return job


def test_the_tables_name_only_happenings_that_exist():
    kinds = {name for name, value in vars(h).items() if isinstance(value, type) and issubclass(value, h.Happening)}
    assert kinds - {"Happening", "OfAttempt"} == {*OF_ATTEMPT, *OF_JOB}
    assert set(OF_ATTEMPT) == set(OF_ATTEMPT_1)


@pytest.mark.parametrize("state", list(AttemptState))
@pytest.mark.parametrize("kind", sorted(OF_ATTEMPT_1))
def test_every_pair_of_attempt_state_and_happening_has_one_answer(state: AttemptState, kind: str):
    job = job_with(state)
    target = ATTEMPT.get((state, kind))
    if target is None:
        with pytest.raises(IllegalTransitionError) as raised:
            advance(job, OF_ATTEMPT_1[kind], 9.0)
        assert isinstance(raised.value, StaleAttemptError) == (state in ATTEMPT_FINAL)
    else:
        after = advance(job, OF_ATTEMPT_1[kind], 9.0)
        assert after.attempts[0].state is target
        assert broken(after) == []


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("move", list(Move))
def test_every_pair_of_job_state_and_move_is_decided(state: JobState, move: Move):
    target = JOB.get((state, move))
    if state in JOB_FINAL:
        assert target in (None, state)
    elif move is Move.PLACE:
        assert (target is J.DISPATCHED) == (state is J.QUEUED)
    elif move is Move.REQUEUE:
        assert (target is J.QUEUED) == (state in (J.DISPATCHED, J.RUNNING))
    elif move in (Move.CANCEL, Move.FAIL):
        assert target in JOB_FINAL


def test_nothing_leaves_a_final_state():
    assert all(b in JOB_FINAL for (a, _), b in JOB.items() if a in JOB_FINAL)
    assert all(b is a for (a, _), b in ATTEMPT.items() if a in ATTEMPT_FINAL)


def test_every_reason_of_a_failure_says_whose_fault_it_is():
    waiting = {
        Reason.SUBMITTED,
        Reason.WORKER_FULL,
        Reason.WORKER_REFUSED,
        Reason.WORKER_UNREACHABLE,
        Reason.COLLECTING,
        Reason.CANCELLING,
    }
    assert set(Reason) == waiting | set(FAULT_OF)


def test_a_stale_attempt_changes_nothing():
    job = advance(job_with(A.LOST), h.Placed(attempt=2, worker_id="v"), 5.0)
    for kind, event in OF_ATTEMPT_1.items():
        with pytest.raises(StaleAttemptError):
            advance(job, event, 9.0)
        assert job.attempts[1].state is A.DISPATCHING, kind


def test_a_job_with_one_attempt_is_never_placed_twice():
    once = queued(retry=Retry(max_attempts=1))
    job = advance(advance(once, h.Placed(attempt=1, worker_id="w"), 2.0), OF_ATTEMPT_1["WorkerLost"], 9.0)
    assert (job.state, job.reason) == (J.FAILED, Reason.WORKER_LOST)
    with pytest.raises(IllegalTransitionError):
        advance(job, h.Placed(attempt=2, worker_id="w"), 9.0)


@pytest.mark.parametrize(
    ("policy", "kind", "state"),
    [
        (OnWorkerLoss.RETRY, "WorkerLost", J.QUEUED),
        (OnWorkerLoss.FAIL, "WorkerLost", J.FAILED),
        (OnWorkerLoss.HOLD, "Held", J.RUNNING),
        (OnWorkerLoss.RETRY, "Interrupted", J.QUEUED),
        (OnWorkerLoss.HOLD, "Interrupted", J.FAILED),
    ],
)
def test_the_retry_policy_decides_after_a_loss(policy: OnWorkerLoss, kind: str, state: JobState):
    job = advance(queued(retry=Retry(on_worker_loss=policy)), h.Placed(attempt=1, worker_id="w"), 2.0)
    job = advance(advance(job, OF_ATTEMPT_1["Accepted"], 2.0), OF_ATTEMPT_1["Started"], 2.0)
    assert advance(job, OF_ATTEMPT_1[kind], 9.0).state is state


@pytest.mark.parametrize("policy", list(OnWorkerLoss))
@pytest.mark.parametrize("cancelled", [False, True])
def test_a_removal_is_a_loss_at_once_and_the_operators_doing(policy: OnWorkerLoss, cancelled: bool):
    job = advance(queued(retry=Retry(on_worker_loss=policy)), h.Placed(attempt=1, worker_id="w"), 2.0)
    job = advance(advance(job, OF_ATTEMPT_1["Accepted"], 2.0), OF_ATTEMPT_1["Started"], 2.0)
    if cancelled:
        job = advance(job, h.CancelRequested(by="local"), 3.0)
    after = advance(job, on_removal(job), 9.0)
    state = {OnWorkerLoss.RETRY: J.QUEUED, OnWorkerLoss.FAIL: J.FAILED, OnWorkerLoss.HOLD: J.RUNNING}[policy]
    assert after.state is (J.CANCELLED if cancelled else state)
    assert broken(after) == []
    if not cancelled:
        assert after.reason is Reason.WORKER_REMOVED
        assert "removed from the allowlist" in after.detail
        assert after.fault is (Fault.OPERATOR if policy is OnWorkerLoss.FAIL else None)
        assert (after.not_before, after.backoffs) == (0.0, 0), "the job has done nothing to wait for"


def test_a_hold_is_said_once_for_each_thing_that_happened_to_its_worker():
    held = job = advance(job_with(A.RUNNING), h.Held(attempt=1), 4.0)
    assert advance(held, h.Held(attempt=1), 5.0) is held
    removed = advance(job, h.Held(attempt=1, reason=Reason.WORKER_REMOVED), 6.0)
    assert (removed.reason, job.reason) == (Reason.WORKER_REMOVED, Reason.WORKER_LOST)
    assert removed.detail != held.detail
    assert advance(removed, h.Held(attempt=1, reason=Reason.WORKER_REMOVED), 7.0) is removed
    back = advance(removed, OF_ATTEMPT_1["Started"], 8.0)
    assert (back.reason, back.state) == (None, J.RUNNING)


@pytest.mark.parametrize("kind", ["WorkerFull", "NotSent", "Refused"])
def test_what_never_ran_spends_no_attempt(kind: str):
    job = advance(queued(), h.Placed(attempt=1, worker_id="w"), 2.0)
    job = advance(job, OF_ATTEMPT_1[kind], 3.0)
    assert (job.state, job.spent) == (J.QUEUED, 0)


def test_a_cancel_wins_over_another_attempt():
    for kind in ("WorkerLost", "Interrupted", "NotSent", "WorkerFull", "Refused"):
        job = advance(queued(), h.Placed(attempt=1, worker_id="w"), 2.0)
        job = advance(job, h.CancelRequested(by="local"), 2.5)
        assert advance(job, OF_ATTEMPT_1[kind], 3.0).state is J.CANCELLED


def test_an_end_that_came_before_the_cancel_stands():
    job = advance(job_with(A.ENDED), h.CancelRequested(by="local"), 9.0)
    assert advance(job, OF_ATTEMPT_1["Collected"], 9.0).state is J.COMPLETED


def test_only_waiting_jobs_are_given_up():
    for event in (h.Expired(), h.Unplaceable(words="nobody")):
        assert advance(queued(), event, 9.0).state is J.FAILED
        with pytest.raises(IllegalTransitionError):
            advance(job_with(A.RUNNING), event, 9.0)


def test_the_page_of_states_is_made_from_the_tables():
    spec = importlib.util.spec_from_file_location("states", ROOT / "scripts" / "states.py")
    assert spec is not None
    assert spec.loader is not None
    states = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(states)
    assert (ROOT / "docs" / "states.md").read_text() == states.render()


def test_an_attempt_closed_is_one_that_the_table_never_leaves():
    for state in AttemptState:
        attempt = Attempt(number=1, worker_id="w", state=state, dispatched_at=1.0)
        leaves = any(b is not state for (a, _), b in ATTEMPT.items() if a is state)
        assert attempt.closed != leaves
