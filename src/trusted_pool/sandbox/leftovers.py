"""What jobs may have left on a machine: processes, files, mounts."""

import os
from pathlib import Path

from trusted_pool.sandbox.cgroups import processes
from trusted_pool.sandbox.standing import Finding, Kind


def look(root: Path, places: list[Path], word: str, trouble: str) -> list[Finding]:
    """Look for a daemon by a word of its command line, and for all else that jobs left. No job may be running.

    `root`: the sandbox's directory; `places`: its control groups; `trouble`: why the daemon cannot have been started.
    """
    left = living(word)
    why = trouble or (f"process {left[0]} runs on" if left else "")
    title = "nothing that a job started outlives it"
    daemons = Finding(name="daemons", title=title, kind=Kind.WALL, holds=not why, why=why)
    members = {pid for place in places for group in place.glob("slot-*") for pid in processes(group)} - {os.getpid()}
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(root) in line]
    counts = {"files": len(list((root / "jobs").iterdir())), "processes": len(members), "mounts": len(mounts)}
    words = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    why = f"left: {words}" if words else ""
    title = "no file, process or mount of a job is left"
    return [daemons, Finding(name="leftovers", title=title, kind=Kind.LIMIT, holds=not words, why=why)]


def living(word: str) -> list[int]:
    """Return the processes of the machine, but this one, that have a word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if word.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found
