"""What was found out about a machine, and which isolation level that makes. Pure."""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

#: Below this level a worker does not start unless it is told to.
LEVEL_REQUIRED = 2


class Kind(StrEnum):
    """What a finding is about, and so what is lost when it does not hold."""

    WALL = "wall"  #: what keeps a job inside: without it there is no sandbox, and no worker starts
    FILTER = "filter"  #: of system calls: without it level 0
    LIMIT = "limit"  #: of a whole tree of processes: without it level 1
    OWN_UID = "own_uid"  #: of each slot: without it level 2
    NOTE = "note"  #: of no level


#: The level a machine has when something of the kind does not hold.
_LEFT = {Kind.WALL: 0, Kind.FILTER: 0, Kind.LIMIT: 1, Kind.OWN_UID: 2, Kind.NOTE: 3}


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that should hold. `holds` None: it was not looked at, and `why` says why not."""

    name: str  #: a stable word for programs
    title: str  #: what should hold, for people
    kind: Kind
    holds: bool | None
    seen: str = ""  #: what was measured
    why: str = ""  #: what keeps it from holding
    mend: str = ""  #: the command that mends it


def level_of(findings: Iterable[Finding]) -> int:
    """Return the isolation level that these findings leave."""
    return min((_LEFT[f.kind] for f in findings if f.holds is False), default=3)


def missing(findings: Iterable[Finding], level: int) -> Finding | None:
    """Return the first thing, the gravest before others, that keeps a machine below a level."""
    below = [f for f in findings if f.holds is False and _LEFT[f.kind] < level]
    return min(below, key=lambda f: list(Kind).index(f.kind), default=None)


def refusal(findings: Iterable[Finding], *, allow_weaker: bool) -> str | None:
    """Say in one line why a worker does not start; None: it does.

    Without its walls a sandbox is none: no option lets a worker start then.
    """
    found = missing(findings, LEVEL_REQUIRED)
    if found is None or (allow_weaker and found.kind is not Kind.WALL):
        return None
    words = f"{_BEGINNINGS[found.kind]}: {found.why}" + (f"; {found.mend}" if found.mend else "")
    if found.kind is not Kind.WALL:
        words += f", or say --allow-weaker-isolation to run at level {_LEFT[found.kind]}"
    return f"{words} (`tpool doctor` says more)"


_BEGINNINGS = {
    Kind.WALL: "no sandbox holds on this machine",
    Kind.FILTER: "this machine cannot filter a job's system calls",
    Kind.LIMIT: "this machine cannot limit a whole tree of processes",
}
