"""What the worker says of its entries."""

from trusted_pool.core.words import AttemptState, Reason
from trusted_pool.ports.journal import Entry
from trusted_pool.protocol.answers import ExecutionMetadata, WorkerStatus
from trusted_pool.protocol.messages import AttemptReport


def report_of(entry: Entry) -> AttemptReport:
    """Say it to the coordinator."""
    return AttemptReport(
        job_id=entry.job_id,
        attempt=entry.attempt,
        remote_id=entry.remote_id,
        state=entry.state,
        accepted_at=entry.accepted_at,
        started_at=entry.started_at,
        outcome=entry.outcome,
        words=entry.words,
    )


def status_of(entry: Entry) -> WorkerStatus:
    """Say it as `GET /status/{id}` does."""
    outcome = entry.outcome
    if outcome is None:
        return WorkerStatus(job_id=entry.remote_id, status=_status(entry), execution_metadata=ExecutionMetadata())
    usage = outcome.usage
    return WorkerStatus(
        job_id=entry.remote_id,
        status=_status(entry),
        execution_metadata=ExecutionMetadata(
            cpu_seconds=usage.cpu_seconds,
            memory_peak_bytes=usage.memory_peak_bytes,
            memory_peak_mb=usage.memory_peak_bytes / 2**20,
            wall_time_ms=usage.wall_time_ms,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            interpreter_version=outcome.interpreter_version,
            bytes_in=usage.bytes_in,
            bytes_out=usage.bytes_out,
            approximate=usage.approximate,
        ),
    )


def _status(entry: Entry) -> str:
    """Use the words of the sandrun API: running, completed, failed; and cancelled, interrupted."""
    if entry.state is not AttemptState.ENDED or entry.outcome is None:
        return entry.state.value
    if entry.outcome.reason is None:
        return "completed"
    return "cancelled" if entry.outcome.reason is Reason.CANCELLED else "failed"
