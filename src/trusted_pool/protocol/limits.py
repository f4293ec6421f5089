"""Limits of owners as they are written: `queued=10000`, `bytes=100G`, `running=none`."""

import difflib

from trusted_pool.core.limits import NO_LIMIT, Limits
from trusted_pool.protocol import sizes

#: As they are written on a command line, and their fields.
NAMES = {name.replace("_", "-"): name for name in Limits.__struct_fields__}
NONE = "none"
USUAL = "usual"
MOST = sizes.MOST
_MOST_DIGITS = 18


class BadLimitError(ValueError):
    """It is no limit; the message says how one is written."""


def split(text: str) -> tuple[str, str]:
    """Return the field and the value of `name=value`. Raises BadLimitError."""
    name, equals, value = text.partition("=")
    known = NAMES.get(name.strip().lower().replace("_", "-"))
    if known is None:
        near = difflib.get_close_matches(name, NAMES, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
        raise BadLimitError(f"there is no limit {name[:60]!r}; {hint}")
    if not equals or not value.strip():
        raise BadLimitError(f"the limit {name} has no value: write {name}=NUMBER, or {name}={NONE}")
    return known, value.strip().lower()


def amount(field: str, value: str) -> int:
    """Return the value of a limit; 0 for none. Raises BadLimitError."""
    if value == NONE:
        return NO_LIMIT
    if field == "bytes":
        try:
            return sizes.read(value)
        except ValueError as error:
            raise BadLimitError(str(error)) from None
    if not value.isdecimal() or not value.isascii() or len(value) > _MOST_DIGITS:
        raise BadLimitError(f"{value[:60]!r} is no number for {field.replace('_', '-')}; {NONE}: no limit")
    return int(value)


def say(field: str, limit: int) -> str:
    """Write a limit for people."""
    if limit == NO_LIMIT:
        return NONE
    return sizes.say(limit) if field == "bytes" else f"{limit}"
