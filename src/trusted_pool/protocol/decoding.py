"""Reading JSON that somebody else wrote: whatever the bytes, one kind of error."""

from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
MAX_WORDS = 200


class DecodingError(ValueError):
    """It is no JSON of the wanted form; the message says where, and repeats little of it."""


def decode(raw: bytes | str, kind: type[T] | Any) -> T:
    """Read JSON into a type.

    The library has three errors for that: one for the form, one for bytes that are no UTF-8, one for deep nests.

    Raises:
        DecodingError: it cannot be read.
    """
    try:
        found: T = msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise DecodingError(str(error)[:MAX_WORDS]) from None
    except UnicodeError:
        raise DecodingError("it is no UTF-8") from None
    except RecursionError:
        raise DecodingError("it is nested too deep") from None
    return found
