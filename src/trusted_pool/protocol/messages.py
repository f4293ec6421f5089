"""What coordinator and worker say to each other, and what clients are answered.

Times are seconds since the epoch. Structs of answers are open: a reader ignores fields it does not know, so that
either end may be newer.
"""

from collections.abc import Iterable

import msgspec

from trusted_pool.core.job import Outcome, OutputFile
from trusted_pool.core.request import Capacity
from trusted_pool.core.words import AttemptState

API_VERSION = 1

#: Request headers of coordinator → worker calls.
POOL_HEADER = "trusted-pool-id"
EPOCH_HEADER = "trusted-pool-epoch"
JOB_HEADER = "trusted-pool-job"
ATTEMPT_HEADER = "trusted-pool-attempt"

HEARTBEAT_S = 5.0
#: Results of at most this many bytes, log and outputs together, travel inside `ended`.
INLINE_BYTES = 32 * 1024
#: Lists of outputs that are longer, or for which all lists of a report would be, do not travel in it.
LISTED_BYTES = 4 * 1024
ALL_LISTED_BYTES = 4 * 1024 * 1024


class HealthAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`GET /health` of a worker."""

    status: str = ""  #: "healthy" when it takes jobs
    worker_id: str = ""
    version: str = ""
    api: int = 0
    capacity: Capacity = Capacity()
    active_jobs: int = 0
    draining: bool = False


class AcceptedAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`POST /submit` of a worker: it has the attempt durably."""

    job_id: str  #: the worker's own id of it: the remote id
    status: str = "queued"
    started_at: float | None = None  #: set when it runs already


class ReleasesAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`POST /release?job=…&job=…` of a worker: nothing is left of any of them but of those that run."""

    running: tuple[str, ...] = ()


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello", tag_field="type"):
    """First line of the event stream. Another `journal_id` than before: reconcile everything."""

    journal_id: str
    seq: int  #: newest event of the journal


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag="heartbeat", tag_field="type"):
    """Every 5 s when nothing else is said."""

    active_jobs: int = 0
    draining: bool = False


class StartedEvent(msgspec.Struct, frozen=True, kw_only=True, tag="started", tag_field="type"):
    """The sandbox runs."""

    seq: int
    job_id: str  #: the pool's id
    attempt: int
    remote_id: str
    at: float


class EndedEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="ended", tag_field="type"):
    """The attempt ended; results stay on the worker until it is told to release them."""

    seq: int
    job_id: str
    attempt: int
    remote_id: str
    outcome: Outcome
    log: bytes | None = None  #: the whole framed log, when results are small enough to travel along
    files: dict[str, bytes] | None = None  #: every output by its path, likewise


class InterruptedEvent(msgspec.Struct, frozen=True, kw_only=True, tag="interrupted", tag_field="type"):
    """A restart of the worker ended the attempt; there is no result and there will be none."""

    seq: int
    job_id: str
    attempt: int
    remote_id: str
    words: str = ""


WorkerMessage = Hello | Heartbeat | StartedEvent | EndedEvent | InterruptedEvent


class AttemptReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt as a worker has it. States: accepted, running, ended, interrupted."""

    job_id: str
    attempt: int
    remote_id: str
    state: AttemptState
    accepted_at: float
    started_at: float | None = None
    outcome: Outcome | None = None
    words: str = ""


def brief(reports: Iterable[AttemptReport]) -> list[AttemptReport]:
    """Leave out long lists of outputs, of up to megabytes each: `GET /outputs/{id}` has them. Short ones stay."""
    room, found = ALL_LISTED_BYTES, []
    for report in reports:
        outcome = report.outcome
        if outcome is not None and outcome.outputs:
            size = sum(len(file.path.encode()) + 150 for file in outcome.outputs)  # 150: size, digest, JSON
            if size > min(LISTED_BYTES, room):
                outcome = msgspec.structs.replace(outcome, outputs=(), more_outputs=len(outcome.outputs))
                report = msgspec.structs.replace(report, outcome=outcome)  # noqa: PLW2901 - the same one, shorter
            else:
                room -= size
        found.append(report)
    return found


class AttemptsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /attempts`: all that the worker has of this pool, with `brief` reports."""

    journal_id: str
    seq: int  #: the reports say everything up to this event
    attempts: list[AttemptReport] = []


class OutputsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /outputs/{id}` of a worker."""

    job_id: str
    files: list[OutputFile] = []
