"""What is true of the whole pool, checked at each commit and each start of a program."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import NoReturn

import msgspec

from simulation.engine.trace import Finding, Trace
from trusted_pool.core.invariants import broken
from trusted_pool.core.job import Job
from trusted_pool.core.words import AttemptState, JobState, Reason
from trusted_pool.ports.store import Event, Result, Unit

#: What is only said by workers, or of those that are given work: by none that is not listed.
WORDS = frozenset({"Placed", "Accepted", "Started", "Ended", "Collected", "Refused", "WorkerFull", "Stale"})


class Run(msgspec.Struct, kw_only=True):
    """One start of a program: where, and what it leaves."""

    worker: str
    key: str
    files: dict[str, bytes]


class Ledger:
    """Knows what was promised to whom, what ran where, and holds every commit against it."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.finding: Finding | None = None
        self.acknowledged: dict[str, str] = {}  #: submits: job id by key
        self.cancelled: dict[str, int] = {}  #: acknowledged cancels: how many attempts the job had by then
        self.runs: dict[tuple[str, int], list[Run]] = {}
        self.heard_at: dict[str, float] = {}  #: the coordinator's last answered check of a worker
        self.jumped_at = 0.0  #: the coordinator's clock
        self.grace_s = 120.0
        self.triggers: list[tuple[str, Callable[[], None]]] = []  #: faults that wait for a commit of this kind
        self.jobs: Callable[[], dict[str, Job]] = dict  #: what the store holds now

    def wrong(self, kind: str, sentence: str) -> NoReturn:
        """Note what must not be. The first one counts."""
        finding = Finding(kind, sentence)
        if self.finding is None:
            self.finding = finding
            self.trace("!", str(finding))
        raise finding

    # Programs

    def started(self, job_id: str, attempt: int, run: Run) -> None:
        """Take note of a start."""
        before = self.runs.setdefault((job_id, attempt), [])
        before.append(run)
        self.trace(run.worker, f"starts {job_id} attempt {attempt} as {run.key}")
        job = self.jobs().get(job_id)
        if job is None:
            self.wrong("lost", f"{job_id} runs and is not in the store")
        if len(before) > 1:
            self.wrong("started twice", f"{job_id} attempt {attempt} on {[r.worker for r in before]}")
        starts = sum(len(runs) for (started, _), runs in self.runs.items() if started == job_id)
        if starts > job.retry.max_attempts:
            self.wrong("too many starts", f"{job_id} was started {starts} times of {job.retry.max_attempts}")

    # Commits

    def told(self, unit: Unit, listed: Callable[[str], bool]) -> None:
        """Hold a unit that is about to be committed against the allowlist of this moment."""
        for event in unit.events:
            if event.kind not in WORDS:
                continue
            worker = event.data.get("worker_id")
            if unit.job is not None:
                worker = unit.job.attempts[event.attempt - 1].worker_id
            if worker is not None and not listed(str(worker)):
                self.wrong("unlisted", f"{event.job_id}: {event.kind} of {worker}, which is not listed, is taken")

    def committed(self, before: Job | None, unit: Unit) -> None:
        """Hold a kept unit against what must be true."""
        for event in unit.events:
            self._event(before, unit.job, event)
        job = unit.job
        if job is None:
            return
        for sentence in broken(job):
            self.wrong("invariant", f"{job.job_id}: {sentence}")
        if before is not None:
            self._change(before, job)
        if unit.result is not None:
            self._result(job, unit.result)

    def _change(self, before: Job, job: Job) -> None:
        name = job.job_id
        if before.final and job.state is not before.state:
            self.wrong("final", f"{name} was {before.state} and is {job.state}")
        if len(job.attempts) < len(before.attempts):
            self.wrong("invariant", f"{name} has fewer attempts than before")
        for old, new in zip(before.attempts, job.attempts, strict=False):
            if (old.number, old.worker_id) != (new.number, new.worker_id) or (old.closed and old.state != new.state):
                self.wrong("fence", f"{name}: attempt {old.number} was {old.state} and is {new.state}")
            if old.remote_id is not None and old.remote_id != new.remote_id:
                self.wrong("fence", f"{name}: attempt {old.number} was {old.remote_id}, is {new.remote_id}")
        if len(job.attempts) > len(before.attempts) and name in self.cancelled:
            self.wrong("cancel", f"{name} was dispatched after its cancel was acknowledged")
        if job.state is JobState.COMPLETED and job.attempts[-1].outcome is not None:
            self._ran(job)

    def _ran(self, job: Job) -> None:
        attempt = job.attempts[-1]
        keys = [run.key for run in self.runs.get((job.job_id, attempt.number), [])]
        if attempt.remote_id not in keys:
            self.wrong(
                "wrong result", f"{job.job_id} attempt {attempt.number} completed as {attempt.remote_id}: {keys}"
            )

    def _event(self, before: Job | None, job: Job | None, event: Event) -> None:
        self.trace("store", f"{event.job_id} {event.kind} {event.attempt or ''} {_brief(event, job)}")
        for at_kind, then in self.triggers[:]:
            if at_kind == event.kind:
                self.triggers.remove((at_kind, then))
                then()
        if event.kind == "Placed" and before is not None and before.state is not JobState.QUEUED:
            self.wrong("placed twice", f"{before.job_id} was {before.state} when it was placed")
        if event.kind == "Placed" and before is not None and event.at < before.not_before:
            self.wrong("not before", f"{before.job_id} was placed {before.not_before - event.at:.1f} s early")
        silent = event.kind == "WorkerLost" and event.data["reason"] == Reason.WORKER_LOST
        if silent and before is not None and before.attempt is not None:
            now = asyncio.get_running_loop().time()
            heard_at = self.heard_at.get(before.attempt.worker_id, 0.0)
            if now - heard_at < self.grace_s and self.jumped_at < heard_at:
                self.wrong("grace", f"{before.attempt.worker_id} answered {now - heard_at:.1f} s before it was lost")

    def _result(self, job: Job, result: Result) -> None:
        """The accepted result is, byte for byte, what that very attempt's run left."""
        runs = self.runs.get((job.job_id, result.attempt), [])
        files = {output.path: output.sha256 for output in result.outputs}
        attempt = job.attempts[-1]
        if attempt.number != result.attempt or attempt.state is not AttemptState.COLLECTED:
            self.wrong("wrong result", f"{job.job_id}: a result of attempt {result.attempt} with {attempt.number}")
        if files and not any(files == digests(run.files) for run in runs):
            self.wrong("wrong result", f"{job.job_id} attempt {result.attempt}: these are no files of that run")

    def released(self, job_id: str, attempt: int, state: AttemptState) -> None:
        """Hold a release, as it comes to the worker, against the store."""
        job = self.jobs().get(job_id)
        if job is None or state is AttemptState.INTERRUPTED or len(job.attempts) != attempt:
            return
        if not job.attempts[-1].closed:
            self.wrong("released early", f"{job_id} attempt {attempt} is {job.attempts[-1].state}")

    # Promises

    def must_hold(self) -> None:
        """Every acknowledged submit is in the store."""
        jobs = self.jobs()
        for job_id in self.acknowledged.values():
            if job_id not in jobs:
                self.wrong("lost", f"{job_id} was acknowledged and is not in the store")

    def acknowledge(self, key: str, job_id: str) -> None:
        """A client has its answer."""
        if self.acknowledged.setdefault(key, job_id) != job_id:
            self.wrong("idempotency", f"{key} is {self.acknowledged[key]} and {job_id}")
        if job_id not in self.jobs():
            self.wrong("lost", f"{job_id} was acknowledged and is not in the store")

    def acknowledge_cancel(self, job_id: str, attempts: int) -> None:
        """A client has heard that its job will not be dispatched any more."""
        self.cancelled.setdefault(job_id, attempts)
        job = self.jobs()[job_id]
        if job.state is not JobState.CANCELLED and job.cancel_requested_at is None:
            self.wrong("cancel", f"{job_id} is {job.state} after its cancel was acknowledged")


def digests(files: dict[str, bytes]) -> dict[str, str]:
    """Return the digest of each file."""
    return {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}


def _brief(event: Event, job: Job | None) -> str:
    words = [f"{k}={v}" for k, v in event.data.items() if k in ("worker_id", "remote_id", "reason", "words", "what")]
    return " ".join([*words, f"→ {job.state}" + (f" ({job.reason})" if job.reason else "") if job else ""])
