"""A worker is taken off the allowlist: at once it is given nothing, heard no more, and has no jobs. In virtual time."""

import asyncio
import hashlib
from collections.abc import Callable

import msgspec
import pytest

from support.fake_pool import FakePool, anybody
from support.virtual_time import elapse, run, until
from trusted_pool.core.job import Job, Outcome, OutputFile
from trusted_pool.core.words import AttemptState, Duty, Fault, JobState, Reason
from trusted_pool.link.fake import GOOD, Fate
from trusted_pool.ports.store import StoreError

J, A = JobState, AttemptState
RETRY = '{"retry": {"on_worker_loss": "retry"}}'
ONCE = '{"retry": {"on_worker_loss": "retry", "max_attempts": 1}}'
HOLD = '{"retry": {"on_worker_loss": "hold"}}'
FAIL = '{"retry": {"on_worker_loss": "fail"}}'
DONE = Outcome(exit_code=0)


def remote(job: Job) -> str:
    assert job.attempt is not None
    assert job.attempt.remote_id is not None
    return job.attempt.remote_id


def now() -> float:
    return asyncio.get_running_loop().time()


async def remove(pool: FakePool, *names: str) -> None:
    await pool.coordinator.reload([w for w in pool.allowlist if w.worker_id not in names])


async def running(pool: FakePool, manifest: str) -> Job:
    """Return a job that runs."""
    job = await pool.accepted(await pool.submit(manifest))
    pool.ends[job.attempts[0].worker_id].start(remote(job))
    return await pool.state(job.job_id, J.RUNNING)


@pytest.mark.parametrize("started", [False, True])
def test_its_jobs_go_elsewhere_in_the_same_moment(started: bool):
    async def main():
        async with FakePool("a", "b") as pool:
            await until(lambda: len(pool.coordinator.roster.able(now())) == 2)
            job = await running(pool, RETRY) if started else await pool.accepted(await pool.submit(RETRY))
            gone = job.attempts[0].worker_id
            began = now()
            await remove(pool, gone)
            job = await pool.until(job.job_id, lambda job: len(job.attempts) == 2 and job.attempts[1].remote_id)
            assert now() - began < 1.0, "not after the grace"
            assert [a.state for a in job.attempts] == [A.LOST, A.ACCEPTED]
            assert job.attempts[1].worker_id != gone
            (lost,) = [e for e in await pool.store.events(job.job_id) if e.kind == "WorkerLost"]
            assert lost.data["reason"] == "worker_removed"
            assert (await pool.coordinator.read.pool()).total_workers == 1
            pool.ends[job.attempts[1].worker_id].end(remote(job), DONE, inline=True)
            await pool.state(job.job_id, J.COMPLETED)

    run(main())


@pytest.mark.parametrize("manifest", [FAIL, ONCE])
def test_a_job_that_may_not_be_tried_again_fails_by_the_operators_doing(manifest: str):
    async def main():
        async with FakePool("a", "b") as pool:
            job = await running(pool, manifest)
            await remove(pool, job.attempts[0].worker_id)
            job = await pool.state(job.job_id, J.FAILED)
            assert (job.reason, job.fault, len(job.attempts)) == (Reason.WORKER_REMOVED, Fault.OPERATOR, 1)
            assert "removed from the allowlist" in job.detail
            status = await pool.coordinator.read.status(job.job_id, anybody)
            assert status.failure is not None
            assert status.failure.retryable
            assert status.failure.worker_last_answer_at is not None

    run(main())


def test_a_job_that_is_held_says_so_and_goes_on_when_its_worker_is_listed_again():
    async def main():
        async with FakePool("a", "b") as pool:
            job = await running(pool, HOLD)
            gone = job.attempts[0].worker_id
            await remove(pool, gone)
            job = await pool.until(job.job_id, lambda job: job.reason is Reason.WORKER_REMOVED)
            assert (job.state, job.assigned_to) == (J.RUNNING, gone)
            answer = await pool.coordinator.read.explain(job.job_id, anybody)
            assert "removed from the allowlist" in answer.message
            assert f"tpool workers add {gone}" in answer.hint
            assert "tpool cancel" in answer.hint
            assert pool.coordinator.removal.held == {gone: {job.job_id}}
            await elapse(500)
            await pool.coordinator.reload(pool.allowlist)
            job = await pool.until(job.job_id, lambda job: job.reason is None)
            assert (job.state, len(job.attempts)) == (J.RUNNING, 1)
            assert pool.coordinator.removal.held == {}
            assert pool.coordinator.roster.members[gone].load.active == 1
            pool.ends[gone].end(remote(job), DONE, inline=True)
            await pool.state(job.job_id, J.COMPLETED)
            assert pool.coordinator.roster.members[gone].load.active == 0
            kinds = [e.kind for e in await pool.store.events(job.job_id)]
            assert kinds.count("Held") == 1

    run(main())


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_a_held_job_can_be_cancelled_though_nobody_can_be_told(ended: bool, restart: bool):
    async def main():
        async with FakePool("a") as pool:
            job = await running(pool, HOLD)
            if ended:  # and its results are being copied
                pool.wires["a"].fate = lambda name: Fate(delay_s=1000.0) if name == "log" else GOOD
                pool.ends["a"].say(remote(job), b"x")
                pool.ends["a"].end(remote(job), msgspec.structs.replace(DONE, log_bytes=1))
                await pool.until(job.job_id, lambda job: job.attempts[0].state is A.ENDED)
            await remove(pool, "a")
            await pool.until(job.job_id, lambda job: job.reason is Reason.WORKER_REMOVED)
            if restart:
                await pool.coordinator.stop()
                pool.allowlist = []
                await pool.start()
            await pool.coordinator.cancel(job.job_id, "local", anybody)
            job = await pool.state(job.job_id, J.CANCELLED)
            assert pool.coordinator.removal.held == {}

    run(main())


def test_it_is_neither_asked_nor_heard_any_more():
    async def main():
        async with FakePool("a", "b", slots=1) as pool:
            calls: dict[str, list[str]] = {"a": [], "b": []}

            def listen(name: str) -> Callable[[str], Fate]:
                return lambda call: calls[name].append(call) or GOOD  # type: ignore[func-returns-value]

            for name, wire in pool.wires.items():
                wire.fate = listen(name)
            held = [await running(pool, HOLD), await running(pool, HOLD)]
            gone, other = (job.attempts[0].worker_id for job in held)
            await remove(pool, gone)
            for seen in calls.values():
                seen.clear()
            for job in held:  # both say the same at the same time
                pool.ends[job.attempts[0].worker_id].end(remote(job), DONE, inline=True)
            await pool.state(held[1].job_id, J.COMPLETED)  # the control: it is listed
            await elapse(600)
            job = await pool.job(held[0].job_id)
            assert (job.state, job.reason) == (J.RUNNING, Reason.WORKER_REMOVED)
            assert calls[gone] == []
            assert {"health", "message"} <= set(calls[other])
            queued = [await pool.submit() for _ in range(2)]
            await pool.accepted(queued[0])
            await elapse(100)
            assert (await pool.job(queued[1])).state is J.QUEUED

    run(main())


@pytest.mark.parametrize("arrives", [False, True])
def test_a_submit_that_is_on_its_way_is_cut_and_counts_if_it_may_have_arrived(arrives: bool):
    async def main():
        async with FakePool("a") as pool:
            await until(pool.coordinator.roster.somebody)
            slow = Fate(reply_delay_s=8.0) if arrives else Fate(delay_s=8.0)
            pool.wires["a"].fate = lambda name: slow if name == "submit" else GOOD
            job_id = await pool.submit(RETRY)
            await pool.state(job_id, J.DISPATCHED)
            await elapse(1)
            began = now()
            await remove(pool, "a")
            job = await pool.state(job_id, J.QUEUED)
            assert now() - began < 1.0
            await elapse(30)
            assert len(pool.ends["a"].parcels) == arrives
            job = await pool.job(job_id)
            assert (job.state, job.attempts[0].state) == (J.QUEUED, A.LOST if arrives else A.REFUSED)
            assert job.spent == arrives

    run(main())


def test_a_job_that_was_just_placed_there_is_not_sent():
    async def main():
        async with FakePool("a") as pool:
            await until(pool.coordinator.roster.somebody)
            pool.store.slow_s = 5.0
            job_id = await pool.submit(ONCE)
            await until(lambda: pool.store._tables.jobs[job_id].job.state is J.DISPATCHED)  # not answered yet
            await remove(pool, "a")
            pool.store.slow_s = 0.0
            job = await pool.state(job_id, J.QUEUED)
            assert job.spent == 0
            assert pool.ends["a"].parcels == []

    run(main())


@pytest.mark.parametrize("removed", [True, False])
def test_a_word_whose_commit_waits_is_dropped_when_its_worker_is_removed(removed: bool):
    async def main():
        async with FakePool("a") as pool:
            job = await running(pool, HOLD)
            pool.wires["a"].cut()
            await elapse(1)
            pool.ends["a"].end(remote(job), DONE)
            pool.store.full = True
            pool.wires["a"].mend()
            await elapse(40)  # it was asked for all that it has, and has told
            if removed:
                await remove(pool, "a")
                await elapse(1)
            pool.store.full = False
            job = await pool.until(job.job_id, lambda job: job.final or job.reason is Reason.WORKER_REMOVED)
            await elapse(60)
            job = await pool.job(job.job_id)
            assert (job.state, job.attempts[0].state) == (
                (J.RUNNING, A.RUNNING) if removed else (J.COMPLETED, A.COLLECTED)
            )

    run(main())


def test_results_that_are_being_copied_are_not_taken():
    async def main():
        async with FakePool("a", "b") as pool:
            job = await running(pool, RETRY)
            gone = job.attempts[0].worker_id
            data = b"result" * 1000
            output = OutputFile(path="f", size=len(data), sha256=hashlib.sha256(data).hexdigest())
            pool.wires[gone].fate = lambda name: Fate(delay_s=20.0) if name == "output" else GOOD
            pool.ends[gone].end(remote(job), msgspec.structs.replace(DONE, outputs=(output,)), {"f": data})
            await pool.until(job.job_id, lambda job: job.attempts[0].state is A.ENDED)
            await remove(pool, gone)
            job = await pool.until(job.job_id, lambda job: len(job.attempts) == 2 and job.attempts[1].remote_id)
            await elapse(60)
            assert await pool.store.result(job.job_id) is None
            assert pool.blobs.unended == 0

    run(main())


def test_a_log_that_is_followed_goes_on_at_the_next_worker():
    async def main():
        async with FakePool("a", "b") as pool:
            job = await running(pool, RETRY)
            gone = job.attempts[0].worker_id
            lines: list[object] = []

            async def follow() -> None:
                from trusted_pool.coordinator.logs import Place  # noqa: PLC0415 - used here only

                async for line in pool.coordinator.logs.follow(job.job_id, anybody, Place()):
                    lines.append(line)  # noqa: PERF401 - looked at meanwhile

            following = asyncio.ensure_future(follow())
            await elapse(1)
            await remove(pool, gone)
            job = await pool.until(job.job_id, lambda job: len(job.attempts) == 2 and job.attempts[1].remote_id)
            pool.ends[job.attempts[1].worker_id].end(remote(job), DONE, inline=True)
            async with asyncio.timeout(60):
                await following
            assert isinstance(lines[-1], Job)
            assert lines[-1].state is J.COMPLETED

    run(main())


def test_one_that_was_removed_while_nobody_served_is_treated_alike():
    async def main():
        async with FakePool("a", "b", slots=4) as pool:
            jobs = {name: await running(pool, manifest) for name, manifest in (("r", RETRY), ("h", HOLD), ("f", FAIL))}
            cancelled = await running(pool, HOLD)
            for wire in pool.wires.values():
                wire.cut()
            await pool.coordinator.cancel(cancelled.job_id, "local", anybody)
            await pool.coordinator.stop()
            pool.allowlist = []
            await pool.start()
            assert (await pool.state(jobs["r"].job_id, J.QUEUED)).reason is Reason.WORKER_REMOVED
            assert (await pool.state(jobs["f"].job_id, J.FAILED)).fault is Fault.OPERATOR
            held = await pool.until(jobs["h"].job_id, lambda job: job.reason is Reason.WORKER_REMOVED)
            await pool.state(cancelled.job_id, J.CANCELLED)
            assert pool.coordinator.removal.held == {held.attempts[0].worker_id: {held.job_id}}
            await pool.coordinator.stop()
            await pool.start()
            assert pool.coordinator.removal.held == {held.attempts[0].worker_id: {held.job_id}}
            await elapse(10)
            kinds = [e.kind for e in await pool.store.events(held.job_id)]
            assert kinds.count("Held") == 1, "said once"

    run(main())


def test_listed_again_it_is_told_to_end_what_nobody_wants_any_more():
    async def main():
        async with FakePool("a", "b") as pool:
            job = await running(pool, RETRY)
            gone = job.attempts[0].worker_id
            await remove(pool, gone)
            await pool.until(job.job_id, lambda job: len(job.attempts) == 2 and job.attempts[1].remote_id)
            await elapse(100)
            assert pool.ends[gone].held, "it runs on there, and nobody knows"
            await pool.coordinator.reload(pool.allowlist)
            await until(lambda: not pool.ends[gone].held, 60)
            assert (await pool.job(job.job_id)).attempts[1].state is A.ACCEPTED

    run(main())


def test_a_full_disk_keeps_nobody_on_the_list_and_loses_no_job():
    async def main():
        async with FakePool("a", "b", slots=1) as pool:
            job = await running(pool, RETRY)
            gone = job.attempts[0].worker_id
            pool.store.full = True
            await remove(pool, gone)
            assert gone not in pool.coordinator.roster.members
            await elapse(100)
            assert (await pool.job(job.job_id)).state is J.RUNNING
            pool.store.full = False
            await pool.until(job.job_id, lambda job: len(job.attempts) == 2 and job.attempts[1].remote_id)

    run(main())


@pytest.mark.parametrize("fault", ["full", "unreadable"])
def test_listed_again_before_its_jobs_could_leave_it_and_the_pool_agree(fault: str):
    async def main():
        async with FakePool("a", slots=1) as pool:
            job = await running(pool, RETRY)
            real = pool.store.open_jobs

            async def broken(_worker_id: str | None = None):
                raise StoreError("locked")

            if fault == "full":
                pool.store.full = True
            else:
                pool.store.open_jobs = broken  # type: ignore[method-assign]
            await remove(pool, "a")
            await pool.coordinator.reload(pool.allowlist)
            await elapse(20)
            pool.store.full = False
            pool.store.open_jobs = real  # type: ignore[method-assign]
            await elapse(60)
            job = await pool.job(job.job_id)
            current = {(h.report.job_id, h.report.attempt) for h in pool.ends["a"].held.values()}
            assert current == {(job.job_id, len(job.attempts))}
            pool.ends["a"].end(remote(job), DONE, inline=True)
            await pool.state(job.job_id, J.COMPLETED)
            assert pool.coordinator.roster.members["a"].load.active == 0

    run(main())


def test_one_that_is_listed_again_begins_without_the_duty_that_it_had():
    async def main():
        async with FakePool("a", "b") as pool:
            job = await running(pool, HOLD)
            gone = job.attempts[0].worker_id
            await pool.coordinator.duties.set(gone, Duty.DRAINING, 50)
            await remove(pool, gone)
            await elapse(100)
            assert (await pool.job(job.job_id)).state is J.RUNNING, "the drain's deadline is no matter any more"
            assert {w.worker_id: w.duty for w in await pool.store.workers()}[gone] is Duty.ACTIVE
            await pool.coordinator.reload(pool.allowlist)
            assert pool.coordinator.roster.members[gone].worker.duty is Duty.ACTIVE

    run(main())


def test_a_drain_goes_on_when_its_worker_moves():
    async def main():
        async with FakePool("a", "b") as pool:
            job = await running(pool, RETRY)
            first = job.attempts[0].worker_id
            await pool.coordinator.duties.set(first, Duty.DRAINING, 50)
            moved = [msgspec.structs.replace(w, endpoint=f"https://{w.worker_id}:9443") for w in pool.allowlist]
            await pool.coordinator.reload(moved)
            await elapse(40)
            assert len((await pool.job(job.job_id)).attempts) == 1, "it keeps its jobs"
            job = await pool.until(job.job_id, lambda job: len(job.attempts) == 2)
            await until(lambda: not pool.ends[first].held)

    run(main())


def test_one_that_proves_its_key_from_now_on_is_believed_over_the_new_line_only():
    async def main():
        async with FakePool("a") as pool:
            pool.allowlist = [msgspec.structs.replace(w, proven=False) for w in pool.allowlist]
            await pool.coordinator.reload(pool.allowlist)
            await until(pool.coordinator.roster.somebody)
            job = await running(pool, HOLD)
            old = pool.coordinator.roster.members["a"]
            await pool.coordinator.reload([msgspec.structs.replace(w, proven=True) for w in pool.allowlist])
            new = pool.coordinator.roster.members["a"]
            assert old.closed
            assert new.link is not old.link
            pool.ends["a"].end(remote(job), DONE, inline=True)
            await pool.state(job.job_id, J.COMPLETED)

    run(main())
