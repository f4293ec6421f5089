"""How results come from workers that say much, little, or nothing for a long time."""

import hashlib

import msgspec

from support.fake_pool import FakePool
from support.virtual_time import run
from trusted_pool.core.job import Outcome, OutputFile
from trusted_pool.core.words import JobState

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


def test_outputs_are_listed_by_a_call_of_their_own_when_both_sides_are_compared() -> None:
    async def main() -> None:
        async with FakePool("w1") as pool:
            job_id = await pool.submit()
            job = await pool.accepted(job_id)
            await pool.coordinator.stop()
            pool.ends["w1"].end(str(job.attempts[0].remote_id), left(a=LARGE, b=b""), {"a": LARGE, "b": b""})
            (report,) = (await pool.ends["w1"].attempts()).attempts
            assert len(msgspec.json.encode(report)) < 300
            await pool.start()
            await pool.state(job_id, JobState.COMPLETED)
            result = await pool.store.result(job_id)
            assert result is not None
            assert result.outputs == left(a=LARGE, b=b"").outputs
            held = [piece async for piece in pool.coordinator.contents.open(result.outputs[0].sha256)]
            assert b"".join(held) == LARGE

    run(main())
