"""Exit codes: what a script learns of a job or of an error."""

from enum import IntEnum

from trusted_pool.client.errors import ClientError, NoLongerWaitingError, PackError, RequestError
from trusted_pool.core.words import Fault, JobState, Reason
from trusted_pool.protocol.answers import StatusAnswer


class Exit(IntEnum):
    """The codes of `tpool`."""

    OK = 0
    JOB_FAILED = 1
    USAGE = 2
    REJECTED = 3
    TIMEOUT = 124
    INFRASTRUCTURE = 125
    INTERRUPTED = 130


#: Where the reason says more than the fault.
_OF_REASON = {
    Reason.TIMEOUT: Exit.TIMEOUT,
    Reason.REJECTED: Exit.REJECTED,
    Reason.UNPLACEABLE: Exit.REJECTED,
    Reason.BAD_INPUT: Exit.REJECTED,
}
_OF_FAULT = {
    Fault.USER: Exit.JOB_FAILED,
    Fault.LIMIT: Exit.JOB_FAILED,
    Fault.WORKER: Exit.INFRASTRUCTURE,
    Fault.COORDINATOR: Exit.INFRASTRUCTURE,
    Fault.OPERATOR: Exit.INFRASTRUCTURE,
}
#: Error codes of wrong local use.
_LOCAL = frozenset(
    {
        "bad_address",
        "bad_cacert",
        "bad_token",
        "insecure_http",
        "unsafe_credentials",
        "usage",
        "no_last_job",
        "ambiguous_job",
        "cannot_write",
    }
)
_SERVER_ERROR = 500


def of_job(status: StatusAnswer, *, propagate: bool) -> int:
    """Return the exit code for an ended job. `propagate`: the program's own, where it has one."""
    if status.state is JobState.COMPLETED:
        return Exit.OK
    if propagate and (own := _own(status)) is not None:
        return own
    if status.reason in _OF_REASON:
        return _OF_REASON[status.reason]
    return _OF_FAULT[status.fault] if status.fault is not None else Exit.JOB_FAILED


def _own(status: StatusAnswer) -> int | None:
    outcome = status.attempts[-1].outcome if status.attempts else None
    if outcome is None:
        return None
    if status.reason is Reason.EXIT_CODE:
        return outcome.exit_code
    if status.reason is Reason.SIGNAL and outcome.signal is not None:
        return 128 + outcome.signal  # as a shell does
    return None


def of_error(error: ClientError) -> Exit:
    """Return the exit code for an error of the client."""
    if isinstance(error, PackError) or error.code in _LOCAL:
        return Exit.USAGE
    if isinstance(error, NoLongerWaitingError):
        return Exit.TIMEOUT
    if isinstance(error, RequestError) and not error.retryable and (error.status or _SERVER_ERROR) < _SERVER_ERROR:
        return Exit.REJECTED
    return Exit.REJECTED if error.code in ("no_such_job", "no_such_output") else Exit.INFRASTRUCTURE
