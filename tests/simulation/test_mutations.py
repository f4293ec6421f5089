"""The simulation is worth something: it finds every one of a list of deliberate bugs, each by its saved seed.

A change of the product changes what a seed does. When a saved seed does not find its bug any more, some more are
tried, and the new one is said.
"""

import warnings

import pytest

from simulation.engine.mutations import MUTANTS
from simulation.engine.run import simulate
from simulation.saved_seeds import SAVED

MORE = 400


def test_every_bug_has_its_seed_and_there_are_enough_of_them():
    assert set(SAVED) == set(MUTANTS)
    assert len(MUTANTS) >= 12


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_deliberate_bug_is_found(name: str):
    mutant = MUTANTS[name]
    others: set[str] = set()
    for seed in (SAVED[name], *range(MORE)):
        verdict = simulate(seed, mutant.breaks)
        if verdict.finding is not None and verdict.finding.kind in mutant.found_as:
            break
        others |= {verdict.finding.kind} if verdict.finding is not None else set()
    else:
        pytest.fail(f"{name}: found by none of {MORE} seeds; found instead: {sorted(others)}")
    if seed != SAVED[name]:
        warnings.warn(f"{name} is found by seed {seed} now; save it in saved_seeds.py", stacklevel=1)
    assert str(seed) in verdict.text()
    clean = simulate(seed)
    assert clean.finding is None, clean.text()
