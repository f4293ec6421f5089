"""The state machines of job and attempt, as data. `docs/states.md` is made from them.

Rules of this file:

- A pair (state, kind) that a table does not hold is illegal: `advance` raises and changes nothing.
- An entry that leads back to its own state is a duplicate or a late message; it may fill in what is missing.
- Attempts move by what happened. Jobs move by a `Move`, which `advance` decides from what happened and from the
  job's retry policy.
- Nothing leaves a final state.
"""

from enum import StrEnum

from trusted_pool.core.words import AttemptState as A
from trusted_pool.core.words import JobState as J


class Move(StrEnum):
    """What a happening means for the job."""

    PLACE = "place"
    KEEP = "keep"
    START = "start"
    END = "end"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"
    REQUEUE = "requeue"


ATTEMPT: dict[tuple[A, str], A] = {
    (A.DISPATCHING, "Accepted"): A.ACCEPTED,
    (A.DISPATCHING, "Started"): A.RUNNING,  # the event overtook the reply
    (A.DISPATCHING, "Ended"): A.ENDED,  # the event overtook the reply
    (A.DISPATCHING, "Refused"): A.REFUSED,
    (A.DISPATCHING, "WorkerFull"): A.REFUSED,
    (A.DISPATCHING, "NotSent"): A.REFUSED,
    (A.DISPATCHING, "Held"): A.DISPATCHING,
    (A.DISPATCHING, "WorkerLost"): A.LOST,
    (A.DISPATCHING, "Interrupted"): A.INTERRUPTED,
    (A.DISPATCHING, "CancelConfirmed"): A.CANCELLED,
    (A.ACCEPTED, "Accepted"): A.ACCEPTED,
    (A.ACCEPTED, "Started"): A.RUNNING,
    (A.ACCEPTED, "Ended"): A.ENDED,
    (A.ACCEPTED, "Held"): A.ACCEPTED,
    (A.ACCEPTED, "WorkerLost"): A.LOST,
    (A.ACCEPTED, "Interrupted"): A.INTERRUPTED,
    (A.ACCEPTED, "CancelConfirmed"): A.CANCELLED,
    (A.RUNNING, "Accepted"): A.RUNNING,  # the reply came late; it names the remote id
    (A.RUNNING, "Started"): A.RUNNING,
    (A.RUNNING, "Ended"): A.ENDED,
    (A.RUNNING, "Held"): A.RUNNING,
    (A.RUNNING, "WorkerLost"): A.LOST,
    (A.RUNNING, "Interrupted"): A.INTERRUPTED,
    (A.RUNNING, "CancelConfirmed"): A.CANCELLED,
    (A.ENDED, "Accepted"): A.ENDED,
    (A.ENDED, "Started"): A.ENDED,
    (A.ENDED, "Ended"): A.ENDED,
    (A.ENDED, "Held"): A.ENDED,
    (A.ENDED, "Collected"): A.COLLECTED,
    (A.ENDED, "ResultsLost"): A.LOST,
    (A.ENDED, "WorkerLost"): A.LOST,
    (A.ENDED, "Interrupted"): A.INTERRUPTED,
    (A.ENDED, "CancelConfirmed"): A.ENDED,  # the end came first; it stands
    (A.COLLECTED, "Accepted"): A.COLLECTED,
    (A.COLLECTED, "Started"): A.COLLECTED,
    (A.COLLECTED, "Ended"): A.COLLECTED,  # told again after a lost release
    (A.COLLECTED, "Collected"): A.COLLECTED,
    (A.COLLECTED, "CancelConfirmed"): A.COLLECTED,
}

JOB: dict[tuple[J, Move], J] = {
    (J.QUEUED, Move.PLACE): J.DISPATCHED,
    (J.QUEUED, Move.FAIL): J.FAILED,
    (J.QUEUED, Move.CANCEL): J.CANCELLED,
    (J.DISPATCHED, Move.KEEP): J.DISPATCHED,
    (J.DISPATCHED, Move.START): J.RUNNING,
    (J.DISPATCHED, Move.END): J.RUNNING,
    (J.DISPATCHED, Move.FAIL): J.FAILED,
    (J.DISPATCHED, Move.CANCEL): J.CANCELLED,
    (J.DISPATCHED, Move.REQUEUE): J.QUEUED,
    (J.RUNNING, Move.KEEP): J.RUNNING,
    (J.RUNNING, Move.START): J.RUNNING,
    (J.RUNNING, Move.END): J.RUNNING,
    (J.RUNNING, Move.COMPLETE): J.COMPLETED,
    (J.RUNNING, Move.FAIL): J.FAILED,
    (J.RUNNING, Move.CANCEL): J.CANCELLED,
    (J.RUNNING, Move.REQUEUE): J.QUEUED,
    (J.COMPLETED, Move.KEEP): J.COMPLETED,
    (J.FAILED, Move.KEEP): J.FAILED,
    (J.CANCELLED, Move.KEEP): J.CANCELLED,
}

#: Happenings of a job that has no current attempt to fence.
OF_JOB = ("Placed", "CancelRequested", "Reprioritised", "Expired", "Unplaceable")
#: Happenings of one attempt, fenced by its number.
OF_ATTEMPT = tuple(sorted({kind for _, kind in ATTEMPT}))
