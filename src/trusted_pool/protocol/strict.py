"""JSON that no two readers read in two ways: no key twice, no NaN, no number that is none."""

import json
import math
from typing import Any

MAX_SHOWN = 200


class DuplicateKeyError(ValueError):
    """A key stands twice in one object; the message is the key."""


def short(text: str) -> str:
    """Quote somebody's text, the beginning of it where it is long."""
    return repr(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…")


def _pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in items:
        if key in out:
            raise DuplicateKeyError(short(key))
        out[key] = value
    return out


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{short(text)} is too large")
    return number


#: Made once, which halves the cost of a small text.
_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_finite)


def read(raw: bytes) -> Any:
    """Read JSON. Raises DuplicateKeyError; ValueError for what is none, or is nested too deep."""
    try:
        return _DECODER.decode(raw.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deep") from None
