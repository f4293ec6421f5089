"""A coordinator that another one of its pool has replaced: it leaves the workers alone and says so; in virtual time."""

import asyncio
import hashlib
import logging
from pathlib import Path

import pytest

from support.fake_pool import FakePool, anybody
from support.virtual_time import elapse, run, until
from trusted_pool.coordinator.epoch import EPOCH, next_epoch
from trusted_pool.coordinator.service import Settings
from trusted_pool.core.job import Job, Outcome, OutputFile
from trusted_pool.core.words import AttemptState, Duty, JobState, WorkerHealth
from trusted_pool.core.worker import Worker
from trusted_pool.link.fake import Fate
from trusted_pool.ports.store import Unit
from trusted_pool.protocol.errors import StaleEpochError
from trusted_pool.store.memory import MemoryStore
from trusted_pool.store.sqlite import SqliteStore

J = JobState
GRACE_S = 60.0
FENCE = StaleEpochError("another coordinator of this pool has this worker", hint="stop one of the two")
DATA = b"a result that does not travel in the event"
OUTPUT = OutputFile(path="f", size=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())


def remote(job: Job) -> str:
    assert job.attempt is not None
    assert job.attempt.remote_id is not None
    return job.attempt.remote_id


def known(pool: FakePool, name: str) -> Worker:
    return pool.coordinator.roster.members[name].worker


def fence(pool: FakePool, name: str) -> None:
    """Let another coordinator come to a worker: what is open there is cut, every call is refused from now on."""
    pool.wires[name].refusal = FENCE
    pool.wires[name].cut()
    pool.wires[name].mend()


async def fenced(pool: FakePool, name: str) -> None:
    fence(pool, name)
    await until(lambda: known(pool, name).health is WorkerHealth.FENCED)


@pytest.mark.parametrize("silent_later", [False, True])
def test_what_a_fenced_worker_runs_is_not_run_elsewhere(silent_later: bool, caplog: pytest.LogCaptureFixture):
    async def main():
        async with FakePool("a", "b", settings=Settings(grace_s=GRACE_S)) as pool:
            await pool.coordinator.duties.set("b", Duty.CORDONED)
            job = await pool.accepted(await pool.submit())
            await pool.coordinator.duties.set("b", Duty.ACTIVE)
            await fenced(pool, "a")
            if silent_later:
                pool.wires["a"].cut()
            await elapse(10 * GRACE_S)
            worker = known(pool, "a")
            assert worker.health is WorkerHealth.FENCED
            assert "stop one of the two" in worker.words
            lines = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
            assert lines == [f"Worker a... is fenced off from this coordinator: {worker.words}"], "said once"
            same = await pool.job(job.job_id)
            assert [a.worker_id for a in same.attempts] == ["a"]
            answer = await pool.coordinator.read.explain(job.job_id, anybody)
            assert "another coordinator of this pool has this worker" in answer.message
            other = await pool.accepted(await pool.submit())
            assert [a.worker_id for a in other.attempts] == ["b"]
            assert len(pool.ends["a"].parcels) == 1

    run(main())


def test_control_without_the_fence_a_silent_worker_loses_its_jobs_to_another():
    async def main():
        async with FakePool("a", "b", settings=Settings(grace_s=GRACE_S)) as pool:
            await pool.coordinator.duties.set("b", Duty.CORDONED)
            job = await pool.accepted(await pool.submit())
            await pool.coordinator.duties.set("b", Duty.ACTIVE)
            pool.wires["a"].cut()
            again = await pool.until(job.job_id, lambda job: len(job.attempts) == 2)
            assert [a.worker_id for a in again.attempts] == ["a", "b"]

    run(main())


def test_nothing_is_cancelled_drained_or_collected_there_and_nobody_knocks_all_the_time():
    async def main():
        async with FakePool("a", "b", settings=Settings(grace_s=GRACE_S)) as pool:
            await pool.coordinator.duties.set("b", Duty.CORDONED)
            cancelled, drained, ended = [await pool.accepted(await pool.submit()) for _ in range(3)]
            await pool.coordinator.duties.set("b", Duty.ACTIVE)
            end, calls = pool.ends["a"], []

            def fate(name: str) -> Fate:
                calls.append(name)
                if name == "output":
                    fence(pool, "a")  # in the middle of the copying
                return Fate()

            pool.wires["a"].fate = fate
            end.end(remote(ended), Outcome(exit_code=0, outputs=(OUTPUT,)), {"f": DATA})
            await until(lambda: known(pool, "a").health is WorkerHealth.FENCED)
            await pool.coordinator.cancel(cancelled.job_id, "local", anybody)
            await pool.coordinator.duties.set("a", Duty.DRAINING, deadline_s=5.0)
            calls.clear()
            await elapse(3600)
            assert [h.report.state for h in end.held.values()] == [
                AttemptState.ACCEPTED,
                AttemptState.ACCEPTED,
                AttemptState.ENDED,
            ]
            states = [(await pool.job(j.job_id)).attempts[-1].state for j in (cancelled, drained, ended)]
            assert states == [AttemptState.ACCEPTED, AttemptState.ACCEPTED, AttemptState.ENDED]
            assert len(calls) < 200, "a check each 30 s"
            assert set(calls) == {"health", "cancel"}
            assert calls.count("cancel") == 1, "asked for once, and refused"

            pool.wires["a"].fate = lambda _name: Fate()
            pool.wires["a"].refusal = None  # it forgot who the newest was, or we came back
            await pool.state(ended.job_id, J.COMPLETED)
            await until(lambda: end.held[remote(cancelled)].report.state is AttemptState.ENDED)

    run(main())


def test_a_submit_that_is_refused_by_the_fence_goes_elsewhere_and_spends_nothing():
    async def main():
        async with FakePool("a", "b") as pool:
            await pool.coordinator.duties.set("b", Duty.CORDONED)

            def fate(name: str) -> Fate:
                if name == "submit":
                    fence(pool, "a")
                return Fate()

            await until(lambda: known(pool, "a").health is WorkerHealth.HEALTHY)
            pool.wires["a"].fate = fate
            job_id = await pool.submit('{"retry": {"max_attempts": 1}}')
            await until(lambda: known(pool, "a").health is WorkerHealth.FENCED)
            assert pool.ends["a"].parcels == []
            await pool.coordinator.duties.set("b", Duty.ACTIVE)
            job = await pool.accepted(job_id)
            assert [a.spent for a in job.attempts[:-1]] == [False] * (len(job.attempts) - 1)
            assert job.attempts[-1].worker_id == "b"

    run(main())


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_each_start_takes_a_higher_epoch_whatever_the_clock_says(kind: str, tmp_path: Path):
    async def main():
        def opened() -> MemoryStore | SqliteStore:
            return SqliteStore.open(tmp_path / "db") if kind == "sqlite" else memory

        memory, taken = MemoryStore(), []
        for now in (1000.9, 1000.9, 999.0, 5000.0, 10.0):
            store = opened()
            taken.append(await next_epoch(store, now))
            assert (await store.settings())[EPOCH] == str(taken[-1])
            if kind == "sqlite":
                await store.close()
        assert taken == [1000, 1001, 1002, 5000, 5001]
        store = opened()
        await store.commit([Unit(settings={EPOCH: "nonsense"})])
        assert await next_epoch(store, 0.0) == 1
        await store.close()

    asyncio.run(main())


def test_a_copy_that_is_started_later_is_newer_than_what_went_on_without_it():
    async def main():
        original, copy = MemoryStore(), MemoryStore()
        await next_epoch(original, 1000.0)
        await copy.commit([Unit(settings=dict(await original.settings()))])
        for _ in range(5):
            newest = await next_epoch(original, 1000.0)
        assert await next_epoch(copy, 1010.0) > newest
        assert await next_epoch(original, 1020.0) > 1010, "and so it is the other way round"

    run(main())
