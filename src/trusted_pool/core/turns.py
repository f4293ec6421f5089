"""Turns between owners, by the bytes that each was served: who was served least goes first.

Start-time fair queueing: a piece is stamped with the time at which it would begin if its owner were served evenly, the
least stamp goes first, and the clock is the stamp of what was served last. Who was away begins at the clock: it has
saved nothing, and owes nothing.
"""

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Who waits for a turn, in order. Mutable."""

    def __init__(self) -> None:
        self._clock = 0.0
        self._served: dict[str, float] = {}  #: by owner: where its next piece begins
        self._waiting: list[tuple[float, int, T]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def stamp(self, owner: str, size: float) -> float:
        """Charge an owner a piece and return its stamp."""
        begin = max(self._clock, self._served.get(owner, 0.0))
        self._served[owner] = begin + size
        return begin

    def serve(self, begin: float) -> None:
        """Take note that the piece of this stamp has its turn."""
        self._clock = max(self._clock, begin)
        if not self._waiting and len(self._served) > 1:
            # What lies behind the clock says nothing any more.
            self._served = {owner: end for owner, end in self._served.items() if end > self._clock}

    def wait(self, begin: float, who: T) -> None:
        """Put somebody into the queue; of equal stamps, the first comes first."""
        self._count += 1
        heapq.heappush(self._waiting, (begin, self._count, who))

    def next(self) -> T:
        """Take out whose turn it is, and serve him. Raises IndexError when nobody waits."""
        begin, _, who = heapq.heappop(self._waiting)
        self.serve(begin)
        return who
