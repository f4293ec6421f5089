"""What a worker measures of itself, for Prometheus. Every series is there from the start, at zero.

The subsystem is `daemon`: `trusted_pool_worker_…` is what a coordinator says of its workers.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from trusted_pool.core.words import AttemptState, Reason
from trusted_pool.ports.journal import Entry
from trusted_pool.worker.attempts import Attempts

#: What Prometheus is told that it gets.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
WELL = "completed"  #: the reason of an attempt that ended without one
#: How an attempt can end here.
END_REASONS = (
    Reason.EXIT_CODE,
    Reason.SIGNAL,
    Reason.TIMEOUT,
    Reason.CPU_LIMIT,
    Reason.OUT_OF_MEMORY,
    Reason.DISK_LIMIT,
    Reason.OUTPUT_LIMIT,
    Reason.BAD_INPUT,
    Reason.BAD_OUTPUT,
    Reason.SANDBOX_FAILED,
    Reason.CANCELLED,
    Reason.INTERRUPTED,
)
_MIB = 1024**2
MEMORY_BYTES = tuple(_MIB * 4**n for n in range(2, 9))  # 16 MiB … 1 TiB
WALL_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600, 86400)


class Metrics:
    """Counts what the attempts of this worker come to; `expose` writes everything down."""

    def __init__(self, attempts: Attempts) -> None:
        self._registry = registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)

        def counter(name: str, words: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(f"trusted_pool_daemon_{name}", words, list(labels), registry=registry)

        def gauge(name: str, words: str) -> Gauge:
            return Gauge(f"trusted_pool_daemon_{name}", words, registry=registry)

        self._accepted = counter("accepted_attempts_total", "Attempts that were taken.")
        self._ended = counter("ended_attempts_total", "Attempts that are over, by reason.", ["reason"])
        self._cpu_s = counter("cpu_seconds_total", "Processor time of ended attempts.")
        self._log_bytes = counter("log_bytes_total", "What ended attempts printed, with its frames.")
        self._output_bytes = counter("output_bytes_total", "Files that ended attempts left.")
        self._uploads = counter("upload_files_total", "Input files of accepted attempts.")
        self._upload_bytes = counter("upload_bytes_total", "Input bytes of accepted attempts.")
        self._memory = Histogram(
            "trusted_pool_daemon_memory_peak_bytes",
            "Highest memory use of ended attempts.",
            buckets=MEMORY_BYTES,
            registry=registry,
        )
        self._wall_s = Histogram(
            "trusted_pool_daemon_wall_seconds",
            "Wall-clock time of ended attempts.",
            buckets=WALL_SECONDS,
            registry=registry,
        )
        gauge("active_jobs", "Slots that are taken.").set_function(lambda: attempts.active)
        gauge("slots", "Jobs that run at once.").set_function(lambda: attempts.slots)
        gauge("draining", "Whether it takes no new jobs.").set_function(lambda: attempts.draining)
        kept = gauge("kept_attempts", "Attempts that are not released: running, or with results to fetch.")
        kept.set_function(lambda: sum(1 for _ in attempts))
        for reason in (WELL, *END_REASONS):
            self._ended.labels(str(reason))
        attempts.listeners.append(self.noticed)

    def noticed(self, entry: Entry) -> None:
        """Count an entry that was accepted or is over."""
        if entry.state is AttemptState.INTERRUPTED:
            self._ended.labels(Reason.INTERRUPTED.value).inc()
        elif entry.state is AttemptState.ENDED and entry.outcome is not None:
            outcome = entry.outcome
            self._ended.labels(outcome.reason.value if outcome.reason else WELL).inc()
            self._cpu_s.inc(outcome.usage.cpu_seconds)
            self._log_bytes.inc(outcome.log_bytes)
            self._output_bytes.inc(sum(file.size for file in outcome.outputs))
            self._memory.observe(outcome.usage.memory_peak_bytes)
            self._wall_s.observe(outcome.usage.wall_time_ms / 1000)
        else:
            self._accepted.inc()
            self._uploads.inc(len(entry.inputs))
            self._upload_bytes.inc(sum(file.size for file in entry.inputs))

    def expose(self) -> bytes:
        """Write all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
