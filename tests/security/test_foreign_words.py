"""Case 77: what a listed worker says of an attempt that is another worker's is evidence and changes nothing."""

import hashlib

import pytest

from support.fake_pool import FakePool, anybody
from support.virtual_time import elapse, run, until
from trusted_pool.core.job import Job, Outcome, OutputFile
from trusted_pool.core.words import AttemptState, JobState, Reason
from trusted_pool.link.fake_worker import FakeWorker
from trusted_pool.protocol.messages import EndedEvent, InterruptedEvent, StartedEvent

FORGED = b"forged"
FORGED_FILE = OutputFile(path="out", size=len(FORGED), sha256=hashlib.sha256(FORGED).hexdigest())
#: What may be said of an attempt, and how it is then kept as evidence; an attempt that is told to run is no evidence
#: of anything.
WORDS = ["started", "ended", "ended with its results", "interrupted"]


def say(end: FakeWorker, job: Job, words: str, remote_id: str) -> None:
    """Let a worker tell something of a job's newest attempt."""
    attempt = job.attempts[-1].number
    common = {"seq": end._seq + 1, "job_id": job.job_id, "attempt": attempt, "remote_id": remote_id}
    outcome = Outcome(exit_code=0, outputs=(FORGED_FILE,))
    match words:
        case "started":
            end._tell(StartedEvent(**common, at=5.0))
        case "ended":
            end._tell(EndedEvent(**common, outcome=outcome))
        case "ended with its results":
            end._tell(EndedEvent(**common, outcome=outcome, log=b"", files={"out": FORGED}))
        case _:
            end._tell(InterruptedEvent(**common, words="gone"))


async def pair(pool: FakePool) -> tuple[Job, FakeWorker, FakeWorker]:
    """Return a job that one worker has, that worker, and the other."""
    job = await pool.accepted(await pool.submit())
    ours = pool.ends[job.attempts[-1].worker_id]
    return job, ours, next(end for end in pool.ends.values() if end is not ours)


async def evidence(pool: FakePool, job_id: str) -> list[tuple[object, object]]:
    return [(e.data["what"], e.data["worker_id"]) for e in await pool.store.events(job_id) if e.kind == "Stale"]


@pytest.mark.parametrize("own_name", [False, True], ids=["a name of its own", "the name that the other gave it"])
@pytest.mark.parametrize("words", WORDS)
def test_words_about_anothers_attempt_change_nothing(words: str, own_name: bool):
    async def main():
        async with FakePool("a", "b") as pool:
            job, ours, other = await pair(pool)
            remote_id = job.attempts[-1].remote_id or ""
            say(other, job, words, remote_id if own_name else "remote-77")
            await elapse(60)
            same = await pool.job(job.job_id)
            assert same == job
            what = {"started": "StartedEvent", "interrupted": "InterruptedEvent"}.get(words, "EndedEvent")
            assert await evidence(pool, job.job_id) == [(what, other.worker_id)]
            assert ours.held[remote_id].report.state is AttemptState.ACCEPTED, "nor is it ended or let go of there"
            ours.end(remote_id, Outcome(exit_code=3, reason=Reason.EXIT_CODE), inline=True)
            ended = await pool.state(job.job_id, JobState.FAILED)
            assert ended.attempts[-1].outcome is not None
            assert ended.attempts[-1].outcome.exit_code == 3

    run(main())


@pytest.mark.parametrize("state", [AttemptState.RUNNING, AttemptState.ENDED, AttemptState.INTERRUPTED])
def test_a_report_about_anothers_attempt_changes_nothing(state: AttemptState):
    """The same on the other way: by what is compared after a line broke."""

    async def main():
        async with FakePool("a", "b") as pool:
            job, ours, other = await pair(pool)
            await other.submit(ours.parcels[0])  # it is told of the job by whoever it plots with
            (remote_id,) = other.held
            outcome = Outcome(exit_code=0, outputs=(FORGED_FILE,)) if state is AttemptState.ENDED else None
            other._change(remote_id, state=state, outcome=outcome, started_at=1.0)
            other.held[remote_id].files = {"out": FORGED}
            other.journal_id = "another journal, so that all is compared"
            pool.wires[other.worker_id].cut()
            await elapse(1)
            pool.wires[other.worker_id].mend()
            await until(lambda: not other.held)  # what is unwanted there is ended and let go of
            await elapse(60)
            assert await pool.job(job.job_id) == job
            assert {who for _, who in await evidence(pool, job.job_id)} == {other.worker_id}
            assert ours.held[job.attempts[-1].remote_id or ""].report.state is AttemptState.ACCEPTED

    run(main())


@pytest.mark.parametrize("words", WORDS)
def test_control_the_same_words_of_the_right_worker_count(words: str):
    async def main():
        async with FakePool("a", "b") as pool:
            job, ours, _ = await pair(pool)
            remote_id = job.attempts[-1].remote_id or ""
            ours.held[remote_id].files = {"out": FORGED}
            say(ours, job, words, remote_id)
            after = await pool.until(job.job_id, lambda now: now != job)
            assert after != job
            if words.startswith("ended"):
                await pool.state(job.job_id, JobState.COMPLETED)
                _, result = await pool.coordinator.read.result(job.job_id, anybody)
                assert result.outputs == (FORGED_FILE,)

    run(main())
