"""Fair shares between owners: weighted fair queueing by virtual time.

Each placement charges its owner. The owner with the least virtual time goes first, so that over any time in which two
owners both have jobs queued, what they were charged differs by at most one charge. Who had nothing queued comes back at
the least virtual time of those who have: being away saves nothing up. Who comes to an empty queue begins at the highest
there ever was: what was served to one alone is no debt to those who come later.
"""

from collections.abc import Callable

#: What one placement costs: a slot is a slot.
CHARGE = 1.0


def come_back(own: float, others: list[float], highest: Callable[[], float]) -> float:
    """Return the virtual time at which an owner comes back to the queue.

    `others`: of the owners that have jobs queued. `highest`: of all owners ever; asked for when nobody has, because
    whoever comes to an empty queue owes nothing for what was served while nobody else wanted anything.
    """
    return max(own, min(others) if others else highest())
