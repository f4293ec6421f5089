"""A job's status in words."""

from trusted_pool.cli import screen
from trusted_pool.core.words import JobState, Reason
from trusted_pool.ports.store import FARTHEST
from trusted_pool.protocol.answers import StatusAnswer

_SHORT_ID = 12
_MOST_WORKERS = 5


def ending(status: StatusAnswer) -> str:
    """Say in one line how a job ended."""
    words = [str(status.state)]
    if status.reason is not None and str(status.reason) != str(status.state):
        words.append(f"({status.reason}{_exit_code(status)}; fault: {status.fault or 'nobody'})")
    worker = status.worker_status
    if worker is not None:
        used = worker.execution_metadata
        words.append(
            f"after {screen.span(used.wall_time_ms / 1000)}, {screen.span(used.cpu_seconds)} of cpu,"
            f" {screen.size(used.memory_peak_bytes)} of memory"
        )
    if status.worker_id is not None:
        words.append(f"on {status.worker_id[:_SHORT_ID]}…")
    line = " ".join(words)
    if status.state is not JobState.COMPLETED and status.detail:
        line += f": {status.detail}"
    if status.retryable:
        line += " (running it again may help)"
    return line


def _exit_code(status: StatusAnswer) -> str:
    outcome = status.attempts[-1].outcome if status.attempts else None
    if outcome is None:
        return ""
    if status.reason is Reason.EXIT_CODE and outcome.exit_code is not None:
        return f" {outcome.exit_code}"
    if status.reason is Reason.SIGNAL and outcome.signal is not None:
        return f" {outcome.signal}"
    return ""


def waiting(status: StatusAnswer) -> str:
    """Say in one line why a queued job waits."""
    position = status.queue_position
    place = "" if position is None else f", {screen.plural(position, 'job')}{_more(position)} before it"
    why = status.detail
    verdicts = status.waiting_for or []
    reasons = [
        f"{v.worker_id[:_SHORT_ID]}…: {', '.join(o.message for o in v.obstacles)}" for v in verdicts if v.obstacles
    ]
    if reasons:
        shown = "; ".join(reasons[:_MOST_WORKERS])
        more = len(reasons) - _MOST_WORKERS
        why = shown + (f"; and {more} more" if more > 0 else "")
    return f"queued{place}" + (f" ({why})" if why else "")


def _more(position: int) -> str:
    return " or more" if position >= FARTHEST else ""


def lines(status: StatusAnswer) -> list[tuple[str, str]]:
    """Return a job's status as pairs of a word and what is to be said of it."""
    out = [("job", status.job_id)]
    if status.name:
        out.append(("name", status.name))
    if status.completed_at is not None:
        out.append(("state", ending(status)))
    elif status.state is JobState.QUEUED:
        out.append(("state", waiting(status)))
    else:
        reason = f" ({status.reason})" if status.reason is not None else ""
        out.append(("state", f"{status.state}{reason}"))
        if status.detail:
            out.append(("", status.detail))
    if status.worker_id is not None:
        out.append(("worker", status.worker_id))
    out.append(("submitted", screen.moment(status.submitted_at)))
    if status.completed_at is not None:
        took = screen.span(max(0.0, status.completed_at - status.submitted_at))
        out.append(("ended", f"{screen.moment(status.completed_at)}, {took} after its submit"))
    if status.cancel_requested_at is not None:
        out.append(("cancel", f"asked for {screen.moment(status.cancel_requested_at)}"))
    if len(status.attempts) > 1:
        for attempt in status.attempts:
            words = f" ({attempt.words})" if attempt.words else ""
            out.append((f"attempt {attempt.number}", f"{attempt.state} on {attempt.worker_id[:_SHORT_ID]}…{words}"))
    out.append(("files", ", ".join(f"{i.name} ({screen.size(i.size)})" for i in status.inputs) or "none"))
    return out
