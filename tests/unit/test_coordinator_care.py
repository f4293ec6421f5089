"""Looking after jobs and workers: explain, rerun, priorities, drains, pauses, evidence. In virtual time."""

import asyncio
import hashlib

import msgspec
import pytest

from support.fake_pool import FakePool, anybody
from support.virtual_time import elapse, run, until
from trusted_pool.coordinator.service import Settings
from trusted_pool.core import happenings as h
from trusted_pool.core.advance import IllegalTransitionError
from trusted_pool.core.job import Job, Outcome, OutputFile
from trusted_pool.core.request import Capacity
from trusted_pool.core.words import Duty, Fault, JobState, Reason
from trusted_pool.protocol.errors import NotFoundError

J = JobState


def remote(job: Job) -> str:
    assert job.attempt is not None
    assert job.attempt.remote_id is not None
    return job.attempt.remote_id


def test_a_waiting_job_says_for_each_worker_why_not():
    async def main():
        async with FakePool("a", "b", slots=1) as pool:
            for _ in range(2):
                await pool.accepted(await pool.submit())
            job_id = await pool.submit()
            answer = await pool.coordinator.read.explain(job_id, anybody)
            assert (answer.verdict, answer.queue_position) == ("waits", 0)
            assert {v.worker_id: [o.code for o in v.obstacles] for v in answer.workers} == {
                "a": ["slots"],
                "b": ["slots"],
            }
            await pool.coordinator.pause(paused=True)
            answer = await pool.coordinator.read.explain(job_id, anybody)
            assert "paused" in answer.message

    run(main())


def test_a_job_that_became_impossible_says_so():
    async def main():
        async with FakePool("a", slots=1) as pool:
            await pool.accepted(await pool.submit())
            job_id = await pool.submit('{"memory_mb": 900}')
            member = pool.coordinator.roster.members["a"]
            member.worker = msgspec.structs.replace(member.worker, capacity=Capacity(slots=1, memory_mb=100))
            answer = await pool.coordinator.read.explain(job_id, anybody)
            assert answer.verdict == "impossible"
            assert any(o.impossible and o.code == "memory" for v in answer.workers for o in v.obstacles)
            assert "tpool cancel" in answer.hint

    run(main())


def test_a_failure_record_has_evidence_and_a_hint():
    async def main():
        async with FakePool("a") as pool:
            job_id = await pool.submit()
            job = await pool.accepted(job_id)
            outcome = Outcome(
                reason=Reason.OUT_OF_MEMORY,
                exit_code=0,
                limit="memory_mb",
                detail="it used more than 512 MB",
                evidence={"oom_kill": 1, "memory_peak_bytes": 512 << 20},
            )
            pool.ends["a"].end(remote(job), outcome, inline=True)
            await pool.state(job_id, J.FAILED)
            failure = (await pool.coordinator.read.status(job_id, anybody)).failure
            assert failure is not None
            assert (failure.reason, failure.fault, failure.retryable) == (Reason.OUT_OF_MEMORY, Fault.LIMIT, False)
            assert (failure.limit, failure.evidence["oom_kill"]) == ("memory_mb", 1)
            answer = await pool.coordinator.read.explain(job_id, anybody)
            assert "memory_mb" in answer.hint

    run(main())


def test_a_rerun_is_a_new_job_with_the_same_files():
    async def main():
        async with FakePool("a") as pool:
            job_id = await pool.submit('{"name": "x", "args": ["1"]}', {"main.py": b"print(1)"})
            old = await pool.accepted(job_id)
            pool.ends["a"].end(remote(old), Outcome(exit_code=0), inline=True)
            old = await pool.state(job_id, J.COMPLETED)
            new = await pool.coordinator.submit.rerun(old, "local")
            assert (new.rerun_of, new.manifest, new.inputs, new.name) == (job_id, old.manifest, old.inputs, "x")
            await pool.accepted(new.job_id)
            first, second = pool.ends["a"].parcels
            assert first.files == second.files

    run(main())


def test_priority_is_worth_minutes_and_changes_while_a_job_waits():
    async def main():
        async with FakePool("a", slots=1) as pool:
            blocker = await pool.accepted(await pool.submit())
            first = await pool.submit()
            await elapse(1)
            second = await pool.submit()
            await pool.coordinator.jobs.apply(second, h.Reprioritised(priority=1, by="local"))
            pool.ends["a"].end(remote(blocker), Outcome(exit_code=0), inline=True)
            job = await pool.accepted(second)
            assert (await pool.job(first)).state is J.QUEUED
            with pytest.raises(IllegalTransitionError):
                await pool.coordinator.jobs.apply(second, h.Reprioritised(priority=2, by="local"))
            pool.ends["a"].end(remote(job), Outcome(exit_code=0), inline=True)
            await pool.accepted(first)

    run(main())


def test_an_expired_job_was_never_started():
    async def main():
        async with FakePool("a", slots=1) as pool:
            await pool.accepted(await pool.submit())
            job_id = await pool.submit('{"expires_in": "60s"}')
            job = await pool.state(job_id, J.FAILED)
            assert (job.reason, job.attempts) == (Reason.EXPIRED, ())
            assert 60 <= (job.completed_at or 0) - job.submitted_at <= 70

    run(main())


def test_a_cordoned_worker_gets_nothing_new_and_stays_so_over_a_restart():
    async def main():
        async with FakePool("a") as pool:
            await pool.coordinator.duties.set("a", Duty.CORDONED)
            job_id = await pool.submit()
            await elapse(100)
            assert (await pool.job(job_id)).state is J.QUEUED
            await pool.coordinator.stop()
            await pool.start()
            await elapse(100)
            assert (await pool.job(job_id)).state is J.QUEUED
            assert pool.coordinator.read.workers()[0].duty is Duty.CORDONED
            await pool.coordinator.duties.set("a", Duty.ACTIVE)
            await pool.accepted(job_id)
            with pytest.raises(NotFoundError):
                await pool.coordinator.duties.set("nobody", Duty.CORDONED)

    run(main())


def test_a_drained_worker_finishes_what_it_has():
    async def main():
        async with FakePool("a", slots=1) as pool:
            job = await pool.accepted(await pool.submit())
            await pool.coordinator.duties.set("a", Duty.DRAINING)
            assert not pool.coordinator.read.workers()[0].drained
            pool.ends["a"].end(remote(job), Outcome(exit_code=0), inline=True)
            await pool.state(job.job_id, J.COMPLETED)
            assert pool.coordinator.read.workers()[0].drained

    run(main())


@pytest.mark.parametrize("restart", [False, True])
def test_a_drain_with_a_deadline_sends_what_still_runs_elsewhere(restart: bool):
    async def main():
        async with FakePool("a", "b", slots=1) as pool:
            job_id = await pool.submit()
            job = await pool.accepted(job_id)
            drained = job.attempts[0].worker_id
            await pool.coordinator.duties.set(drained, Duty.DRAINING, 50)
            if restart:
                await pool.coordinator.stop()
                await pool.start()
            await elapse(40)
            assert len((await pool.job(job_id)).attempts) == 1
            job = await pool.until(job_id, lambda job: len(job.attempts) == 2)
            assert job.attempts[0].worker_id != job.attempts[1].worker_id
            await until(lambda: not pool.ends[drained].held)
            assert pool.coordinator.read.workers()[0 if drained == "a" else 1].drained

    run(main())


def test_a_worker_that_says_it_leaves_gets_nothing_new():
    async def main():
        async with FakePool("a") as pool:
            await until(pool.coordinator.roster.somebody)
            pool.ends["a"].draining = True
            await elapse(31)
            job_id = await pool.submit()
            await elapse(5)
            answer = await pool.coordinator.read.explain(job_id, anybody)
            assert [o.code for v in answer.workers for o in v.obstacles] == ["leaving"]

    run(main())


def test_the_result_of_a_stale_attempt_is_kept_as_evidence():
    async def main():
        async with FakePool("a", "b", slots=1, settings=Settings(grace_s=30)) as pool:
            job_id = await pool.submit()
            job = await pool.accepted(job_id)
            slow, old = job.attempts[0].worker_id, remote(job)
            pool.wires[slow].cut()
            await pool.until(job_id, lambda job: len(job.attempts) == 2 and job.attempts[1].remote_id is not None)
            digest = hashlib.sha256(b"late").hexdigest()
            late = OutputFile(path="f", size=4, sha256=digest)
            pool.ends[slow].end(old, Outcome(exit_code=0, outputs=(late,)), {"f": b"late"}, inline=True)
            pool.wires[slow].mend()
            await until(lambda: not pool.ends[slow].held)
            answer = await pool.coordinator.read.history(job_id, anybody)
            stale = [e for e in answer.events if e.kind == "Stale"]
            assert [(e.attempt, e.data["worker_id"], e.data["outputs"]) for e in stale] == [(1, slow, {"f": digest})]

    run(main())


def test_a_cordon_during_a_health_check_is_not_forgotten():
    async def main():
        async with FakePool("a") as pool:
            await until(pool.coordinator.roster.somebody)
            end = pool.ends["a"]
            healthy = end.health
            asked, answer = asyncio.Event(), asyncio.Event()

            async def slow():
                asked.set()
                await answer.wait()
                return await healthy()

            end.health = slow  # type: ignore[method-assign]
            await asked.wait()
            await pool.coordinator.duties.set("a", Duty.CORDONED)
            answer.set()
            await elapse(5)
            assert pool.coordinator.roster.members["a"].worker.duty is Duty.CORDONED

    run(main())


def test_a_paused_pool_dispatches_nothing_and_stays_so_over_a_restart():
    async def main():
        async with FakePool("a") as pool:
            await until(pool.coordinator.roster.somebody)
            running = await pool.accepted(await pool.submit())
            await pool.coordinator.pause(paused=True)
            job_id = await pool.submit()
            pool.ends["a"].end(remote(running), Outcome(exit_code=0), inline=True)
            await pool.state(running.job_id, J.COMPLETED)
            await pool.coordinator.stop()
            await pool.start()
            await elapse(100)
            assert (await pool.job(job_id)).state is J.QUEUED
            assert (await pool.coordinator.read.pool()).paused
            await pool.coordinator.pause(paused=False)
            await pool.accepted(job_id)

    run(main())


def test_owners_take_turns_however_many_jobs_one_has_queued():
    async def main():
        async with FakePool("a", slots=1) as pool:
            blocker = await pool.accepted(await pool.submit())
            greedy = [await pool.submit(owner="greedy") for _ in range(6)]
            modest = [await pool.submit(owner="modest") for _ in range(2)]
            order = []
            job = blocker
            for _ in range(8):
                pool.ends["a"].end(remote(job), Outcome(exit_code=0), inline=True)
                await pool.state(job.job_id, J.COMPLETED)
                known = set(order)
                await until(lambda known=known: any(p.order.job_id not in known for p in pool.ends["a"].parcels[1:]))
                job = await pool.accepted(pool.ends["a"].parcels[-1].order.job_id)
                order.append(job.job_id)
            owners = ["modest" if job_id in modest else "greedy" for job_id in order]
            assert owners[:4].count("modest") == 2, owners
            assert [j for j in order if j in greedy] == greedy

    run(main())


def test_who_was_served_alone_owes_nothing_to_who_comes_later():
    async def main():
        async with FakePool("a", slots=1) as pool:
            for _ in range(10):
                job = await pool.accepted(await pool.submit(owner="early"))
                pool.ends["a"].end(remote(job), Outcome(exit_code=0), inline=True)
                await pool.state(job.job_id, J.COMPLETED)
            blocker = await pool.accepted(await pool.submit(owner="early"))
            late = [await pool.submit(owner="late") for _ in range(5)]
            again = await pool.submit(owner="early")
            for job_id in (again, late[0]):
                pool.ends["a"].end(remote(blocker), Outcome(exit_code=0), inline=True)
                blocker = await pool.accepted(job_id)

    run(main())
