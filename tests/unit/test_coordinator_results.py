"""How results come from workers that say much, little, or nothing for a long time."""

import hashlib

import msgspec

from support.fake_pool import FakePool
from support.virtual_time import run
from trusted_pool.core.job import Outcome, OutputFile
from trusted_pool.core.words import AttemptState, JobState
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
