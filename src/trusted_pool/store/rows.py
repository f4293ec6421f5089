"""Records to rows and back, and what both stores must judge alike."""

import base64
import math
import struct
import zlib
from collections.abc import Iterable, Sequence

import msgspec

from trusted_pool.core.access import ApiKey
from trusted_pool.core.job import Job
from trusted_pool.core.request import Request
from trusted_pool.core.words import JobState
from trusted_pool.core.worker import Worker
from trusted_pool.ports.store import JobQuery, Result, Share, Unit
from trusted_pool.protocol.audit import AuditEntry

OPEN = (JobState.DISPATCHED, JobState.RUNNING)
TOTAL = "total"

job_of = msgspec.json.Decoder(Job).decode
result_of = msgspec.json.Decoder(Result).decode
worker_of = msgspec.json.Decoder(Worker).decode
request_of = msgspec.json.Decoder(Request).decode
api_key_of = msgspec.json.Decoder(ApiKey).decode
audit_of = msgspec.json.Decoder(AuditEntry).decode
data_of = msgspec.json.Decoder(dict).decode
_encode = msgspec.json.Encoder().encode

#: Columns of `jobs` in the order of `job_row`.
JOB_COLUMNS = (
    "job_id",
    "version",
    "owner",
    "state",
    "shape",
    "worker_id",
    "name",
    "order_key",
    "not_before",
    "expires_at",
    "submitted_at",
    "completed_at",
    "wake_at",
    "data",
)
#: These never change, so that their indexes are left alone by a change.
FIXED_COLUMNS = ("job_id", "owner", "name", "submitted_at")


def text(record: msgspec.Struct | dict[str, object]) -> str:
    """Return a record as JSON. Raises ValueError for what JSON cannot hold."""
    return _encode(record).decode()


def worker_id_of(job: Job) -> str | None:
    """Return the worker that has the job, or had it last when it is final."""
    if job.state is JobState.QUEUED or job.attempt is None:
        return None
    return job.attempt.worker_id


def job_row(job: Job, version: int, shape: str, data: str) -> tuple[object, ...]:
    """Return the row of a job, in the order of JOB_COLUMNS."""
    queued = job.state is JobState.QUEUED
    return (
        job.job_id,
        version,
        job.owner,
        job.state.value,
        shape,
        worker_id_of(job),
        job.name,
        job.order_key,
        job.not_before,
        job.expires_at,
        job.submitted_at,
        job.completed_at,
        job.not_before if queued and job.not_before > 0 else None,
        data,
    )


def moment_of(unit: Unit) -> float:
    """Return the time that a unit knows of: of its newest event, else of its job; -inf when it knows none.

    A commit is not told the time. This one judges whether an idempotency key has run out and when a blob was used.
    """
    if unit.events:
        return max(event.at for event in unit.events)
    if unit.job is None:
        return -math.inf
    return unit.job.submitted_at if unit.job.completed_at is None else unit.job.completed_at


def record_bytes(unit: Unit, result: str) -> int:
    """Return what a unit's own records add to the bytes of its owner: the manifest of a new job, a result.

    `result`: the unit's, as it is kept. Neither ever changes, so that they can be taken off again.
    """
    added = len(result.encode())
    if unit.job is not None and unit.expects is None:
        added += len(unit.job.manifest.encode())
    return added


def role_of(unit: Unit, sha256: str) -> str:
    """Say what a unit's job uses a blob for."""
    if unit.result is not None:
        if unit.result.log_sha256 == sha256:
            return "log"
        if any(output.sha256 == sha256 for output in unit.result.outputs):
            return "output"
    if unit.job is not None and any(file.sha256 == sha256 for file in unit.job.inputs):
        return "input"
    return "other"


def check(unit: Unit) -> None:
    """Refuse a unit that makes no sense whatever the store holds. Raises ValueError."""
    job, before = unit.job, unit.before
    if not math.isfinite(unit.charge):
        raise ValueError("a charge is a number")
    if job is None and (unit.expects is not None or unit.before is not None or unit.blobs or unit.charge):
        raise ValueError("a unit without a job can neither expect a version, nor refer to blobs, nor charge")
    if job is None:
        return
    if before is not None and any(
        getattr(job, name) != getattr(before, name) for name in ("job_id", "owner", "name", "submitted_at")
    ):
        raise ValueError(f"job {job.job_id}: id, owner, name and time of submission never change")
    if (unit.expects is None) != (before is None):
        raise ValueError(f"job {job.job_id}: what changes a job gives it as it was loaded; what makes one does not")
    if unit.idempotency is not None and unit.expects is not None:
        raise ValueError("only a new job can come with an idempotency key")
    if unit.result is not None and unit.result.job_id != job.job_id:
        raise ValueError(f"the result of {unit.result.job_id} cannot be committed with job {job.job_id}")
    if "\0" in job.job_id or (unit.idempotency and "\0" in unit.idempotency.owner + unit.idempotency.key):
        raise ValueError("neither a job id nor an idempotency key may hold a NUL")
    if not all(math.isfinite(t) for t in (job.submitted_at, job.not_before, job.expires_at or 0.0)):
        raise ValueError(f"job {job.job_id}: a time is not finite")


def place_among(shares: Sequence[Share], owner: str, rank: int) -> int:
    """Return how many queued jobs go before an owner's job that has `rank` jobs of the owner before it.

    Counts as `reserve` does: each job that is picked moves its owner on by 1.
    """
    own = next((share.virtual_time for share in shares if share.owner == owner), 0.0) + rank
    before = rank
    for share in shares:
        if share.owner == owner:
            continue
        behind = own - share.virtual_time
        turns = math.floor(behind) + 1 if share.owner < owner else math.ceil(behind)
        before += min(share.queued, max(turns, 0))
    return before


def cursor(submitted_at: float, job_id: str) -> str:
    """Return the cursor of the page after this job: opaque, safe in a URL."""
    raw = struct.pack(">d", submitted_at) + job_id.encode()
    return base64.urlsafe_b64encode(struct.pack(">I", zlib.crc32(raw)) + raw).decode().rstrip("=")


def place_of(after: str) -> tuple[float, str]:
    """Return submission time and id out of a cursor. Raises ValueError for one that was not made here."""
    try:
        raw = base64.b64decode(after + "=" * (-len(after) % 4), altchars=b"-_", validate=True)
        (submitted_at,) = struct.unpack(">d", raw[4:12])
        job_id = raw[12:].decode()
    except (ValueError, struct.error):
        submitted_at, job_id = 0.0, ""
    if cursor(submitted_at, job_id) != after:  # the check sum too
        raise ValueError("this is no cursor of a page of jobs; leave it out to start with the newest")
    return submitted_at, job_id


def limit_of(query: JobQuery) -> int:
    """Return how many jobs a page holds. Raises ValueError when that is none."""
    if query.limit < 1:
        raise ValueError(f"a page holds at least 1 job, not {query.limit}")
    return query.limit


def all_states(counted: Iterable[tuple[str, int]]) -> tuple[dict[str, int], int]:
    """Return the count of every state, zeros too, and the total."""
    known = dict(counted)
    return {state.value: known.get(state.value, 0) for state in JobState}, known.get(TOTAL, 0)
