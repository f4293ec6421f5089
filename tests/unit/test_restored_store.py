"""A store that was put back from a backup gives numbers of attempts again; what workers then say of the first ones."""

import hashlib

from support.fake_pool import POOL, FakePool, anybody
from support.virtual_time import run, until
from trusted_pool.core.job import Job, Outcome, OutputFile
from trusted_pool.core.words import AttemptState, JobState, Reason
from trusted_pool.link.fake_worker import Parcel
from trusted_pool.ports.link import Order
from trusted_pool.protocol.errors import ConflictError

J, A = JobState, AttemptState


def remote(job: Job) -> str:
    assert job.attempt is not None
    assert job.attempt.remote_id is not None
    return job.attempt.remote_id


def outcome(data: bytes) -> Outcome:
    file = OutputFile(path="x", size=len(data), sha256=hashlib.sha256(data).hexdigest())
    return Outcome(exit_code=0, outputs=(file,))


async def read(pool: FakePool, job_id: str) -> bytes:
    _, result = await pool.coordinator.read.result(job_id, anybody)
    return b"".join([p async for p in pool.coordinator.contents.open(result.outputs[0].sha256)])


def test_a_result_of_the_same_number_from_another_worker_is_evidence_and_no_result():
    async def main():
        async with FakePool("a", "b") as pool:
            job_id = await pool.submit()
            job = await pool.accepted(job_id)
            assert job.attempt is not None
            ours = pool.ends[job.attempt.worker_id]
            (other,) = (end for end in pool.ends.values() if end is not ours)
            await other.submit(ours.parcels[0])  # as it was given out before the restore
            (theirs,) = other.held
            other.start(theirs)
            other.end(theirs, outcome(b"theirs"), {"x": b"theirs"}, inline=True)
            await until(lambda: not other.held)  # it is let go of
            assert (await pool.job(job_id)).attempts[0].state is A.ACCEPTED
            ours.end(remote(job), outcome(b"ours"), {"x": b"ours"}, inline=True)
            await pool.state(job_id, J.COMPLETED)
            assert await read(pool, job_id) == b"ours"
            stale = [e.data for e in await pool.store.events(job_id) if e.kind == "Stale"]
            assert {data["worker_id"] for data in stale} == {other.worker_id}
            assert "EndedEvent" in {data["what"] for data in stale}

    run(main())


def test_an_attempt_that_was_released_already_is_over_and_the_next_one_runs():
    async def main():
        async with FakePool("a") as pool:
            end = pool.ends["a"]
            end.refusal = ConflictError("this attempt is over", code="attempt_over", status=410)
            job_id = await pool.submit()
            await pool.until(job_id, lambda job: bool(job.attempts) and job.attempts[0].closed)
            end.refusal = None
            job = await pool.until(job_id, lambda job: len(job.attempts) == 2 and job.attempts[1].remote_id is not None)
            assert job.attempts[0].state is A.INTERRUPTED
            assert job.attempts[0].spent  # it did run: a job that may run once is not run again
            assert job.request.refused_by == ()

    run(main())


def test_a_job_that_may_run_once_is_not_run_again_after_a_restore():
    async def main():
        async with FakePool("a") as pool:
            end = pool.ends["a"]
            end.refusal = ConflictError("this attempt is over", code="attempt_over", status=410)
            job_id = await pool.submit('{"retry": {"max_attempts": 1}}')
            job = await pool.state(job_id, J.FAILED)
            assert job.reason is Reason.INTERRUPTED

    run(main())


def test_an_attempt_that_was_ended_without_anybody_asking_is_tried_again_and_the_job_is_not_cancelled():
    async def main():
        async with FakePool("a") as pool:
            end = pool.ends["a"]
            job_id = await pool.submit()
            job = await pool.accepted(job_id)
            end.end(remote(job), Outcome(reason=Reason.CANCELLED), inline=True)
            job = await pool.until(job_id, lambda job: len(job.attempts) == 2)
            assert job.attempts[0].state is A.INTERRUPTED
            await until(lambda: len(end.held) == 1)  # the first was let go of

    run(main())


def test_a_waiting_job_that_a_worker_has_already_is_taken_over():
    async def main():
        async with FakePool("a") as pool:
            end = pool.ends["a"]
            await pool.coordinator.pause(paused=True)
            job_id = await pool.submit()
            job = await pool.job(job_id)
            order = Order(job_id=job_id, attempt=1, manifest=job.manifest, inputs=job.inputs)
            await end.submit(Parcel(pool_id=POOL, epoch=1, order=order, files=()))
            (theirs,) = end.held
            end.start(theirs)
            job = await pool.state(job_id, J.RUNNING)
            end.end(theirs, outcome(b"x"), {"x": b"x"}, inline=True)
            job = await pool.state(job_id, J.COMPLETED)
            assert [a.worker_id for a in job.attempts] == ["a"]
            assert len(end.parcels) == 1  # it was not sent a second time

    run(main())
