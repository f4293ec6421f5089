"""Fresh seeds: a whole pool under faults that nobody has seen before, then calm, in which everything ends.

A failure prints its seed and what happened; `SIM_SEED=… make simulate` replays it exactly.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.engine.chance import chance_of
from simulation.engine.loop import Process, SeededLoop
from simulation.engine.run import simulate

BATCHES, EACH = 12, 40
FIRST = int(os.environ["SIM_SEED"]) if "SIM_SEED" in os.environ else int.from_bytes(os.urandom(4), "big")
ENGINE = [sys.executable, "-m", "simulation.engine"]
TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("batch", range(1 if "SIM_SEED" in os.environ else BATCHES))
def test_nothing_is_lost_and_nothing_runs_that_should_not(batch: int):
    each = 1 if "SIM_SEED" in os.environ else EACH
    for seed in range(FIRST + batch * each, FIRST + (batch + 1) * each):
        verdict = simulate(seed)
        if verdict.finding is not None:
            pytest.fail(verdict.text(), pytrace=False)
        assert verdict.jobs > 0


def test_a_seed_replays_exactly_whatever_the_process():
    seeds = [FIRST, FIRST + 1, 7]
    here = [simulate(seed) for seed in seeds]
    again = [simulate(seed) for seed in seeds]
    assert [v.trace.lines for v in here] == [v.trace.lines for v in again]
    for hash_seed, verdict in zip(("1", "2", "3"), here, strict=True):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(TESTS)}
        environment.pop("SIM_SEED", None)
        done = subprocess.run(
            [*ENGINE, str(verdict.seed)], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert f"seed {verdict.seed}: " in done.stdout, done.stderr
        assert verdict.trace.digest in done.stdout or verdict.finding is not None


def test_seeds_differ():
    assert simulate(1).trace.digest != simulate(2).trace.digest


def test_the_loop_shuffles_and_jumps_and_has_no_threads():
    def order(seed: int) -> list[int]:
        seen: list[int] = []

        async def main() -> None:
            async def one(number: int) -> None:
                await asyncio.sleep(0)
                seen.append(number)

            await asyncio.gather(*(one(number) for number in range(20)))
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(3600)
            assert asyncio.get_running_loop().time() - began == 3600
            with pytest.raises(AssertionError, match="thread"):
                await asyncio.to_thread(print)

        loop = SeededLoop(chance_of(seed))
        loop.run_until_complete(main())
        loop.close()
        return seen

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(5)}) == 5


def test_a_killed_process_takes_no_further_step_and_a_frozen_one_takes_them_later():
    loop = SeededLoop(chance_of(1))
    said: list[str] = []

    async def life(name: str) -> None:
        try:
            await asyncio.sleep(10)
            said.append(f"{name} lives")
        finally:
            said.append(f"{name} cleans up")

    async def main() -> None:
        killed, frozen = Process(loop, "killed"), Process(loop, "frozen")
        killed.spawn(life("killed"))
        frozen.spawn(life("frozen"))
        await asyncio.sleep(1)
        killed.dead = True
        frozen.freeze()
        await asyncio.sleep(100)
        assert said == []
        frozen.thaw()
        await asyncio.sleep(1)
        assert said == ["frozen lives", "frozen cleans up"]
        assert loop.tasks_of(killed) == ["task 2"]

    loop.run_until_complete(main())
    loop.bury()
    loop.close()


def test_a_process_is_killed_between_any_two_steps():
    def lived(steps: int) -> int:
        loop = SeededLoop(chance_of(1))
        done = []

        async def work() -> None:
            for number in range(10):
                await asyncio.sleep(0)
                done.append(number)

        async def main() -> None:
            process = Process(loop, "p")
            process.after_steps(steps, lambda: setattr(process, "dead", True))
            process.spawn(work())
            await asyncio.sleep(5)

        loop.run_until_complete(main())
        loop.bury()
        loop.close()
        return len(done)

    assert [lived(steps) for steps in range(8)] == [0, 0, 1, 2, 3, 4, 5, 6]
