"""What is true of every job at every moment. Tests and simulations call it after every step."""

from trusted_pool.core.job import Job
from trusted_pool.core.words import JOB_FINAL, AttemptState, JobState


def broken(job: Job) -> list[str]:
    """Return a sentence for each invariant that the job breaks; empty when it is sound."""
    out: list[str] = []
    last = job.attempt
    numbers = [a.number for a in job.attempts]
    collected = [a for a in job.attempts if a.state is AttemptState.COLLECTED]

    def must(holds: bool, sentence: str) -> None:
        if not holds:
            out.append(sentence)

    must(numbers == list(range(1, len(numbers) + 1)), f"attempts are numbered {numbers}")
    must(all(a.closed for a in job.attempts[:-1]), "only the newest attempt may be open")
    must(len(collected) <= 1, "more than one result was accepted")
    must(not collected or (collected[0] is last and job.final), "a collected attempt ends its job")
    must(job.spent <= job.retry.max_attempts, f"{job.spent} attempts of {job.retry.max_attempts} spent")
    must((job.completed_at is not None) == job.final, "completed_at is set exactly when the job is final")
    if job.state is JobState.QUEUED:
        must(last is None or last.closed, "a queued job has no open attempt")
        must(job.cancel_requested_at is None, "a cancelled job is not queued again")
    elif job.state not in JOB_FINAL:
        must(last is not None and not last.closed, f"a {job.state} job has an open attempt")
    if job.state is JobState.COMPLETED:
        must(len(collected) == 1, "a completed job has an accepted result")
        must(job.reason is None and job.fault is None, "a completed job has no reason")
    if job.state is JobState.FAILED:
        must(job.reason is not None and job.fault is not None, "a failed job says why and whose fault")
    if job.final:
        must(last is None or last.closed, "a final job has no open attempt")
    return out
