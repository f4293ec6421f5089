"""Any sequence of happenings, right or wrong, keeps the invariants; what is illegal changes nothing."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from trusted_pool.core import happenings as h
from trusted_pool.core.advance import IllegalTransitionError, advance
from trusted_pool.core.invariants import broken
from trusted_pool.core.job import Job, Outcome, Retry
from trusted_pool.core.request import Request
from trusted_pool.core.words import AttemptState, JobState, OnWorkerLoss, Reason

numbers = st.integers(0, 5)
words = st.sampled_from(["", "no", "x" * 50])
times = st.floats(0, 100)
outcomes = st.builds(
    Outcome,
    reason=st.sampled_from([None, Reason.EXIT_CODE, Reason.TIMEOUT, Reason.CANCELLED]),
    exit_code=st.integers(0, 255),
)
happenings = st.one_of(
    st.builds(h.Placed, attempt=numbers, worker_id=st.sampled_from(["a", "b"])),
    st.builds(h.Accepted, attempt=numbers, remote_id=words),
    st.builds(h.Started, attempt=numbers, at=times),
    st.builds(h.Ended, attempt=numbers, outcome=outcomes),
    st.builds(h.Collected, attempt=numbers),
    st.builds(h.ResultsLost, attempt=numbers, words=words),
    st.builds(h.Refused, attempt=numbers, words=words, others=st.booleans()),
    st.builds(h.WorkerFull, attempt=numbers, not_before=times),
    st.builds(h.NotSent, attempt=numbers, words=words, not_before=times),
    st.builds(h.WorkerLost, attempt=numbers, not_before=times),
    st.builds(h.Held, attempt=numbers),
    st.builds(h.Interrupted, attempt=numbers, words=words, not_before=times),
    st.builds(h.CancelRequested, by=words),
    st.builds(h.CancelConfirmed, attempt=numbers),
    st.just(h.Expired()),
    st.builds(h.Unplaceable, words=words),
)
jobs = st.builds(
    Job,
    job_id=st.just("pool-0"),
    owner=st.just("local"),
    state=st.just(JobState.QUEUED),
    reason=st.just(Reason.SUBMITTED),
    manifest=st.just("{}"),
    request=st.builds(Request, interpreter=st.just("python3")),
    retry=st.builds(Retry, max_attempts=st.integers(1, 3), on_worker_loss=st.sampled_from(OnWorkerLoss)),
    submitted_at=times,
)


@settings(max_examples=400, deadline=None)
@given(jobs, st.lists(happenings, max_size=40))
def test_the_invariants_hold_after_every_step(job: Job, steps: list[h.Happening]):
    collected = 0
    for now, event in enumerate(steps):
        before = msgspec.json.encode(job)
        try:
            after = advance(job, event, float(now))
        except IllegalTransitionError:
            assert msgspec.json.encode(job) == before
            continue
        assert msgspec.json.encode(job) == before, "advance changed its argument"
        assert broken(after) == []
        if job.final:
            assert after is job or after == job, "something left a final state"
        assert after.attempts[: len(job.attempts) - 1] == job.attempts[:-1], "a closed attempt changed"
        collected += after.attempts != job.attempts and after.attempts[-1].state is AttemptState.COLLECTED
        if after.state is JobState.DISPATCHED and job.state is JobState.QUEUED:
            assert isinstance(event, h.Placed)
            assert job.spent < job.retry.max_attempts
        job = after
    assert collected <= 1


@given(jobs, st.lists(happenings, max_size=20), happenings)
def test_telling_the_same_twice_changes_nothing_more(job: Job, steps: list[h.Happening], event: h.Happening):
    for step in steps:
        try:
            job = advance(job, step, 1.0)
        except IllegalTransitionError:
            continue
    try:
        once = advance(job, event, 2.0)
        twice = advance(once, event, 3.0)
    except IllegalTransitionError:
        return
    assert twice == once


@given(jobs, st.lists(happenings, max_size=20))
def test_a_job_survives_being_written_and_read(job: Job, steps: list[h.Happening]):
    for step in steps:
        try:
            job = advance(job, step, 1.0)
        except IllegalTransitionError:
            continue
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(job), type=Job) == job
