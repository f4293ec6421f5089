"""Numbers of bytes as people read and write them."""

import re

KILO = 1000.0
_UNITS = "kmgtp"
_WRITTEN = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgtp])(i?)(b?)|b?)", re.IGNORECASE | re.ASCII)
MOST = 2**60


def say(n: float) -> str:
    """Write a number of bytes for people: 0 B, 4.1 kB, 52 MB."""
    if n < KILO:
        return f"{n:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):  # noqa: B007 - the one it stops at is shown
        n /= KILO
        if n < KILO:
            break
    return f"{n:.1f} {unit}" if n < 10 else f"{n:.0f} {unit}"  # noqa: PLR2004 - two digits are enough


def read(text: str) -> int:
    """Read a number of bytes: 500, 100MB (of 1000), 100M or 100MiB (of 1024). Raises ValueError, which says how."""
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text[:60]!r} is no size: write it like 500MB, 100G or 2TiB")
    number, unit, binary, byte = found.groups()
    base = 1024 if binary or not byte else 1000
    size = float(number) * (base ** (_UNITS.index(unit.lower()) + 1) if unit else 1)
    if size > MOST:
        raise ValueError(f"{text[:60]!r} is more than there is anywhere")
    return round(size)
