"""Runs seeds: `python -m simulation.engine SEED` replays one, `--seeds N` runs many."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext

from simulation.engine.mutations import MUTANTS, Mutation
from simulation.engine.run import Verdict, simulate

BATCH = 20
ALL_LINES = 10**9


def _mutation(name: str | None) -> Mutation:
    return nullcontext if name is None else MUTANTS[name].breaks


def _batch(first: int, count: int, name: str | None) -> tuple[int, int, int, list[str]]:
    """Run some seeds in this process; return how many, their steps and jobs, and what they found."""
    steps, jobs, found = 0, 0, []
    for seed in range(first, first + count):
        verdict = simulate(seed, _mutation(name))
        steps, jobs = steps + verdict.steps, jobs + verdict.jobs
        if verdict.finding is not None:
            found.append(verdict.text())
    return count, steps, jobs, found


def _say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def _batches(first: int, count: int) -> Iterator[tuple[int, int]]:
    for at in range(first, first + count, BATCH):
        yield at, min(BATCH, first + count - at)


def _many(first: int, count: int, processes: int, name: str | None) -> int:
    _say(f"seeds {first} to {first + count - 1}, {processes} at a time")
    began, done, steps, jobs, found = time.monotonic(), 0, 0, 0, 0
    with ProcessPoolExecutor(processes) as pool:
        runs = [pool.submit(_batch, at, size, name) for at, size in _batches(first, count)]
        for number, run in enumerate(runs, 1):
            ran, its_steps, its_jobs, texts = run.result()
            done, steps, jobs, found = done + ran, steps + its_steps, jobs + its_jobs, found + len(texts)
            for text in texts:
                _say(text)
            if number % 25 == 0:
                _say(f"{done} seeds, {found} with a finding, {time.monotonic() - began:.0f} s")
    _say(f"{done} seeds, {steps} steps, {jobs} jobs, {found} with a finding, {time.monotonic() - began:.0f} s")
    return 1 if found else 0


def _one(seed: int, name: str | None, *, full: bool) -> int:
    verdict: Verdict = simulate(seed, _mutation(name))
    if verdict.finding is not None:
        _say(verdict.text(ALL_LINES if full else 250))
        return 1
    if full:
        _say(verdict.trace.text(ALL_LINES))
    _say(f"seed {seed}: nothing found in {verdict.steps} steps; {verdict.jobs} jobs; trace {verdict.trace.digest}")
    return 0


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="simulation", description="The seeded simulation of a whole pool.")
    parser.add_argument("seed", nargs="?", type=int, help="replay this one")
    parser.add_argument("--seeds", type=int, default=1000, help="how many to run when none is named")
    parser.add_argument("--first", type=int, help="the first of them (default: a fresh one)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="with this deliberate bug")
    parser.add_argument("--full", action="store_true", help="print the whole trace")
    said = parser.parse_args()
    seed = said.seed if said.seed is not None else int(os.environ["SIM_SEED"]) if "SIM_SEED" in os.environ else None
    if seed is not None:
        return _one(seed, said.mutant, full=said.full)
    first = said.first if said.first is not None else int.from_bytes(os.urandom(4), "big")
    return _many(first, said.seeds, said.processes, said.mutant)


if __name__ == "__main__":
    sys.exit(main())
