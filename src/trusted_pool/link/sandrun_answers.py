"""What workers of the sandrun API answer, and what it means to the pool."""

from typing import TypeVar

import msgspec

from trusted_pool.core.job import Outcome, Usage
from trusted_pool.core.words import Reason
from trusted_pool.ports.link import UnansweredError
from trusted_pool.protocol.decoding import DecodingError, decode

MAX_REMOTE_ID = 200
#: Words of a job that is over.
OVER = frozenset({"completed", "failed", "cancelled"})
STARTED = "running"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /health`. A worker without a key has no id."""

    status: str = ""
    worker_id: str | None = None


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /submit`."""

    job_id: str


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ran, as the worker says it."""

    cpu_seconds: float = 0.0
    memory_peak_bytes: float = 0.0
    wall_time_ms: float = 0.0
    exit_code: int | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /status/{id}`."""

    status: str
    execution_metadata: Metadata = Metadata()


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /logs/{id}`."""

    stdout: str = ""
    stderr: str = ""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One file of `GET /outputs/{id}`."""

    name: str


class Outputs(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /outputs/{id}`."""

    files: list[Listed] = []


Answer = TypeVar("Answer", Health, Submitted, Status, Logs, Outputs)


def decoded(raw: bytes, kind: type[Answer]) -> Answer:
    """Read an answer. Bytes of a job's output that are no UTF-8 stand in it as they are; they are replaced.

    Raises:
        UnansweredError: it is none.
    """
    try:
        return decode(raw.decode(errors="replace"), kind)
    except DecodingError as error:
        raise UnansweredError(f"its answer cannot be understood: {error}") from None


def said(text: str) -> bytes:
    r"""Return the bytes that a worker meant by a string.

    Existing workers write every byte above 127 as an escape of its own, so that an é arrives as "\u00c3\u00a9".
    """
    try:
        raw = text.encode("latin-1")
        raw.decode()
    except (UnicodeEncodeError, UnicodeDecodeError):
        return text.encode(errors="replace")
    return raw


def outcome_of(status: Status, *, cancelled: bool) -> Outcome:
    """Say how a job ended, without outputs. What it used is the worker's word, measured as it does."""
    meta = status.execution_metadata
    usage = Usage(
        cpu_seconds=max(0.0, meta.cpu_seconds),
        memory_peak_bytes=max(0, int(meta.memory_peak_bytes)),
        wall_time_ms=max(0.0, meta.wall_time_ms),
        approximate=True,
    )
    code = meta.exit_code
    reason: Reason | None = None
    signal: int | None = None
    detail = ""
    if cancelled:
        reason, detail = Reason.CANCELLED, "it was cancelled; a worker of this kind may have run it to its end"
    elif status.status != "completed":
        reason = Reason.EXIT_CODE
        detail = f"it ended with exit code {code}" if code else "its worker says that it failed, and not why"
        if code is not None and code < 0:
            reason, signal, code = Reason.SIGNAL, -code, None
            detail = f"it was ended by signal {signal}"
    return Outcome(reason=reason, exit_code=code, signal=signal, detail=detail, usage=usage)
