"""Turns between owners, by the bytes that each was served: who was served least goes first.

Start-time fair queueing: a piece is stamped with the time at which it would begin if its owner were served evenly, the
least stamp goes first, and the clock is the stamp of what was served last. Who was away begins at the clock: it has
saved nothing, and owes nothing.
"""

import heapq
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Who waits for a turn, in order. Mutable."""

    def __init__(self) -> None:
        self._clock = 0.0
        self._served: dict[str, float] = {}  #: by owner: where its next piece begins
        self._waiting: dict[str, deque[tuple[float, int, T]]] = {}  #: by owner, in the order in which they came
        self._order: list[tuple[float, int, str]] = []  #: a heap of all; those that were taken out otherwise too
        self._count = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def stamp(self, owner: str, size: float) -> float:
        """Charge an owner a piece and return its stamp."""
        begin = max(self._clock, self._served.get(owner, 0.0))
        self._served[owner] = begin + size
        return begin

    def serve(self, begin: float) -> None:
        """Take note that the piece of this stamp has its turn."""
        self._clock = max(self._clock, begin)
        if not self._length and len(self._served) > 1:
            # What lies behind the clock says nothing any more.
            self._served = {owner: end for owner, end in self._served.items() if end > self._clock}

    def wait(self, owner: str, begin: float, who: T) -> None:
        """Put somebody into the queue; of equal stamps, the first comes first."""
        self._count += 1
        self._length += 1
        self._waiting.setdefault(owner, deque()).append((begin, self._count, who))
        heapq.heappush(self._order, (begin, self._count, owner))

    def next(self) -> tuple[str, T] | None:
        """Take out and serve whose turn it is; None when nobody waits."""
        while self._order:
            _, count, owner = heapq.heappop(self._order)
            line = self._waiting.get(owner)
            if line is not None and line[0][1] == count:  # else it was taken out by `next_of`
                return owner, self._take(owner)
        return None

    def next_of(self, owner: str) -> T | None:
        """Take out and serve the next of one owner; None when it has none waiting."""
        return self._take(owner) if owner in self._waiting else None

    def _take(self, owner: str) -> T:
        line = self._waiting[owner]
        begin, _, who = line.popleft()
        if not line:
            del self._waiting[owner]
        self._length -= 1
        self.serve(begin)
        return who
