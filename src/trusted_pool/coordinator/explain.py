"""Always explained: why a job is where it is, for each worker why not, and what failed."""

from trusted_pool.coordinator.roster import Roster, short
from trusted_pool.core.job import Job
from trusted_pool.core.placement import why_not
from trusted_pool.core.request import Obstacle, Request
from trusted_pool.core.words import RETRYABLE, JobState, Reason, WorkerHealth
from trusted_pool.ports.clock import Clock
from trusted_pool.protocol.answers import ExplainAnswer, FailureRecord, WorkerVerdict

_HINTS = {
    Reason.EXIT_CODE: "read what it printed: tpool logs {id}",
    Reason.SIGNAL: "read what it printed: tpool logs {id}",
    Reason.TIMEOUT: "raise timeout in the manifest, or let it do less",
    Reason.CPU_LIMIT: "raise cpu_seconds in the manifest",
    Reason.OUT_OF_MEMORY: "raise memory_mb in the manifest",
    Reason.DISK_LIMIT: "raise disk_mb in the manifest",
    Reason.OUTPUT_LIMIT: "name fewer files in outputs, or pack them into one",
    Reason.BAD_INPUT: "pack the project again: tar czf project.tar.gz -C project .",
    Reason.BAD_OUTPUT: "leave regular files, no links or devices",
    Reason.REJECTED: "read the workers' words above, and their logs",
    Reason.EXPIRED: "submit it again with a larger expires_in, or when the pool is less busy",
}
#: Where the reason has several limits, by the limit.
_HINTS_OF_LIMITS = {
    "files": "make fewer files, or remove those that are done with",
    "directory_depth": "nest directories less deep",
    "output_bytes": "leave less behind: name what is wanted in outputs, or compress it",
}
_AGAIN = "run it again: tpool rerun {id}"
_ELSEWHERE = "to run it elsewhere: tpool cancel {id}, then tpool rerun {id}"
#: Of a job that stays assigned.
_WHEN_HELD = {
    Reason.WORKER_LOST: f"it goes on when its worker answers again; {_ELSEWHERE}",
    Reason.WORKER_REMOVED: (
        f"it goes on when an admin lists its worker again: tpool workers add {{worker}} ENDPOINT; {_ELSEWHERE}"
    ),
}


def failure_of(job: Job, roster: Roster) -> FailureRecord | None:
    """Return the record of a failed job's failure."""
    if job.state is not JobState.FAILED or job.reason is None or job.fault is None:
        return None
    attempt = job.attempt
    outcome = attempt.outcome if attempt else None
    worker = roster.known(attempt.worker_id) if attempt else None
    return FailureRecord(
        reason=job.reason,
        fault=job.fault,
        retryable=job.reason in RETRYABLE,
        message=job.detail,
        limit=outcome.limit if outcome else "",
        exit_code=outcome.exit_code if outcome else None,
        signal=outcome.signal if outcome else None,
        evidence=outcome.evidence if outcome else {},
        words=[f"{short(a.worker_id)} {a.words}" for a in job.attempts if a.words],
        worker_last_answer_at=worker.last_answer_at if worker else None,
    )


class Explain:
    """Answers why."""

    def __init__(self, roster: Roster, clock: Clock) -> None:
        self._roster = roster
        self._clock = clock
        self.paused = False

    def verdicts(self, request: Request) -> list[WorkerVerdict]:
        """Say for each worker of the allowlist why it does not take such a job now."""
        now = self._clock.now()
        verdicts = []
        for member in self._roster.listed():
            found = why_not(request, member.worker, member.load)
            if member.full_until > now:
                words = f"it said that it is full; it is asked again in {member.full_until - now:.0f} s"
                found.append(Obstacle("full", words, impossible=False))
            worker = member.worker
            verdicts.append(WorkerVerdict(worker_id=worker.worker_id, endpoint=worker.endpoint, obstacles=found))
        return verdicts

    def prospect(self, request: Request, held_back: str = "") -> tuple[str, str, list[WorkerVerdict]]:
        """Say what would become of such a job now: a word, a sentence, the verdict of each worker.

        `held_back`: why its owner gets no more now, if so.
        """
        verdicts = self.verdicts(request)
        possible = [v for v in verdicts if not any(o.impossible for o in v.obstacles)]
        if not verdicts:
            return "impossible", "the pool has no workers", verdicts
        if not possible:
            return "impossible", "no worker of the pool can ever run it", verdicts
        if self.paused:
            return "waits", "the pool is paused", verdicts
        if held_back:
            return "waits", held_back, verdicts
        free = sum(not v.obstacles for v in possible)
        if free:
            return "starts_soon", f"{free} of {len(verdicts)} workers could take it now", verdicts
        return "waits", f"{len(possible)} of {len(verdicts)} workers can run it; none has room now", verdicts

    def explain(self, job: Job, position: int | None, held_back: str = "") -> ExplainAnswer:
        """Say why a job is where it is. `held_back`: as for `prospect`."""
        workers: list[WorkerVerdict] = []
        hint = ""
        match job.state:
            case JobState.QUEUED:
                verdict, message, workers = self.prospect(job.request, held_back)
                wait_s = job.not_before - self._clock.now()
                if job.detail:
                    message = f"{job.detail}; {message}"
                if wait_s > 0:
                    verdict, message = "waits", f"{message}; it is tried again in {wait_s:.0f} s"
                elif position:
                    message = f"{message}; {position} jobs go before it"
                if verdict == "waits" and held_back:
                    hint = "it starts when another has ended; an admin may allow more: "
                    hint += f"tpool limits set {job.owner} running=N"
                if verdict == "impossible":
                    hint = f"cancel it and ask for less: tpool cancel {job.job_id}; or add a worker that can run it"
            case JobState.DISPATCHED | JobState.RUNNING:
                worker_id = job.attempts[-1].worker_id
                verdict = "running"
                message = job.detail or f"{job.state} on {short(worker_id)}, attempt {len(job.attempts)}"
                hint = _WHEN_HELD.get(job.reason, "").replace("{worker}", worker_id) if job.reason else ""
                member = self._roster.members.get(worker_id)
                if member is not None and member.worker.health is WorkerHealth.FENCED:
                    message = f"{message}; what becomes of it is not known here: {member.worker.words}"
            case JobState.FAILED:
                verdict, message = "failed", f"{job.detail} (fault: {job.fault})"
                limit = job.attempt.outcome.limit if job.attempt and job.attempt.outcome else ""
                hint = _HINTS_OF_LIMITS.get(limit) or (_HINTS.get(job.reason, "") if job.reason else "")
                if job.reason in RETRYABLE:
                    hint = "; ".join(h for h in (hint, _AGAIN) if h)
            case JobState.CANCELLED:
                verdict, message, hint = "cancelled", job.detail, _AGAIN
            case JobState.COMPLETED:
                verdict, message, hint = "ran", "it completed", "fetch its files: tpool download {id}"
        return ExplainAnswer(
            job_id=job.job_id,
            state=job.state,
            reason=job.reason,
            verdict=verdict,
            message=message,
            hint=hint.replace("{id}", job.job_id),
            queue_position=position,
            workers=workers,
            failure=failure_of(job, self._roster),
        )
