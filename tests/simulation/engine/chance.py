"""The one seeded source of everything that is left to chance."""

import random  # noqa: TID251 - the simulation's randomness is this

Chance = random.Random


def chance_of(seed: object) -> Chance:
    """Return the source that belongs to a seed."""
    return random.Random(str(seed))  # noqa: S311 - it must be foreseeable
