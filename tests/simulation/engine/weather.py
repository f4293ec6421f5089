"""What a run's seed decides about its network and its people: how bad it is, and every single throw."""

from collections.abc import Callable

import msgspec

from simulation.engine.chance import Chance
from trusted_pool.link.fake import Fate


class Weather(msgspec.Struct, kw_only=True):
    """How likely things go wrong, each between 0 and 1."""

    drop: float = 0.0  #: a call does not leave; a stream breaks
    lose_reply: float = 0.0  #: the other side acts, the answer is lost
    vanish: float = 0.0  #: a call is lost on its way, and the caller cannot know
    repeat: float = 0.0  #: a call arrives twice, the copy late
    late_s: float = 0.0  #: how late copies come at most
    slow: float = 0.0  #: a call or an answer takes up to `slow_s`
    slow_s: float = 0.0
    hang_up: float = 0.0  #: a server ends the handler of a caller who has gone

    @classmethod
    def drawn(cls, chance: Chance) -> "Weather":
        """Draw one: each kind of trouble is absent in half of the runs, so that the others are seen alone."""

        def some(most: float) -> float:
            return chance.random() * most if chance.random() < 0.5 else 0.0

        return cls(
            drop=some(0.15),
            lose_reply=some(0.25),
            vanish=some(0.1),
            repeat=some(0.2),
            late_s=chance.choice((1.0, 30.0, 400.0)),
            slow=some(0.3),
            slow_s=chance.choice((0.5, 8.0, 20.0)),
            hang_up=chance.choice((0.0, 0.3, 1.0)),
        )


class Fortune:
    """The seeded source, asked by name."""

    def __init__(self, chance: Chance) -> None:
        self.chance = chance
        self.weather = Weather()

    def happens(self, likelihood: float) -> bool:
        """Throw once."""
        return likelihood > 0 and self.chance.random() < likelihood

    def fate(self, name: str) -> Fate:
        """Decide about one call, or one message of a stream."""
        weather = self.weather
        many = name == "message"
        return Fate(
            arrives=not self.happens(weather.drop / 5 if many else weather.drop),
            answered=not self.happens(weather.lose_reply),
            copies=2 if self.happens(weather.repeat) else 1,
            delay_s=self.delay_s(),
            reply_delay_s=self.delay_s(),
        )

    def delay_s(self) -> float:
        """Decide how long something takes."""
        if self.happens(self.weather.slow):
            return self.chance.random() * self.weather.slow_s
        return 0.001 * self.chance.random()


class SeededDice:
    """Randomness from the seed."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance

    def token(self, n_bytes: int) -> str:
        """Return that many bytes as hex."""
        return self._chance.getrandbits(8 * n_bytes).to_bytes(n_bytes, "big").hex()

    def jitter(self) -> float:
        """Return a number in [0, 1)."""
        return self._chance.random()


class JumpingClock:
    """A wall clock that somebody sets forwards and backwards while time goes on."""

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self.offset_s = 0.0

    def now(self) -> float:
        """Seconds of the wall."""
        return self._time() + self.offset_s

    def monotonic(self) -> float:
        """Seconds that go on evenly."""
        return self._time()
