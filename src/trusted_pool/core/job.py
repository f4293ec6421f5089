"""The records of the pool: job, attempt, outcome, and what can happen to them.

All are frozen: `advance` returns new ones.
"""

import msgspec

from trusted_pool.core.request import Request, shape_of
from trusted_pool.core.words import (
    ATTEMPT_FINAL,
    HOLDS_SLOT,
    JOB_FINAL,
    AttemptState,
    Fault,
    JobState,
    OnWorkerLoss,
    Reason,
)


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an attempt used, measured outside the job's reach."""

    cpu_seconds: float = 0.0
    memory_peak_bytes: int = 0
    wall_time_ms: float = 0.0
    bytes_in: int = 0  #: of its input files, as they were sent
    bytes_out: int = 0  #: of its outputs and of what was kept of stdout and stderr
    approximate: bool = False  #: cpu and memory were measured by polling, so short peaks may be missing


class OutputFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file that a job left. `path` is relative, with `/`, canonical UTF-8."""

    path: str
    size: int
    sha256: str
    executable: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an attempt ended on its worker. `reason` None means that it ended well."""

    reason: Reason | None = None
    exit_code: int | None = None
    signal: int | None = None
    detail: str = ""  #: one sentence for the owner
    limit: str = ""  #: name of the limit that ended it, as in the manifest
    usage: Usage = Usage()
    evidence: dict[str, int | float | str] = {}
    outputs: tuple[OutputFile, ...] = ()
    more_outputs: int = 0  #: so many are not in `outputs`: its worker lists them by itself
    log_bytes: int = 0  #: size of the framed log file
    interpreter_version: str = ""
    isolation: int | None = None  #: level under which it ran
    policy: str | None = None  #: name of the policy under which it ran, see `Capacity.policy`


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One try of a job on one worker. `number` counts from 1 and is the fencing token."""

    number: int
    worker_id: str
    state: AttemptState
    dispatched_at: float
    remote_id: str | None = None
    accepted_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    outcome: Outcome | None = None  #: without its outputs: those are the result's
    words: str = ""  #: what the worker said when it refused
    spent: bool = False  #: counts against max_attempts

    @property
    def closed(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self.state in ATTEMPT_FINAL


class Retry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often a job may be tried, and what happens when its worker is lost."""

    max_attempts: int = 3
    on_worker_loss: OnWorkerLoss = OnWorkerLoss.RETRY  #: a submit fills in the pool's default


class InputFile(msgspec.Struct, frozen=True, kw_only=True):
    """One uploaded file: an archive, or a plain file with the name it will have in `/job`."""

    name: str
    size: int
    sha256: str


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a client submitted and what became of it so far."""

    job_id: str
    owner: str
    state: JobState
    reason: Reason | None = None
    fault: Fault | None = None
    detail: str = ""
    name: str = ""
    labels: dict[str, str] = {}
    manifest: str  #: canonical JSON with all defaults filled in
    inputs: tuple[InputFile, ...] = ()
    request: Request
    retry: Retry = Retry()
    timeout_s: float = 300.0
    priority: int = 0
    submitted_at: float
    completed_at: float | None = None
    not_before: float = 0.0  #: backoff: not dispatched earlier
    expires_at: float | None = None
    cancel_requested_at: float | None = None
    rerun_of: str | None = None
    backoffs: int = 0  #: requeues in a row, for the exponential backoff
    attempts: tuple[Attempt, ...] = ()

    @property
    def attempt(self) -> Attempt | None:
        """The newest attempt; the current one unless the job is queued."""
        return self.attempts[-1] if self.attempts else None

    @property
    def final(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self.state in JOB_FINAL

    @property
    def shape(self) -> str:
        """The shape of its request."""
        return shape_of(self.request)

    @property
    def order_key(self) -> float:
        """Its place among its owner's queued jobs: lower goes first. A priority step is worth 60 s."""
        return self.submitted_at - self.priority * 60.0

    @property
    def assigned_to(self) -> str | None:
        """The worker that has it, from the commit to `dispatched` until it is final or queued again."""
        if self.attempt is None or self.state in JOB_FINAL or self.state is JobState.QUEUED:
            return None
        return self.attempt.worker_id

    @property
    def holds_slot(self) -> bool:
        """Whether it takes a slot of the worker that has it."""
        return self.assigned_to is not None and self.attempt is not None and self.attempt.state in HOLDS_SLOT

    @property
    def spent(self) -> int:
        """How many attempts count against `max_attempts`."""
        return sum(a.spent for a in self.attempts)
