"""A submit on its way in, and what was said to those that did not come in."""

from collections import OrderedDict
from collections.abc import Callable

from trusted_pool.ports.journal import Entry
from trusted_pool.protocol.errors import PoolError, StaleEpochError, UnavailableError

Key = tuple[str, str, int]  #: pool id, job id, number of the attempt

#: How many released or refused attempts are remembered. They need not outlive the process: no connection does, so no
#: copy of a submit can come later than that.
REMEMBERED = 20_000
#: What a submit to a draining worker is told to wait.
DRAINING_RETRY_S = 30.0


def _still() -> None:
    """Have nothing against it."""


class Admission:
    """A submit on its way in: it holds a slot, or knows the entry that the same attempt has already."""

    def __init__(self, key: Key, slot: int | None = None, known: Entry | None = None) -> None:
        self.key = key
        self.slot = slot
        self.known = known
        #: Raises PoolError when who sends it may not any more; asked before it is accepted.
        self.still: Callable[[], None] = _still


class Over:
    """What late copies of a submit are answered when its attempt was refused, or released."""

    def __init__(self) -> None:
        self._errors: OrderedDict[Key, PoolError] = OrderedDict()

    def find(self, key: Key) -> PoolError | None:
        """Return the error, if it is over."""
        return self._errors.get(key)

    def add(self, key: Key, error: PoolError) -> None:
        """Take note."""
        self._errors[key] = error
        if len(self._errors) > REMEMBERED:
            self._errors.popitem(last=False)

    def refuse(self, key: Key, error: PoolError) -> None:
        """Remember a refusal. The pool goes on to another attempt then, so a late copy must not start this one.

        Of a coordinator that was replaced nothing is remembered: the one that replaced it may send the same attempt.
        """
        if isinstance(error, StaleEpochError):
            return
        if error.status < 500 or isinstance(error, UnavailableError):  # noqa: PLR2004 - other 5xx are no refusals
            self.add(key, error)


def draining() -> UnavailableError:
    """Return what a submit to a draining worker is answered."""
    return UnavailableError(
        "the worker is draining: it takes no new jobs",
        hint="send it to another worker",
        retry_after_s=DRAINING_RETRY_S,
    )
