"""The limit that ended a program."""

import msgspec

from trusted_pool.core.words import Reason


class Breach(msgspec.Struct, frozen=True, kw_only=True):
    """Which limit, and what was seen. `words`: why, when it is not the plain limit."""

    reason: Reason
    seen: float = 0.0
    words: str = ""
    limit: str = ""  #: its name, where the reason alone does not tell it
