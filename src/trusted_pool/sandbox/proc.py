"""What /proc says of a tree of processes: for stopping it, and for limits where there are no control groups."""

import os
from pathlib import Path

import msgspec

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class TreeUse(msgspec.Struct, frozen=True, kw_only=True):
    """What the living processes of a tree use now; what ended counts with the parent that waited for it."""

    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    processes: int = 0


def parent(pid: int) -> int | None:
    """Return a process's parent, None when it is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def children(pid: int) -> list[int]:
    """Return the children of a process, started by any of its threads."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - names alone, and fast
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    except OSError:
        return found
    return found


def tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children(pid)
    return found


def use_of(pids: list[int]) -> TreeUse:
    """Add up what processes use."""
    ticks = pages = count = 0
    for pid in pids:
        fields = _stat(pid)
        if fields is None:
            continue
        count += 1
        ticks += sum(map(int, fields[11:15]))  # utime, stime and those of waited-for children
        pages += int(fields[21])
    return TreeUse(cpu_seconds=ticks / _TICKS, memory_bytes=pages * _PAGE, processes=count)


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/<pid>/stat from the state on; the name before them may hold anything."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()
