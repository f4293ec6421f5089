"""A coordinator whose store fails, whose allowlist changes and whose workers are odd, in virtual time."""

import asyncio
import hashlib

import msgspec
import pytest

from support.fake_pool import FakePool, anybody
from support.virtual_time import elapse, run, until
from trusted_pool.coordinator.service import Settings
from trusted_pool.core import happenings as h
from trusted_pool.core.job import Job, Outcome, OutputFile
from trusted_pool.core.words import Duty, JobState, Reason, WorkerHealth
from trusted_pool.link.fake import Fate
from trusted_pool.ports.store import StoreError, StoreFullError
from trusted_pool.protocol.errors import BusyError, StorageFullError

J = JobState


def remote(job: Job) -> str:
    assert job.attempt is not None
    assert job.attempt.remote_id is not None
    return job.attempt.remote_id


@pytest.mark.parametrize("inline", [True, False])
def test_an_end_that_the_store_cannot_keep_is_kept_later(inline: bool):
    async def main():
        async with FakePool("a") as pool:
            job_id = await pool.submit()
            job = await pool.accepted(job_id)
            pool.store.full = True
            data = b"result"
            output = OutputFile(path="f", size=len(data), sha256=hashlib.sha256(data).hexdigest())
            pool.ends["a"].end(remote(job), Outcome(exit_code=0, outputs=(output,)), {"f": data}, inline=inline)
            await elapse(500)
            pool.store.full = False
            await pool.state(job_id, J.COMPLETED)
            assert pool.coordinator.roster.members["a"].load.active == 0

    run(main())


def test_dispatching_outlives_a_full_disk_and_a_job_that_expires_in_it():
    async def main():
        async with FakePool("a", slots=1) as pool:
            blocker = await pool.accepted(await pool.submit())
            expiring = await pool.submit('{"expires_in": "10s"}')
            waiting = await pool.submit()
            pool.store.full = True
            await elapse(300)
            with pytest.raises(StorageFullError):
                await pool.submit()
            pool.store.full = False
            await pool.state(expiring, J.FAILED)
            pool.ends["a"].end(remote(blocker), Outcome(exit_code=0), inline=True)
            await pool.accepted(waiting)

    run(main())


def test_a_watch_outlives_a_store_that_fails_when_its_worker_is_lost():
    async def main():
        async with FakePool("a", settings=Settings(grace_s=30)) as pool:
            job_id = await pool.submit()
            await pool.accepted(job_id)
            real = pool.store.open_jobs

            async def broken(_worker_id: str | None = None):
                raise StoreError("locked")

            pool.store.open_jobs = broken  # type: ignore[method-assign]
            pool.wires["a"].cut()
            await elapse(100)
            pool.store.open_jobs = real  # type: ignore[method-assign]
            await pool.until(job_id, lambda job: job.reason is Reason.WORKER_LOST or len(job.attempts) > 1)
            pool.wires["a"].mend()
            await until(lambda: pool.coordinator.roster.members["a"].worker.health is WorkerHealth.HEALTHY)
            await pool.until(job_id, lambda job: len(job.attempts) == 2 and job.attempts[1].remote_id is not None)

    run(main())


def test_who_asks_is_told_that_the_disk_is_full():
    async def main():
        async with FakePool("a", slots=1) as pool:
            await pool.accepted(await pool.submit())
            job_id = await pool.submit()
            pool.store.full = True
            with pytest.raises(StoreFullError):
                await pool.coordinator.cancel(job_id, "local", anybody)
            pool.store.full = False
            assert (await pool.job(job_id)).state is J.QUEUED

    run(main())


def test_a_worker_that_moves_while_a_commit_is_under_way_leaks_no_slot():
    async def main():
        async with FakePool("a", slots=2) as pool:
            job_id = await pool.submit()
            job = await pool.accepted(job_id)
            pool.store.slow_s = 5.0
            pool.ends["a"].end(remote(job), Outcome(exit_code=0), inline=True)
            await elapse(2)
            old = pool.coordinator.roster.members["a"].link
            moved = [msgspec.structs.replace(w, endpoint="https://elsewhere:8443") for w in pool.allowlist]
            await pool.coordinator.reload(moved)
            pool.store.slow_s = 0.0
            await pool.state(job_id, J.COMPLETED)
            await elapse(10)
            assert pool.coordinator.roster.members["a"].load.active == 0
            assert pool.coordinator.roster.members["a"].link is not old
            for _ in range(2):
                await pool.accepted(await pool.submit())

    run(main())


def test_a_cordon_while_a_returned_worker_is_compared_is_kept():
    async def main():
        async with FakePool("a") as pool:
            await until(pool.coordinator.roster.somebody)
            pool.wires["a"].cut()
            await elapse(40)
            pool.wires["a"].fate = lambda name: Fate(delay_s=5.0 if name == "attempts" else 0.0)
            pool.wires["a"].mend()
            await until(pool.coordinator.roster.somebody)
            await pool.coordinator.duties.set("a", Duty.CORDONED)
            await elapse(60)
            assert [w.duty for w in await pool.store.workers()] == [Duty.CORDONED]

    run(main())


def test_a_release_that_always_fails_makes_no_storm():
    async def main():
        async with FakePool("a") as pool:
            calls = []

            def fate(name: str) -> Fate:
                calls.append(name)
                return Fate(arrives=name != "release")

            job = await pool.accepted(await pool.submit())
            pool.wires["a"].fate = fate
            pool.ends["a"].end(remote(job), Outcome(exit_code=0), inline=True)
            await elapse(600)
            assert calls.count("release") < 200
            pool.wires["a"].fate = lambda _name: Fate()
            await until(lambda: not pool.ends["a"].held)

    run(main())


def test_a_worker_that_is_always_full_is_asked_ever_less_and_explained():
    async def main():
        async with FakePool("a") as pool:
            pool.ends["a"].refusal = BusyError("full")
            job_id = await pool.submit()
            await elapse(3600)
            job = await pool.job(job_id)
            assert (job.state, job.spent) == (J.QUEUED, 0)
            assert len(job.attempts) < 100
            answer = await pool.coordinator.read.explain(job_id, anybody)
            assert answer.verdict == "waits"
            assert [o.code for v in answer.workers for o in v.obstacles] == ["full"]

    run(main())


def test_a_job_cancelled_before_it_arrived_is_not_sent_any_more():
    async def main():
        async with FakePool("a") as pool:
            await until(pool.coordinator.roster.somebody)
            pool.wires["a"].fate = lambda name: Fate(delay_s=20.0 if name == "submit" else 0.0)
            job_id = await pool.submit()
            await pool.state(job_id, J.DISPATCHED)
            pool.wires["a"].cut()
            answer = await pool.coordinator.cancel(job_id, "local", anybody)
            assert answer.state in (J.DISPATCHED, J.CANCELLED)
            await elapse(30)
            pool.wires["a"].fate = lambda _name: Fate()
            pool.wires["a"].mend()
            await pool.state(job_id, J.CANCELLED)
            assert pool.ends["a"].parcels == []

    run(main())


def test_a_change_that_was_kept_is_known_though_who_asked_for_it_is_gone():
    async def main():
        async with FakePool("a", slots=2) as pool:
            job = await pool.accepted(await pool.submit())
            assert pool.coordinator.roster.members["a"].load.active == 1
            pool.store.slow_s = 5.0
            ended = h.Ended(attempt=1, outcome=Outcome(exit_code=0))
            asking = asyncio.ensure_future(pool.coordinator.jobs.apply(job.job_id, ended))
            await elapse(1)
            asking.cancel()
            await elapse(10)
            pool.store.slow_s = 0.0
            assert asking.cancelled()
            assert pool.coordinator.roster.members["a"].load.active == 0

    run(main())
