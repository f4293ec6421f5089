"""A live log that says nothing is heard of all the same, and loses nothing meanwhile."""

import asyncio
from contextlib import aclosing

from support.fake_pool import FakePool, anybody
from support.virtual_time import elapse, run
from trusted_pool.coordinator import logs
from trusted_pool.coordinator.logs import WAIT_S, Line, Place
from trusted_pool.core.job import Job, Outcome
from trusted_pool.protocol import frames


def test_a_quiet_live_log_is_kept_open() -> None:
    async def main() -> None:
        async with FakePool("w1") as pool:
            job_id = await pool.submit()
            remote = str((await pool.accepted(job_id)).attempts[0].remote_id)
            end = pool.ends["w1"]
            end.start(remote)
            said = [frames.encode(1.0, frames.STDOUT, text) for text in (b"one", b"two", b"three")]
            end.say(remote, said[0])
            loop = asyncio.get_running_loop()
            heard: list[object] = []
            began = loop.time()
            async with aclosing(pool.coordinator.logs.follow(job_id, anybody, Place())) as lines:  # type: ignore[type-var]
                async for line in lines:
                    heard.append(line.frame.data if isinstance(line, Line) else type(line))
                    if line is None:
                        quiet = sum(what is type(None) for what in heard)
                        assert loop.time() - began <= WAIT_S * quiet + 1
                        if quiet == 3:
                            end.say(remote, said[1] + said[2][:5])
                        if quiet == 5:
                            end.say(remote, said[2][5:])
                            end.end(remote, Outcome(exit_code=0, log_bytes=sum(map(len, said))))
            nothing = type(None)
            assert heard == [b"one", *[nothing] * 3, b"two", *[nothing] * 2, b"three", Job]

    run(asyncio.wait_for(main(), 20 * WAIT_S))


def reading() -> list[object]:
    """Return the tasks that wait for pieces of logs."""
    coroutines = [task.get_coro() for task in asyncio.all_tasks()]
    return [c for c in coroutines if getattr(c, "cr_code", None) is logs._next.__code__]


def test_a_follower_that_leaves_a_quiet_log_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with FakePool("w1") as pool:
            job_id = await pool.submit()
            remote = str((await pool.accepted(job_id)).attempts[0].remote_id)
            pool.ends["w1"].start(remote)
            await elapse(1)
            lines = pool.coordinator.logs.follow(job_id, anybody, Place())
            assert await anext(lines) is None
            assert len(reading()) == 1
            await lines.aclose()  # type: ignore[attr-defined]
            assert reading() == []

    run(asyncio.wait_for(main(), 20 * WAIT_S))
