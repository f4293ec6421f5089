"""API keys as they are written: `tpool_`, 256 random bits, a check sum.

The prefix lets a scanner of repositories recognise one that leaked; the check sum tells a mistyped one from a revoked
one without asking anybody.
"""

import hashlib
import re
import string
import zlib

PREFIX = "tpool_"
SECRET_BYTES = 32
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_DIGITS = 43  # 62 ** 43 > 2 ** 256
_SUM_DIGITS = 6  # 62 ** 6 > 2 ** 32
#: What a scanner looks for.
PATTERN = rf"{PREFIX}[0-9A-Za-z]{{{_SECRET_DIGITS + _SUM_DIGITS}}}"
_WHOLE = re.compile(PATTERN)


class ApiKeyError(ValueError):
    """It is no API key; the message says why and holds nothing of it."""


def _base62(number: int, digits: int) -> str:
    written = []
    for _ in range(digits):
        number, digit = divmod(number, len(_ALPHABET))
        written.append(_ALPHABET[digit])
    return "".join(reversed(written))


def _sum(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), _SUM_DIGITS)


def write(secret: bytes) -> str:
    """Return the key of 32 random bytes."""
    text = PREFIX + _base62(int.from_bytes(secret, "big"), _SECRET_DIGITS)
    return text + _sum(text)


def check(key: str) -> None:
    """Raise ApiKeyError for what was never written by `write`."""
    if not _WHOLE.fullmatch(key):
        raise ApiKeyError(f"an API key begins with {PREFIX!r} and has {len(PREFIX) + 49} letters and digits")
    if _sum(key[:-_SUM_DIGITS]) != key[-_SUM_DIGITS:]:
        raise ApiKeyError("the API key is mistyped: its check sum is wrong")


def digest(key: str) -> str:
    """Return what is kept of a key: the hex sha256."""
    return hashlib.sha256(key.encode()).hexdigest()
