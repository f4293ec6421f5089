"""Fair shares between owners: weighted fair queueing by virtual time.

Each placement charges its owner. The owner with the least virtual time goes first, so that over any time in which two
owners both have jobs queued, what they were charged differs by at most one charge. Who had nothing queued comes back at
the least virtual time of those who have: being away saves nothing up.
"""

#: What one placement costs: a slot is a slot.
CHARGE = 1.0


def come_back(own: float, others: list[float]) -> float:
    """Return the virtual time at which an owner comes back to the queue."""
    return max(own, min(others, default=own))
