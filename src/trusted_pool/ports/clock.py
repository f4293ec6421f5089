"""Time and randomness, as arguments."""

from typing import Protocol


class Clock(Protocol):
    """Where use cases learn the time."""

    def now(self) -> float:
        """Seconds since the epoch. May jump."""

    def monotonic(self) -> float:
        """Seconds since some moment. Never goes back; for measuring spans."""


class Dice(Protocol):
    """Where use cases get randomness."""

    def token(self, n_bytes: int) -> str:
        """Return that many random bytes as hex, unguessable."""

    def jitter(self) -> float:
        """Return a number in [0, 1)."""
