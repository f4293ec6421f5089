"""What clients of the coordinator are answered. Times are seconds since the epoch, or null.

Field names that the specification gives stand as it gives them; the rest is beside them. What came after the first
release has a default, so that a newer client reads an older coordinator.
"""

from typing import Any

import msgspec

from trusted_pool.core.access import KeyState, Role, Scope
from trusted_pool.core.job import Attempt, InputFile
from trusted_pool.core.limits import Limits, LimitsChange
from trusted_pool.core.request import Capacity, Obstacle
from trusted_pool.core.words import Duty, Fault, JobState, Reason, WorkerHealth
from trusted_pool.protocol.audit import AuditEntry, Head


class SubmitAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /submit`: the job is kept durably."""

    job_id: str
    status: JobState


class ExecutionMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """How the newest attempt ran."""

    cpu_seconds: float = 0.0
    memory_peak_bytes: int = 0
    memory_peak_mb: float = 0.0
    wall_time_ms: float = 0.0
    exit_code: int | None = None
    signal: int | None = None
    interpreter: str = ""
    interpreter_version: str = ""
    bytes_in: int = 0  #: of its input files, as they were sent
    bytes_out: int = 0  #: of its outputs and of what was kept of stdout and stderr
    approximate: bool = False  #: cpu and memory were measured by polling, so short peaks may be missing


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The newest attempt as its worker sees it."""

    job_id: str | None  #: the worker's own id of it
    status: str
    execution_metadata: ExecutionMetadata


class WorkerVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Why one worker does not have a waiting job; no obstacles means that it could take it now."""

    worker_id: str
    endpoint: str
    obstacles: list[Obstacle]


class FailureRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job failed, with what was seen."""

    reason: Reason
    fault: Fault
    retryable: bool  #: whether a rerun may end otherwise
    message: str
    limit: str = ""  #: name of the limit that ended it
    exit_code: int | None = None
    signal: int | None = None
    evidence: dict[str, int | float | str] = {}
    words: list[str] = []  #: what workers said of it
    worker_last_answer_at: float | None = None


class StatusAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /status/{job_id}`."""

    job_id: str
    pool_status: JobState
    status: JobState  #: the same, under the name of the worker's API
    state: JobState
    reason: Reason | None
    fault: Fault | None
    retryable: bool  #: whether a rerun may end otherwise
    detail: str
    worker_id: str | None
    worker_status: WorkerStatus | None
    submitted_at: float
    completed_at: float | None
    owner: str
    name: str
    labels: dict[str, str]
    priority: int
    queue_position: int | None  #: jobs that go before it; null unless queued
    waiting_for: list[WorkerVerdict] | None  #: for each worker why not; null unless queued
    failure: FailureRecord | None = None  #: null unless it failed
    not_before: float | None = None  #: it is not tried again earlier; null when it may be tried now
    expires_at: float | None = None
    cancel_requested_at: float | None
    rerun_of: str | None
    attempts: list[Attempt]
    inputs: list[InputFile]
    manifest: dict[str, Any]


class ExplainAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /explain/{job_id}`: why it is where it is."""

    job_id: str
    state: JobState
    reason: Reason | None
    verdict: str  #: ran, running, starts_soon, waits, impossible, failed, cancelled
    message: str  #: for people
    hint: str
    queue_position: int | None
    workers: list[WorkerVerdict]  #: for each worker why not; empty unless queued
    failure: FailureRecord | None


class DryRunAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /submit?dry_run=1`: what would become of it. Nothing was kept."""

    admitted: bool
    verdict: str  #: starts_soon, waits, impossible
    message: str
    workers: list[WorkerVerdict]
    manifest: dict[str, Any]


class HistoryEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a job's story."""

    seq: int
    at: float
    kind: str
    attempt: int
    data: dict[str, Any]


class HistoryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /history/{job_id}`: the whole story of a job, oldest first."""

    job_id: str
    events: list[HistoryEvent]


class JobSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `GET /jobs`."""

    job_id: str
    state: JobState
    reason: Reason | None
    name: str
    owner: str
    worker_id: str | None
    attempt: int
    submitted_at: float
    completed_at: float | None


class JobsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /jobs`: newest first; pass `next` as `after` for the next page."""

    jobs: list[JobSummary]
    next: str | None


class OutputEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One output file."""

    path: str
    size: int
    sha256: str
    type: str  #: media type, by the name
    executable: bool


class OutputsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /outputs/{job_id}`."""

    job_id: str
    files: list[OutputEntry]


class LogsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /logs/{job_id}`: text; bytes that are no UTF-8 stand as U+FFFD. The raw bytes: `/logs/{job_id}/stdout`."""

    job_id: str
    stdout: str
    stderr: str
    truncated: bool  #: the worker cut the log, or it is longer than this answer shows


class LogEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Data of one SSE event of `GET /logs/{job_id}?follow=1`.

    Event names: stdout, stderr, mark. The event's id is the offset to resume from.
    """

    at: float
    text: str


class EndEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Data of the last SSE event, named `end`."""

    state: JobState
    reason: Reason | None
    detail: str


class WorkerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One worker in `GET /pool`."""

    worker_id: str
    endpoint: str
    is_healthy: bool
    active_jobs: int
    max_concurrent_jobs: int
    last_health_check: float | None
    health: WorkerHealth
    duty: Duty
    drained: bool = False  #: it is draining and has nothing left
    drain_by: float | None = None  #: when a drain ends what still runs
    identity: str  #: "proven", or "claimed": it cannot prove its key
    words: str
    labels: dict[str, str]
    capacity: Capacity
    version: str


class PoolAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /pool`."""

    total_workers: int
    healthy_workers: int
    total_jobs: int
    queued_jobs: int
    jobs: dict[str, int]  #: by state
    paused: bool = False  #: nothing is dispatched until somebody resumes
    pool_id: str
    workers: list[WorkerAnswer]
    version: str


class CancelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /cancel/{job_id}`: it will not be dispatched any more."""

    job_id: str
    status: JobState
    cancelled: bool  #: false: its program is being ended now, or it ended before


class BulkCancelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /jobs/cancel`: how many of the jobs that the filter met were cancelled, and the first 500 of them."""

    cancelled: int
    job_ids: list[str]


class PauseAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /pause`, `POST /resume`."""

    paused: bool


class HeldAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that was removed, and to which jobs stay assigned because their policy is to hold."""

    worker_id: str
    endpoint: str
    held: int  #: jobs


class WorkersAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /workers`."""

    workers: list[WorkerAnswer]
    removed: list[HeldAnswer] = []


class LeftJobs(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the jobs that were at a removed worker, by how many."""

    retried: int = 0  #: queued again
    held: int = 0  #: they stay assigned
    failed: int = 0
    cancelled: int = 0
    settled: bool = True  #: false: it takes longer, and these are not all


class RemovedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /workers/{worker}/remove`: it is given nothing any more, and nothing that it says counts."""

    worker_id: str
    endpoint: str
    jobs: LeftJobs


class ReloadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /workers/reload`: what that changed, by the ids of workers."""

    workers: int  #: that are listed now
    added: list[str]
    removed: list[RemovedAnswer]
    changed: list[str]


class ServiceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /health` and `GET /` of the coordinator."""

    status: str
    service: str
    version: str
    pool_id: str


class WhoAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /whoami`."""

    owner: str
    role: Role
    scope: Scope
    key_id: str | None = None  #: null: no key was needed
    expires_at: float | None = None


class KeyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One API key: all but itself."""

    key_id: str
    owner: str
    role: Role
    scope: Scope
    state: KeyState
    name: str
    created_at: float
    created_by: str
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None  #: to the minute


class KeysAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /keys`."""

    keys: list[KeyAnswer]


class NewKeyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /keys`: the only answer that ever holds a key."""

    token: str
    key: KeyAnswer


class AuditAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /audit`."""

    entries: list[AuditEntry]
    head: Head  #: how far the trail goes


class UsageAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What one owner has of the pool now, and what it may have. A limit of 0 is none."""

    owner: str
    queued: int
    running: int  #: dispatched or running
    bytes: int  #: kept: files, each once, manifests and results
    staged_bytes: int = 0  #: of uploads under way; they count as well
    transfers: int = 0  #: uploads and downloads of more than a small file, under way
    waits: int = 0  #: long polls and followed logs
    submits_left: int | None = None  #: that may come at once; null: any number
    limits: Limits


class UsagesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /usage`: of the owner asked for, or of all."""

    owners: list[UsageAnswer]


class LimitsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /limits`: what every owner may have, and what was set for some in place of that. 0: no limit."""

    usual: Limits
    owners: dict[str, LimitsChange]
