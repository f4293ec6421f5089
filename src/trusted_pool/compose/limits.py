"""The limits that a coordinator starts with: those that are said, over those that fit most pools."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trusted_pool.compose.system import StartError
from trusted_pool.core.limits import NO_LIMIT, Limits
from trusted_pool.protocol import limits as written

#: Not of owners, since they hold before anybody knows who it is: connections of one client address, seconds for the
#: head of a request, seconds without a byte of its body.
CONNECTIONS, HEAD, BODY = "connections", "head-seconds", "body-seconds"
#: Of the disk that holds the data directory, for each owner.
USUAL_SHARE = 0.5
USUAL = Limits(queued=1_000_000, transfers=16, waits=500)
USUAL_OF_LINES = {CONNECTIONS: 1000, HEAD: 10, BODY: 30}


class StartLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What owners may have, and what holds for everybody who connects. 0: no limit."""

    owners: Limits
    connections: int  #: open ones of one client address
    head_s: float  #: for the head of a request
    body_s: float  #: without a byte of its body


def start_limits(said: Sequence[str], data: Path) -> StartLimits:
    """Read `--limit NAME=VALUE`, each over the usual one. `data`: exists. Raises StartError."""
    disk_bytes = shutil.disk_usage(data).total
    values: dict[str, int] = {"bytes": round(disk_bytes * USUAL_SHARE)}
    lines = dict(USUAL_OF_LINES)
    try:
        for text in said:
            name, _, value = text.partition("=")
            if (name := name.strip().lower()) in lines and value:
                lines[name] = written.amount(name, value.strip().lower())
                continue
            field, value = written.split(text)
            if field == "bytes" and value.endswith("%"):
                values[field] = round(disk_bytes * _share(value))
            else:
                values[field] = written.amount(field, value)
    except written.BadLimitError as error:
        raise StartError(f"--limit {text}: {error}", usage=True) from None
    return StartLimits(
        owners=msgspec.structs.replace(USUAL, **values),
        connections=lines[CONNECTIONS],
        head_s=lines[HEAD],
        body_s=lines[BODY],
    )


def _share(value: str) -> float:
    number = value.removesuffix("%").strip()
    if not number.isdecimal() or not number.isascii() or not NO_LIMIT < int(number[:4]) <= 100:  # noqa: PLR2004 - percent
        raise written.BadLimitError(f"{value[:60]!r} is no share of the disk: write it like 50%")
    return int(number) / 100
