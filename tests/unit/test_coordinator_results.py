"""How results come from workers that say much, little, or nothing for a long time."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import msgspec

from support.fake_pool import FakePool
from support.virtual_time import elapse, run
from trusted_pool.core.job import Outcome, OutputFile
from trusted_pool.core.words import AttemptState, JobState, Reason
from trusted_pool.protocol.messages import ALL_LISTED_BYTES, AttemptReport, brief

#: Too large to travel inside an event.
LARGE = bytes(range(256)) * 400


def left(**files: bytes) -> Outcome:
    """Return the outcome of an attempt that left these files."""
    return Outcome(
        exit_code=0,
        outputs=tuple(
            OutputFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for path, data in files.items()
        ),
    )


def test_long_lists_of_outputs_are_told_by_a_call_of_their_own_when_both_sides_are_compared() -> None:
    async def main() -> None:
        async with FakePool("w1") as pool:
            job_id = await pool.submit()
            job = await pool.accepted(job_id)
            await pool.coordinator.stop()
            files = {"a": LARGE, **{f"b{n:02}": b"" for n in range(99)}}
            pool.ends["w1"].end(str(job.attempts[0].remote_id), left(**files), files)
            (report,) = (await pool.ends["w1"].attempts()).attempts
            assert len(msgspec.json.encode(report)) < 300
            await pool.start()
            await pool.state(job_id, JobState.COMPLETED)
            result = await pool.store.result(job_id)
            assert result is not None
            assert result.outputs == left(**files).outputs
            held = [piece async for piece in pool.coordinator.contents.open(result.outputs[0].sha256)]
            assert b"".join(held) == LARGE

    run(main())


def test_the_row_of_a_job_does_not_grow_with_its_outputs() -> None:
    files = {f"{n:04}": b"" for n in range(1000)}

    async def main() -> None:
        async with FakePool("w1") as pool:
            for inline in (True, False):
                job_id = await pool.submit()
                job = await pool.accepted(job_id)
                pool.ends["w1"].end(str(job.attempts[0].remote_id), left(**files), files, inline=inline)
                job = await pool.state(job_id, JobState.COMPLETED)
                assert job.attempt is not None
                assert job.attempt.outcome == Outcome(exit_code=0)
                assert len(msgspec.json.encode(job)) < 2000
                result = await pool.store.result(job_id)
                assert result is not None
                assert len(result.outputs) == 1000
                (ended,) = [event for event in await pool.store.events(job_id) if event.kind == "Ended"]
                assert ended.data["outcome"]["outputs"] == 1000

    run(main())


def test_many_short_lists_take_little_room_together() -> None:
    outcome = left(**{f"{n:04}": b"" for n in range(20)})
    report = AttemptReport(
        job_id="j", attempt=1, remote_id="r", state=AttemptState.ENDED, accepted_at=1.0, outcome=outcome
    )
    found = brief([report] * 5000)
    assert found[0] == report
    assert found[-1].outcome == Outcome(exit_code=0, more_outputs=20)
    assert len(msgspec.json.encode(found)) < ALL_LISTED_BYTES + 5000 * 300


def drip(pool: FakePool, name: str, pause_s: float, piece: bytes = b"x") -> None:
    """Let a worker hand out its outputs a piece at a time."""

    async def output(remote_id: str, path: str) -> AsyncIterator[bytes]:
        data = pool.ends[name].held[remote_id].files[path]
        for start in range(0, len(data), len(piece)):
            await elapse(pause_s)
            yield data[start : start + len(piece)]

    pool.ends[name].output = output  # type: ignore[method-assign]


def test_a_worker_that_hands_out_slowly_keeps_no_other_waiting() -> None:
    async def main() -> None:
        async with FakePool("bad", "good", slots=16) as pool:
            ids = [await pool.submit('{"retry": {"max_attempts": 1}}') for _ in range(32)]
            jobs = [await pool.accepted(job_id) for job_id in ids]
            drip(pool, "bad", 25.0)
            began = asyncio.get_running_loop().time()
            for worker in ("bad", "good"):
                for job in jobs:
                    if job.attempts[0].worker_id == worker:
                        pool.ends[worker].end(str(job.attempts[0].remote_id), left(f=LARGE), {"f": LARGE})
            for job in jobs:
                if job.attempts[0].worker_id == "good":
                    await pool.state(job.job_id, JobState.COMPLETED)
            assert asyncio.get_running_loop().time() - began < 10
            for job in jobs:
                if job.attempts[0].worker_id == "bad":
                    lost = await pool.state(job.job_id, JobState.FAILED)
                    assert lost.reason is Reason.RESULTS_LOST
                    assert "did not come within 63 s" in lost.detail

    run(main())


def test_a_slow_line_is_borne_with() -> None:
    async def main() -> None:
        async with FakePool("w1") as pool:
            job = await pool.accepted(await pool.submit())
            drip(pool, "w1", 0.9, bytes(64 * 1024))
            data = bytes(200 * 64 * 1024)
            pool.ends["w1"].end(str(job.attempts[0].remote_id), left(f=data), {"f": data})
            await pool.state(job.job_id, JobState.COMPLETED)

    run(main())


def test_more_than_a_job_may_leave_is_not_taken() -> None:
    async def main() -> None:
        async with FakePool("w1") as pool:
            asked = []

            async def output(remote_id: str, path: str) -> AsyncIterator[bytes]:
                asked.append((remote_id, path))
                yield b""

            pool.ends["w1"].output = output  # type: ignore[method-assign]
            for outcome in (
                Outcome(outputs=(OutputFile(path="f", size=5 * 2**20 + 1, sha256="0" * 64),)),
                Outcome(log_bytes=2**40),
            ):
                job_id = await pool.submit('{"disk_mb": 5, "retry": {"max_attempts": 1}}')
                job = await pool.accepted(job_id)
                pool.ends["w1"].end(str(job.attempts[0].remote_id), outcome)
                lost = await pool.state(job_id, JobState.FAILED)
                assert lost.reason is Reason.RESULTS_LOST
                assert "it announces" in lost.detail
            assert asked == []

    run(main())
