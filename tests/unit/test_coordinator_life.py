"""The life of a job in a real coordinator among fakes, in virtual time."""

import asyncio
import hashlib
import logging

import pytest

from support.fake_pool import FakePool, anybody
from support.virtual_time import elapse, run, until
from trusted_pool.core.job import Job, Outcome, OutputFile, Usage
from trusted_pool.core.words import AttemptState, Fault, JobState, OnWorkerLoss, Reason, WorkerHealth
from trusted_pool.link.fake import Fate
from trusted_pool.ports.link import Order
from trusted_pool.protocol import frames
from trusted_pool.protocol.errors import BusyError, ConflictError, PoolError, UnplaceableError

J, A = JobState, AttemptState


def output(path: str, data: bytes) -> OutputFile:
    return OutputFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def remote(job: Job) -> str:
    assert job.attempt is not None
    assert job.attempt.remote_id is not None
    return job.attempt.remote_id


async def read(pool: FakePool, job_id: str) -> dict[str, bytes]:
    _, result = await pool.coordinator.read.result(job_id, anybody)
    return {f.path: b"".join([p async for p in pool.coordinator.contents.open(f.sha256)]) for f in result.outputs}


@pytest.mark.parametrize("inline", [True, False])
def test_a_job_goes_through_and_its_results_outlive_the_worker(inline: bool):
    async def main():
        async with FakePool("a") as pool:
            end = pool.ends["a"]
            job_id = await pool.submit()
            job = await pool.accepted(job_id)
            assert end.parcels[0].files[0][0] == "project.tar.gz"
            end.start(remote(job), at=5.0)
            assert (await pool.state(job_id, J.RUNNING)).attempts[0].started_at == 5.0
            log = frames.encode(6.0, frames.STDOUT, b"hello\n")
            end.say(remote(job), log)
            data = b"x" * (100 if inline else 200_000)
            outcome = Outcome(exit_code=0, outputs=(output("out/x", data),), log_bytes=len(log))
            end.end(remote(job), outcome, {"out/x": data}, inline=inline)
            job = await pool.state(job_id, J.COMPLETED)
            assert job.attempts[0].state is A.COLLECTED
            await pool.until(job_id, lambda _: True)
            await until(lambda: not end.held)
            assert await read(pool, job_id) == {"out/x": data}
            lines = [f async for f in pool.coordinator.logs.now(job_id, anybody)]
            assert lines == [frames.Frame(6.0, frames.STDOUT, b"hello\n")]
            kinds = [event.kind for event in await pool.store.events(job_id)]
            assert kinds == ["Submitted", "Placed", "Accepted", "Started", "Ended", "Collected"]

    run(main())


def test_a_slot_is_free_before_results_are_fetched():
    async def main():
        async with FakePool("a", slots=1) as pool:
            end, wire = pool.ends["a"], pool.wires["a"]
            first, second = await pool.submit(), await pool.submit()
            job = await pool.accepted(first)
            held = asyncio.Event()
            wire.fate = lambda name: Fate(delay_s=50.0 if name == "output" else 0.0)
            data = b"y" * 10
            end.end(remote(job), Outcome(exit_code=0, outputs=(output("y", data),)), {"y": data})
            await pool.accepted(second)
            job = await pool.job(first)
            assert (job.state, job.reason) == (J.RUNNING, Reason.COLLECTING)
            held.set()
            await pool.state(first, J.COMPLETED)

    run(main())


def test_jobs_go_to_the_worker_with_fewest_and_wait_when_all_are_full():
    async def main():
        async with FakePool("a", "b", slots=2) as pool:
            ids = [await pool.submit() for _ in range(5)]
            for job_id in ids[:4]:
                await pool.accepted(job_id)
            counts = {name: len(end.parcels) for name, end in pool.ends.items()}
            assert counts == {"a": 2, "b": 2}
            status = await pool.coordinator.read.status(ids[4], anybody)
            assert status.queue_position == 0
            assert status.waiting_for is not None
            assert [o.code for v in status.waiting_for for o in v.obstacles] == ["slots", "slots"]
            answer = await pool.coordinator.read.pool()
            assert [w.active_jobs for w in answer.workers] == [2, 2]
            assert (answer.total_jobs, answer.queued_jobs, answer.healthy_workers) == (5, 1, 2)
            first = await pool.job(ids[0])
            pool.ends[first.attempts[0].worker_id].end(remote(first), Outcome(exit_code=0), inline=True)
            await pool.accepted(ids[4])

    run(main())


def test_a_rejected_job_goes_to_another_worker_and_fails_when_all_refuse():
    async def main():
        async with FakePool("a", "b") as pool:
            pool.ends["a"].refusal = PoolError("too large for me", status=400)
            pool.ends["b"].refusal = PoolError("nor me", status=400)
            job = await pool.state(await pool.submit(), J.FAILED)
            assert (job.reason, job.fault, job.spent) == (Reason.REJECTED, Fault.WORKER, 0)
            assert [a.state for a in job.attempts] == [A.REFUSED, A.REFUSED]
            assert {a.worker_id for a in job.attempts} == {"a", "b"}
            pool.ends["b"].refusal = None
            job = await pool.accepted(await pool.submit())
            assert job.attempts[-1].worker_id == "b"

    run(main())


def test_a_full_worker_is_asked_later_and_no_attempt_is_spent():
    async def main():
        async with FakePool("a") as pool:
            pool.ends["a"].refusal = BusyError("full", retry_after_s=7)
            job_id = await pool.submit()
            job = await pool.until(job_id, lambda job: job.reason is Reason.WORKER_FULL)
            began = asyncio.get_running_loop().time()
            pool.ends["a"].refusal = None
            job = await pool.accepted(job_id)
            assert 6 <= asyncio.get_running_loop().time() - began <= 9
            assert job.spent == 1

    run(main())


@pytest.mark.parametrize(
    ("policy", "state"),
    [(OnWorkerLoss.RETRY, J.DISPATCHED), (OnWorkerLoss.HOLD, J.RUNNING), (OnWorkerLoss.FAIL, J.FAILED)],
)
def test_a_silent_worker_keeps_its_jobs_for_the_grace_then_the_policy_decides(policy: OnWorkerLoss, state: JobState):
    async def main():
        async with FakePool("a", "b", slots=1) as pool:
            job_id = await pool.submit(f'{{"retry": {{"on_worker_loss": "{policy}"}}}}')
            job = await pool.accepted(job_id)
            lost = job.attempts[0].worker_id
            pool.ends[lost].start(remote(job))
            await pool.state(job_id, J.RUNNING)
            pool.wires[lost].cut()
            await elapse(110)
            job = await pool.job(job_id)
            assert (job.state, len(job.attempts)) == (J.RUNNING, 1)
            assert pool.coordinator.roster.members[lost].worker.health is WorkerHealth.SUSPECT
            await elapse(60)
            job = await pool.job(job_id)
            assert job.state is state
            if policy is OnWorkerLoss.RETRY:
                assert job.attempts[0].state is A.LOST
                assert job.attempts[1].worker_id != lost
            else:
                assert len(job.attempts) == 1
                assert job.reason is Reason.WORKER_LOST

    run(main())


def test_one_attempt_means_that_it_is_never_started_again():
    async def main():
        async with FakePool("a", "b") as pool:
            job_id = await pool.submit('{"retry": {"max_attempts": 1}}')
            job = await pool.accepted(job_id)
            pool.wires[job.attempts[0].worker_id].cut()
            job = await pool.state(job_id, J.FAILED)
            assert (job.reason, len(job.attempts)) == (Reason.WORKER_LOST, 1)
            assert sum(len(end.parcels) for end in pool.ends.values()) == 1

    run(main())


def test_a_worker_that_comes_back_within_the_grace_goes_on():
    async def main():
        async with FakePool("a") as pool:
            job_id = await pool.submit()
            job = await pool.accepted(job_id)
            pool.wires["a"].cut()
            await elapse(60)
            pool.ends["a"].end(remote(job), Outcome(exit_code=0))
            pool.wires["a"].mend()
            job = await pool.state(job_id, J.COMPLETED)
            assert len(job.attempts) == 1

    run(main())


def test_the_result_of_an_attempt_that_was_given_up_is_not_accepted():
    async def main():
        async with FakePool("a", "b", slots=1) as pool:
            job_id = await pool.submit()
            job = await pool.accepted(job_id)
            slow, old = job.attempts[0].worker_id, remote(job)
            pool.wires[slow].cut()
            await pool.until(job_id, lambda job: len(job.attempts) == 2 and job.attempts[1].remote_id is not None)
            late = b"late"
            pool.ends[slow].end(old, Outcome(exit_code=0, outputs=(output("f", late),)), {"f": late}, inline=True)
            pool.wires[slow].mend()
            await until(lambda: not pool.ends[slow].held)
            job = await pool.job(job_id)
            assert (job.state, job.attempts[0].state) == (J.DISPATCHED, A.LOST)
            right = b"right"
            outcome = Outcome(exit_code=0, outputs=(output("f", right),))
            pool.ends[job.attempts[1].worker_id].end(remote(job), outcome, {"f": right}, inline=True)
            await pool.state(job_id, J.COMPLETED)
            assert await read(pool, job_id) == {"f": right}

    run(main())


def test_a_lost_reply_to_a_dispatch_never_runs_the_job_twice():
    async def main():
        async with FakePool("a") as pool:
            lost = iter([True])
            pool.wires["a"].fate = lambda name: Fate(answered=not (name == "submit" and next(lost, False)))
            job_id = await pool.submit('{"retry": {"max_attempts": 1}}')
            job = await pool.accepted(job_id)
            assert len(pool.ends["a"].held) == 1
            pool.ends["a"].end(remote(job), Outcome(exit_code=0))
            job = await pool.state(job_id, J.COMPLETED)
            assert (len(job.attempts), job.spent) == (1, 1)

    run(main())


def test_a_submit_that_never_left_spends_no_attempt_and_the_worker_is_checked_at_once():
    async def main():
        async with FakePool("a") as pool:
            broken = iter([True])
            pool.wires["a"].fate = lambda name: Fate(arrives=not (name == "submit" and next(broken, False)))
            job = await pool.accepted(await pool.submit())
            assert job.spent == 1
            assert [a.state for a in job.attempts] == [A.REFUSED, A.ACCEPTED]

    run(main())


def test_a_restarted_worker_without_the_job_interrupts_it_and_it_runs_again():
    async def main():
        async with FakePool("a") as pool:
            job_id = await pool.submit()
            job = await pool.accepted(job_id)
            end = pool.ends["a"]
            end.interrupt(remote(job), "a restart ended it")
            job = await pool.until(job_id, lambda job: len(job.attempts) == 2)
            assert job.attempts[0].state is A.INTERRUPTED

    run(main())


def test_a_restarted_coordinator_takes_up_everything():
    async def main():
        async with FakePool("a", slots=2) as pool:
            ids = [await pool.submit() for _ in range(3)]
            running, ending = await pool.accepted(ids[0]), await pool.accepted(ids[1])
            end = pool.ends["a"]
            end.start(remote(running))
            await pool.coordinator.stop()
            end.end(remote(ending), Outcome(exit_code=0))
            await pool.start()
            await pool.state(ids[1], J.COMPLETED)
            await pool.state(ids[0], J.RUNNING)
            await pool.accepted(ids[2])
            assert pool.coordinator.roster.members["a"].load.active == 2
            assert len(end.parcels) == 3

    run(main())


def test_cancel_queued_running_and_ended():
    async def main():
        async with FakePool("a", slots=1) as pool:
            running, queued = await pool.submit(), await pool.submit()
            job = await pool.accepted(running)
            pool.ends["a"].start(remote(job))
            await pool.state(running, J.RUNNING)
            answer = await pool.coordinator.cancel(queued, "local", anybody)
            assert answer.state is J.CANCELLED
            cancelled = Outcome(reason=Reason.CANCELLED, signal=15, detail="cancelled", usage=Usage(cpu_seconds=1.0))
            end = pool.ends["a"]
            real_end = end.end
            end.end = lambda remote_id, _outcome: real_end(remote_id, cancelled)  # type: ignore[method-assign]
            answer = await pool.coordinator.cancel(running, "local", anybody)
            assert (answer.state, answer.reason) == (J.RUNNING, Reason.CANCELLING)
            job = await pool.state(running, J.CANCELLED)
            assert job.attempts[0].state is A.COLLECTED
            again = await pool.coordinator.cancel(running, "local", anybody)
            assert again.state is J.CANCELLED
            assert [len(p.order.job_id) for p in end.parcels] == [len(running)]

    run(main())


def test_cancelling_what_has_completed_is_a_conflict():
    async def main():
        async with FakePool("a") as pool:
            job_id = await pool.submit()
            job = await pool.accepted(job_id)
            pool.ends["a"].end(remote(job), Outcome(exit_code=0), inline=True)
            await pool.state(job_id, J.COMPLETED)
            with pytest.raises(ConflictError):
                await pool.coordinator.cancel(job_id, "local", anybody)

    run(main())


def test_a_worker_that_hands_out_other_bytes_than_announced_is_not_believed():
    async def main():
        async with FakePool("a") as pool:
            job_id = await pool.submit('{"retry": {"max_attempts": 1}}')
            job = await pool.accepted(job_id)
            outcome = Outcome(exit_code=0, outputs=(output("f", b"announced"),))
            pool.ends["a"].end(remote(job), outcome, {"f": b"something"})
            job = await pool.state(job_id, J.FAILED)
            assert (job.reason, job.fault) == (Reason.RESULTS_LOST, Fault.WORKER)

    run(main())


def test_a_failed_program_is_the_owners_fault_and_its_outputs_are_kept():
    async def main():
        async with FakePool("a") as pool:
            job_id = await pool.submit()
            job = await pool.accepted(job_id)
            outcome = Outcome(reason=Reason.EXIT_CODE, exit_code=3, outputs=(output("f", b"1"),), detail="exit code 3")
            pool.ends["a"].end(remote(job), outcome, {"f": b"1"}, inline=True)
            job = await pool.state(job_id, J.FAILED)
            assert (job.reason, job.fault, job.detail) == (Reason.EXIT_CODE, Fault.USER, "exit code 3")
            assert await read(pool, job_id) == {"f": b"1"}
            assert len(job.attempts) == 1

    run(main())


def test_a_sandbox_that_cannot_be_set_up_is_tried_elsewhere():
    async def main():
        async with FakePool("a", "b") as pool:
            job_id = await pool.submit()
            job = await pool.accepted(job_id)
            failed = Outcome(reason=Reason.SANDBOX_FAILED, detail="no space")
            pool.ends[job.attempts[0].worker_id].end(remote(job), failed, inline=True)
            job = await pool.until(job_id, lambda job: len(job.attempts) == 2)
            assert job.attempts[0].state is A.INTERRUPTED

    run(main())


def test_impossible_jobs_are_refused_and_nothing_is_kept():
    async def main():
        async with FakePool("a") as pool:
            pool.coordinator.roster.members["a"].worker = await _with_capacity(pool)
            with pytest.raises(UnplaceableError) as raised:
                await pool.submit('{"memory_mb": 100000}')
            assert "memory" in raised.value.message
            assert (await pool.coordinator.read.pool()).total_jobs == 0
            assert pool.blobs.unended == 0

    async def _with_capacity(pool: FakePool):
        import msgspec  # noqa: PLC0415 - used here only

        from trusted_pool.core.request import Capacity  # noqa: PLC0415

        worker = pool.coordinator.roster.members["a"].worker
        return msgspec.structs.replace(worker, capacity=Capacity(memory_mb=1000, interpreters={"python3": "3.11"}))

    run(main())


def test_the_same_key_means_the_same_job():
    async def main():
        async with FakePool("a") as pool:
            first = await pool.submit(key="k")
            assert await pool.submit(key="k") == first
            with pytest.raises(ConflictError):
                await pool.submit('{"name": "another"}', key="k")
            both = await asyncio.gather(*(pool.submit(key="race") for _ in range(5)))
            assert len(set(both)) == 1

    run(main())


def test_each_change_is_logged_once_with_the_words_of_the_specification(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="trusted_pool")

    async def main():
        async with FakePool("worker-a") as pool:
            pool.wires["worker-a"].cut()
            await elapse(200)
            job_id = await pool.submit()
            await pool.submit()
            await elapse(200)
            pool.wires["worker-a"].mend()
            await pool.accepted(job_id)
            await elapse(100)

    run(main())
    texts = [record.getMessage() for record in caplog.records]
    for words, times in (
        ("Added trusted worker: worker-a... at https://worker-a:8443", 1),
        ("Health check failed for worker-a...: cannot connect", 2),  # suspect, then lost
        ("No available workers for job pool-", 1),
        ("Queued job pool-", 2),
        ("Dispatched job pool-", 2),
        ("Worker worker-a... is healthy", 1),
    ):
        assert sum(text.startswith(words) for text in texts) == times, (words, texts)


def test_an_order_says_which_attempt_it_is():
    async def main():
        async with FakePool("a") as pool:
            job_id = await pool.submit('{"args": ["x"]}')
            await pool.accepted(job_id)
            order = pool.ends["a"].parcels[0].order
            assert isinstance(order, Order)
            assert (order.job_id, order.attempt) == (job_id, 1)
            assert '"args":["x"]' in order.manifest

    run(main())
