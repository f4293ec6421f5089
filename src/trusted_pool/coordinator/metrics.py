"""What the coordinator measures of itself, for Prometheus.

Counts of jobs and the state of workers are read when somebody asks; what happens is counted as it is committed. Every
series is there from the start, at zero: a rate over a series that begins with its first event misses that event.
No job id, owner or other word of a client ever is a label, so the number of series is bounded by the allowlist.
"""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from trusted_pool.coordinator.bulletin import Bulletin
from trusted_pool.coordinator.roster import Member, Roster
from trusted_pool.core.job import Attempt, Job
from trusted_pool.core.words import JOB_FINAL, AttemptState, Duty, JobState, Reason, WorkerHealth
from trusted_pool.ports.clock import Clock
from trusted_pool.ports.store import Counters, Store
from trusted_pool.protocol.errors import PoolError
from trusted_pool.protocol.identity import to_path

#: What Prometheus is told that it gets.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Digits of a worker's id in a label; `tpool` takes them for the worker as well.
SHORT = 12
STATUS_CLASSES = ("2xx", "3xx", "4xx", "5xx")
WELL = "completed"  #: the reason of an attempt that ended without one

COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
COMMIT_UNITS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

#: Reasons that say why a job waits or is under way; no attempt ends by them.
_NO_END = {Reason.SUBMITTED, Reason.COLLECTING, Reason.CANCELLING, Reason.UNPLACEABLE, Reason.EXPIRED}
END_REASONS = (WELL, *(reason.value for reason in Reason if reason not in _NO_END))
REFUSALS = (Reason.WORKER_FULL, Reason.WORKER_REFUSED, Reason.WORKER_UNREACHABLE, Reason.REJECTED, Reason.CANCELLED)


def short_label(worker_id: str) -> str:
    """Write a worker id as the value of a label."""
    return to_path(worker_id)[:SHORT]


def refusal_codes() -> set[str]:
    """Return the codes of all errors that a submit may be refused with."""
    codes, found = set(), [PoolError]
    while found:
        error = found.pop()
        codes.add(error.code)
        found.extend(error.__subclasses__())
    return codes


class Metrics:
    """Counts what is committed; `expose` writes everything down."""

    def __init__(self, *, store: Store, roster: Roster, bulletin: Bulletin, clock: Clock) -> None:
        self._store = store
        self._now = _Now(roster, clock)
        self._registry = registry = CollectorRegistry(auto_describe=False)
        registry.register(self._now)
        ProcessCollector(registry=registry)

        def counter(name: str, words: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(f"trusted_pool_{name}", words, list(labels), registry=registry)

        self._accepted = counter("submit_accepted_total", "Submits that made a job.")
        self._refused = counter(
            "submit_refused_total", "Submits that were refused, by the code of the error.", ["code"]
        )
        self._dispatched = counter("dispatch_placed_total", "Attempts that were given to a worker.")
        self._retried = counter("dispatch_retried_total", "Attempts that followed an earlier one of their job.")
        self._refusals = counter("dispatch_refused_total", "Attempts that no worker took, by reason.", ["reason"])
        self._ended = counter("attempt_ended_total", "Attempts that are over, by reason.", ["reason"])
        self._finished = counter("job_finished_total", "Jobs that became final, by state.", ["state"])
        self._requests = counter("http_requests_total", "Answered requests.", ["route", "status"])
        self._commit_s = Histogram(
            "trusted_pool_store_commit_seconds",
            "Time of a transaction with its fsync.",
            buckets=COMMIT_SECONDS,
            registry=registry,
        )
        self._commit_units = Histogram(
            "trusted_pool_store_commit_units",
            "Units that shared a transaction.",
            buckets=COMMIT_UNITS,
            registry=registry,
        )
        for code in refusal_codes():
            self._refused.labels(code)
        for reason in END_REASONS:
            self._ended.labels(reason)
        for refusal in REFUSALS:
            self._refusals.labels(refusal.value)
        for state in JOB_FINAL:
            self._finished.labels(state.value)
        bulletin.listen(self.noticed)

    def noticed(self, before: Job | None, after: Job) -> None:
        """Count what a committed change means."""
        if before is None:
            self._accepted.inc()
            return
        for number, attempt in enumerate(after.attempts):
            old = before.attempts[number] if number < len(before.attempts) else None
            if old is None:
                self._dispatched.inc()
                if number:
                    self._retried.inc()
            if attempt.closed and not (old is not None and old.closed):
                self._attempt_over(attempt, after)
        if after.final and not before.final:
            self._finished.labels(after.state.value).inc()

    def _attempt_over(self, attempt: Attempt, job: Job) -> None:
        if attempt.state is AttemptState.COLLECTED and attempt.outcome is not None:
            reason = attempt.outcome.reason
        else:
            reason = job.reason
        word = WELL if reason is None else reason.value
        self._ended.labels(word).inc()
        if attempt.state is AttemptState.REFUSED:
            self._refusals.labels(word).inc()

    def submit_refused(self, code: str) -> None:
        """Count a submit that was refused."""
        self._refused.labels(code).inc()

    def serve(self, route: str) -> None:
        """Have the series of a route from the start."""
        for status in STATUS_CLASSES:
            self._requests.labels(route, status)

    def answered(self, route: str, status: int) -> None:
        """Count a request. `route`: as it is declared, without what stands in its place."""
        self._requests.labels(route, f"{status // 100}xx").inc()

    def committed(self, units: int, seconds: float) -> None:
        """Take note of a transaction of the store. Any thread may call it."""
        self._commit_units.observe(units)
        self._commit_s.observe(seconds)

    async def expose(self) -> bytes:
        """Write all metrics in Prometheus' text format. Raises StoreError."""
        self._now.counters = await self._store.counters()
        self._now.oldest_at = await self._store.oldest_queued_at()
        return generate_latest(self._registry)


class _Now(Collector):
    """What is so at this moment: asked of the store and the roster, kept nowhere."""

    def __init__(self, roster: Roster, clock: Clock) -> None:
        self._roster = roster
        self._clock = clock
        self.counters = Counters()
        self.oldest_at: float | None = None

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand: workers come and go."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        jobs = GaugeMetricFamily("trusted_pool_store_jobs", "Jobs that are kept, by state.", labels=["state"])
        for state in JobState:
            jobs.add_metric([state.value], self.counters.jobs.get(state.value, 0))
        yield jobs
        queued = self.counters.jobs.get(JobState.QUEUED.value, 0)
        yield GaugeMetricFamily("trusted_pool_queue_jobs", "Jobs that wait for a worker.", queued)
        age_s = 0.0 if self.oldest_at is None else max(0.0, self._clock.now() - self.oldest_at)
        yield GaugeMetricFamily("trusted_pool_queue_oldest_seconds", "Age of the oldest job that waits.", age_s)
        yield from self._workers(self._roster.listed())

    def _workers(self, members: list[Member]) -> Iterator[Metric]:
        def gauge(name: str, words: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"trusted_pool_worker_{name}", words, labels=["worker", *labels])

        up = gauge("up", "Whether the last check was answered by the listed key.")
        slots = gauge("slots", "Jobs that it is given at once.")
        active = gauge("active_jobs", "Slots that are taken, as the coordinator counts them.")
        health = gauge("health", "1 for the health that it has.", "health")
        duty = gauge("duty", "1 for the duty that it has.", "duty")
        proven = gauge("proven", "1 when it proves its key on each connection, 0 when its identity is only claimed.")
        streams = CounterMetricFamily(
            "trusted_pool_worker_event_streams_total",
            "Event streams that were begun: each after the first is a reconnect.",
            labels=["worker"],
        )
        for member in members:
            worker, name = member.worker, short_label(member.worker.worker_id)
            up.add_metric([name], worker.health is WorkerHealth.HEALTHY)
            slots.add_metric([name], worker.slots)
            active.add_metric([name], member.load.active)
            proven.add_metric([name], worker.proven)
            streams.add_metric([name], member.streams)
            for each in WorkerHealth:
                health.add_metric([name, each.value], worker.health is each)
            for one in Duty:
                duty.add_metric([name, one.value], worker.duty is one)
        yield from (up, slots, active, proven, health, duty, streams)
