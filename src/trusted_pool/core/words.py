"""The words of the pool: states, reasons and faults (see docs/glossary.md)."""

from enum import StrEnum


class JobState(StrEnum):
    """Where a job is. Who moves it on is said behind each state."""

    QUEUED = "queued"  #: the dispatcher places it; the owner may cancel it
    DISPATCHED = "dispatched"  #: one worker has it or is being sent it; that worker starts it
    RUNNING = "running"  #: it runs, or it has ended and its results are being copied
    COMPLETED = "completed"  #: final: it ended well and its results are kept
    FAILED = "failed"  #: final: reason and fault say why
    CANCELLED = "cancelled"  #: final: somebody asked for it


class AttemptState(StrEnum):
    """Where one try of a job on one worker is."""

    DISPATCHING = "dispatching"  #: committed, being sent
    ACCEPTED = "accepted"  #: the worker has it durably and has not started it
    RUNNING = "running"  #: the worker started it
    ENDED = "ended"  #: it ended there; logs and outputs are being copied
    COLLECTED = "collected"  #: its result is the job's result
    REFUSED = "refused"  #: the worker would not take it
    LOST = "lost"  #: the worker was silent for longer than the grace, or was removed, or its results are gone
    INTERRUPTED = "interrupted"  #: the worker came back without it
    CANCELLED = "cancelled"  #: ended by a cancel


class Fault(StrEnum):
    """Whose fault a failure is."""

    USER = "user"
    LIMIT = "limit"
    WORKER = "worker"
    COORDINATOR = "coordinator"
    OPERATOR = "operator"


class Reason(StrEnum):
    """Why a job is in its state."""

    SUBMITTED = "submitted"  #: queued, not looked at yet or no slot free
    WORKER_FULL = "worker_full"  #: queued again: the worker said 429 or 503
    WORKER_REFUSED = "worker_refused"  #: queued again: a worker said no; others may say yes
    WORKER_UNREACHABLE = "worker_unreachable"  #: queued again: not a byte reached the worker
    WORKER_LOST = "worker_lost"  #: the worker was silent for longer than the grace
    WORKER_REMOVED = "worker_removed"  #: the worker was taken off the allowlist
    INTERRUPTED = "interrupted"  #: the worker restarted while the job ran
    DRAINED = "drained"  #: its worker had to be free by a deadline
    RESULTS_LOST = "results_lost"  #: it ended, but its results could not be copied
    COLLECTING = "collecting"  #: it ended; logs and outputs are being copied
    CANCELLING = "cancelling"  #: a cancel is on its way to the worker
    EXIT_CODE = "exit_code"  #: the program ended with another code than 0
    SIGNAL = "signal"  #: the program was ended by a signal of its own making
    TIMEOUT = "timeout"  #: wall-clock limit
    CPU_LIMIT = "cpu_limit"  #: cpu_seconds of the whole tree
    OUT_OF_MEMORY = "out_of_memory"  #: memory_mb of the whole tree, tmpfs included
    DISK_LIMIT = "disk_limit"  #: disk_mb or the count of files
    OUTPUT_LIMIT = "output_limit"  #: size or count of outputs
    BAD_INPUT = "bad_input"  #: the files cannot be unpacked
    BAD_OUTPUT = "bad_output"  #: an output is nothing that may be handed out
    SANDBOX_FAILED = "sandbox_failed"  #: the worker could not build the sandbox
    REJECTED = "rejected"  #: every worker that could run it said no
    UNPLACEABLE = "unplaceable"  #: no worker of the allowlist could ever run it
    EXPIRED = "expired"  #: expires_in passed before a start
    CANCELLED = "cancelled"  #: somebody asked for it


class WorkerHealth(StrEnum):
    """What the pool knows of a worker's health."""

    UNKNOWN = "unknown"  #: never answered since the coordinator started
    HEALTHY = "healthy"  #: the last check was answered by the listed key
    SUSPECT = "suspect"  #: the last check failed; the grace period runs
    LOST = "lost"  #: silent for longer than the grace period
    FENCED = "fenced"  #: it says that another coordinator of this pool, started later, has it


class Duty(StrEnum):
    """Whether a worker is given new jobs; set by an operator, kept over restarts."""

    ACTIVE = "active"
    CORDONED = "cordoned"  #: gets no new jobs
    DRAINING = "draining"  #: gets no new jobs; counts as drained when it has none left


class OnWorkerLoss(StrEnum):
    """What happens to a job whose worker is lost."""

    RETRY = "retry"  #: another attempt elsewhere, while max_attempts allows
    HOLD = "hold"  #: stays assigned; the owner decides
    FAIL = "fail"


JOB_FINAL = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})
ATTEMPT_FINAL = frozenset(
    {
        AttemptState.COLLECTED,
        AttemptState.REFUSED,
        AttemptState.LOST,
        AttemptState.INTERRUPTED,
        AttemptState.CANCELLED,
    }
)
#: Attempts in these states hold a slot of their worker.
HOLDS_SLOT = frozenset({AttemptState.DISPATCHING, AttemptState.ACCEPTED, AttemptState.RUNNING})

#: Whose fault an ended attempt's reason is.
FAULT_OF: dict[Reason, Fault] = {
    Reason.EXIT_CODE: Fault.USER,
    Reason.SIGNAL: Fault.USER,
    Reason.TIMEOUT: Fault.LIMIT,
    Reason.CPU_LIMIT: Fault.LIMIT,
    Reason.OUT_OF_MEMORY: Fault.LIMIT,
    Reason.DISK_LIMIT: Fault.LIMIT,
    Reason.OUTPUT_LIMIT: Fault.LIMIT,
    Reason.BAD_INPUT: Fault.USER,
    Reason.BAD_OUTPUT: Fault.USER,
    Reason.SANDBOX_FAILED: Fault.WORKER,
    Reason.WORKER_LOST: Fault.WORKER,
    Reason.WORKER_REMOVED: Fault.OPERATOR,
    Reason.INTERRUPTED: Fault.WORKER,
    Reason.DRAINED: Fault.OPERATOR,
    Reason.RESULTS_LOST: Fault.WORKER,
    Reason.REJECTED: Fault.WORKER,
    Reason.UNPLACEABLE: Fault.OPERATOR,
    Reason.EXPIRED: Fault.OPERATOR,
    Reason.CANCELLED: Fault.USER,
}

#: Reasons after which the same job may well end otherwise when it is run again.
RETRYABLE = frozenset(
    {
        Reason.WORKER_LOST,
        Reason.WORKER_REMOVED,
        Reason.INTERRUPTED,
        Reason.DRAINED,
        Reason.RESULTS_LOST,
        Reason.SANDBOX_FAILED,
        Reason.REJECTED,
        Reason.UNPLACEABLE,
        Reason.EXPIRED,
    }
)
