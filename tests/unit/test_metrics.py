"""What the coordinator counts of committed changes, and that every series is there before anything happens."""

import asyncio
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from trusted_pool.coordinator.bulletin import Bulletin
from trusted_pool.coordinator.metrics import END_REASONS, REFUSALS, Metrics
from trusted_pool.coordinator.roster import Roster
from trusted_pool.core import happenings as h
from trusted_pool.core.advance import advance
from trusted_pool.core.job import Job, Outcome, Retry
from trusted_pool.core.request import Request
from trusted_pool.core.words import JobState, Reason
from trusted_pool.core.worker import Worker
from trusted_pool.link.fake import FakeLink
from trusted_pool.ports.store import Unit
from trusted_pool.store.memory import MemoryStore
from trusted_pool.web.metrics_routes import code_of

WORKERS = ("AAAAAAAAAAAAAAAAAAAA+/AAAAAAAAAAAAAAAAAAAAA=", "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA=")
NOW = 1_700_000_000.0


class FixedClock:
    """Always the same time."""

    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return 0.0


class Case:
    """Metrics over a store in memory, told of what happens to one job."""

    def __init__(self, max_attempts: int = 3) -> None:
        self.store = MemoryStore()
        self.bulletin = Bulletin()
        self.metrics = Metrics(store=self.store, roster=Roster(_no_link), bulletin=self.bulletin, clock=FixedClock())
        self.job = Job(
            job_id="pool-0123456789abcdef",
            owner="local",
            state=JobState.QUEUED,
            manifest="{}",
            request=Request(interpreter="python3"),
            retry=Retry(max_attempts=max_attempts),
            submitted_at=NOW - 90,
        )
        self.bulletin.publish(None, self.job)

    def happen(self, *happenings: h.Happening) -> None:
        """Advance the job by all of them in one commit, and tell."""
        before = self.job
        for happening in happenings:
            self.job = advance(self.job, happening, NOW)
        self.bulletin.publish(before, self.job)

    def series(self) -> dict[str, float]:
        text = asyncio.run(self.metrics.expose()).decode()
        return {
            s.name + "".join(f" {v}" for v in s.labels.values()): s.value
            for family in text_string_to_metric_families(text)
            for s in family.samples
        }

    def changed(self, since: dict[str, float]) -> dict[str, float]:
        """Return by how much our own series have grown."""
        now = self.series()
        grown = {name.removeprefix("trusted_pool_"): now[name] - since.get(name, 0) for name in now}
        return {name: by for name, by in grown.items() if by and not name.startswith("process_")}


def _no_link(worker: Worker) -> FakeLink:
    raise AssertionError(f"nobody dials {worker.worker_id}")


def test_all_series_are_there_before_anything_happens():
    idle = Case().series()
    for reason in END_REASONS:
        assert idle[f"trusted_pool_attempt_ended_total {reason}"] == 0
    for refusal in REFUSALS:
        assert idle[f"trusted_pool_dispatch_refused_total {refusal}"] == 0
    for state in JobState:
        assert idle[f"trusted_pool_store_jobs {state}"] == 0
    for code in ("storage_full", "unplaceable", "bad_manifest", "too_large"):
        assert idle[f"trusted_pool_submit_refused_total {code}"] == 0


def test_a_job_in_one_commit_from_accepted_to_collected_counts_once():
    case = Case()
    case.happen(h.Placed(attempt=1, worker_id=WORKERS[0]))
    since = case.series()
    case.happen(
        h.Accepted(attempt=1, remote_id="r"), h.Ended(attempt=1, outcome=Outcome(exit_code=0)), h.Collected(attempt=1)
    )
    assert case.changed(since) == {"attempt_ended_total completed": 1, "job_finished_total completed": 1}


def test_a_refused_attempt_is_a_refusal_and_its_successor_a_retry():
    case = Case()
    case.happen(h.Placed(attempt=1, worker_id=WORKERS[0]))
    since = case.series()
    case.happen(h.Refused(attempt=1, words="no", others=True))
    assert case.changed(since) == {"attempt_ended_total worker_refused": 1, "dispatch_refused_total worker_refused": 1}
    since = case.series()
    case.happen(h.Placed(attempt=2, worker_id=WORKERS[1]))
    assert case.changed(since) == {"dispatch_placed_total": 1, "dispatch_retried_total": 1}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (h.WorkerFull(attempt=1, not_before=NOW), "worker_full"),
        (h.NotSent(attempt=1, words="no line", not_before=NOW), "worker_unreachable"),
        (h.Refused(attempt=1, words="no", others=False), "rejected"),
    ],
)
def test_each_way_not_to_take_an_attempt_has_its_series(event: h.Happening, reason: str):
    case = Case()
    case.happen(h.Placed(attempt=1, worker_id=WORKERS[0]))
    since = case.series()
    case.happen(event)
    assert case.changed(since)[f"dispatch_refused_total {reason}"] == 1


@pytest.mark.parametrize("kind", ["lost", "interrupted", "failed"])
def test_how_an_attempt_ends_is_its_reason(kind: str):
    case = Case(max_attempts=1)
    case.happen(h.Placed(attempt=1, worker_id=WORKERS[0]), h.Accepted(attempt=1, remote_id="r"))
    since = case.series()
    timeout = Outcome(reason=Reason.TIMEOUT)
    happened: tuple[h.Happening, ...] = {
        "lost": (h.WorkerLost(attempt=1, not_before=NOW),),
        "interrupted": (h.Interrupted(attempt=1, words="", not_before=NOW),),
        "failed": (h.Ended(attempt=1, outcome=timeout), h.Collected(attempt=1)),
    }[kind]
    case.happen(*happened)
    reason = {"lost": "worker_lost", "interrupted": "interrupted", "failed": "timeout"}[kind]
    assert case.changed(since) == {f"attempt_ended_total {reason}": 1, "job_finished_total failed": 1}


def test_the_queues_age_is_that_of_its_oldest_job():
    case = Case()
    assert case.series()["trusted_pool_queue_oldest_seconds"] == 0
    asyncio.run(case.store.commit([Unit(job=case.job)]))
    assert case.series()["trusted_pool_queue_oldest_seconds"] == 90
    assert case.series()["trusted_pool_queue_jobs"] == 1


def test_a_workers_series_are_there_from_its_first_day():
    case = Case()
    roster = Roster(_Silent)  # type: ignore[arg-type, return-value]
    case.metrics = Metrics(store=case.store, roster=roster, bulletin=case.bulletin, clock=FixedClock())
    roster.admit([Worker(worker_id=w, endpoint="http://127.0.0.1:1", max_concurrent_jobs=3) for w in WORKERS])
    found = case.series()
    assert found["trusted_pool_worker_up AAAAAAAAAAAA"] == 0
    assert found["trusted_pool_worker_slots BBBBBBBBBBBB"] == 3
    assert found["trusted_pool_worker_health unknown AAAAAAAAAAAA"] == 1
    assert found["trusted_pool_worker_health healthy AAAAAAAAAAAA"] == 0
    assert found["trusted_pool_worker_event_streams_total AAAAAAAAAAAA"] == 0


class _Silent:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker


def test_commits_are_observed_from_any_thread():
    case = Case()
    since = case.series()
    asyncio.run(asyncio.to_thread(case.metrics.committed, 5, 0.002))
    grown = case.changed(since)
    assert grown["store_commit_units_sum"] == 5
    assert grown["store_commit_seconds_count"] == 1


def test_what_nobody_expected_has_a_code_too():
    assert code_of(RuntimeError("?")) == "internal"
    assert code_of(subprocess.SubprocessError()) == "internal"
