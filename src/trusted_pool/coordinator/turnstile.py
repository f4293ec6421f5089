"""A turnstile between owners: so many at once, and of those who wait the one whose owner was served least."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType

from trusted_pool.core.turns import Turns

#: What a piece that is read is taken for before it is there.
PIECE = 256 * 1024


class Turnstile:
    """One owner may be in it as often as there is room, as long as nobody else wants in.

    An owner that has nobody inside never waits, however full it is: who sends one thing after the other does not stand
    behind those who send fifty at once.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._inside: dict[str, int] = {}
        self._turns: Turns[asyncio.Future[None]] = Turns()

    def turn(self, owner: str, size: float) -> "Turn":
        """Return a turn for a piece of work of this size, to be used as `async with`, once."""
        return Turn(self, owner, size)

    async def enter(self, owner: str, size: float) -> None:
        """Wait for a turn; each is ended by `leave`."""
        begin = self._turns.stamp(owner, size)
        if self._free > 0 or owner not in self._inside:
            self._let_in(owner)
            self._turns.serve(begin)
            return
        called = asyncio.get_running_loop().create_future()
        self._turns.wait(owner, begin, called)
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():
                self.leave(owner)  # it was called in the same moment
            raise

    def _let_in(self, owner: str) -> None:
        self._free -= 1
        self._inside[owner] = self._inside.get(owner, 0) + 1

    def leave(self, owner: str) -> None:
        """End a turn and call the next."""
        self._free += 1
        inside = self._inside.pop(owner) - 1
        if inside:
            self._inside[owner] = inside
        while self._free > 0 and (found := self._turns.next()) is not None:
            self._call(*found)
        while owner not in self._inside and (called := self._turns.next_of(owner)) is not None:
            self._call(owner, called)

    def _call(self, owner: str, called: "asyncio.Future[None]") -> None:
        if not called.done():  # else whoever waited has gone
            self._let_in(owner)
            called.set_result(None)

    async def paced(self, owner: str, pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Yield pieces, each read in a turn of its owner."""
        try:
            while True:
                async with self.turn(owner, PIECE):
                    piece = await anext(pieces, None)
                if piece is None:
                    return
                yield piece
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()


class Turn:
    """One turn."""

    __slots__ = ("_owner", "_size", "_turnstile")

    def __init__(self, turnstile: Turnstile, owner: str, size: float) -> None:
        self._turnstile = turnstile
        self._owner = owner
        self._size = size

    async def __aenter__(self) -> None:
        await self._turnstile.enter(self._owner, self._size)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turnstile.leave(self._owner)
