"""Starting a program as an ordinary user, in control groups that were delegated to it, in a mount namespace of its own.

Run as a script, as root: `ordinary.py JSON COMMAND…`, which becomes the command.
"""

import contextlib
import ctypes
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

#: Nobody else's, also while several test runs share a machine.
UID = 61_000 + os.getpid() % 3_000
_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")


def prefix(*, uid: int | None, groups: Sequence[Path] = (), covers: Mapping[str, Path] | None = None) -> list[str]:
    """Return what comes before a command. `uid` None: stay root. `covers`: directories laid over others."""
    root = Path(__file__).resolve().parents[2]
    how = {
        "uid": uid,
        "groups": [str(group) for group in groups],
        "readable": [str(root), sys.base_prefix] if uid is not None else [],
        "covers": {place: str(path) for place, path in (covers or {}).items()},
    }
    return [sys.executable, str(Path(__file__).resolve()), json.dumps(how)]


@contextlib.contextmanager
def delegated(name: str, uid: int) -> Iterator[list[Path]]:
    """Make control groups that belong to a user, as an administrator does. Needs root; OSError where there are none."""
    made: list[Path] = []
    try:
        for parent in _parents():
            group = parent / name
            group.mkdir()
            made.append(group)
            for path in (group, *(group / file for file in _files(group))):
                os.chown(path, uid, uid)
        yield made
    finally:
        for group in made:
            for path, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):  # what a failed test left is looked for by who made it
                    Path(path).rmdir()


def _files(group: Path) -> list[str]:
    """What of a group an administrator hands over: where processes and controllers are named."""
    names = ("cgroup.procs", "tasks", "cgroup.subtree_control", "cgroup.threads")
    return [name for name in names if (group / name).exists()]


def _parents() -> list[Path]:
    """Where groups can be made: the one hierarchy of version 2, or one for each controller."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    unified = [Path(words[4]) for words in mounts if words[words.index("-") + 1] == "cgroup2"]
    for point in unified:
        if {"memory", "pids", "cpu"} <= set((point / "cgroup.controllers").read_text().split()):
            (point / "cgroup.subtree_control").write_text("+memory +pids +cpu")
            return [point]
    found: dict[str, Path] = {}
    own = {
        name: path
        for line in Path("/proc/self/cgroup").read_text().splitlines()
        for _, names, path in [line.split(":", 2)]
        for name in names.split(",")
    }
    for words in mounts:
        if words[words.index("-") + 1] == "cgroup":
            for controller in set(words[-1].split(",")) & set(_CONTROLLERS):
                place = Path(words[4] + own[controller].removeprefix(words[3].rstrip("/")))
                found[controller] = place if place.is_dir() else Path(words[4])
    if len(found) < len(_CONTROLLERS):
        raise OSError("this machine has no control groups that could be delegated")
    return list(dict.fromkeys(found.values()))


def _main() -> None:
    how = json.loads(sys.argv[1])
    for group in map(Path, how["groups"]):
        # Of version 2, a group that hands controllers down takes no process: who was here before made a place below.
        place = next(group.glob("*-worker"), group)
        (place / "cgroup.procs").write_text(str(os.getpid()))
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
        words = [text and text.encode() for text in (source, target, kind)]
        if libc.mount(*words, flags, data and data.encode()) != 0:
            raise OSError(ctypes.get_errno(), f"mount {source} {target}")

    if how["covers"] or how["readable"]:
        if libc.unshare(_CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    for place, path in how["covers"].items():
        mount(path, place, None, _MS_BIND)
    # Where our Python and our code are, other users may not be let in: they are shown below a directory that lets them.
    shown = {path: os.open(path, os.O_PATH) for path in how["readable"] if _shut(path)}
    for shut in dict.fromkeys(str(_shut(path)) for path in shown):
        mount("none", shut, "tmpfs", 0, "mode=755,size=1m")
    for path, fd in shown.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        mount(f"/proc/self/fd/{fd}", path, None, _MS_BIND | _MS_REC)
        os.close(fd)
    if how["uid"] is not None:
        os.setgroups([])
        os.setresgid(*[how["uid"]] * 3)
        os.setresuid(*[how["uid"]] * 3)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - that is what it is for


def _shut(path: str) -> Path | None:
    """The first directory on the way that others may not pass."""
    way = [*reversed(Path(path).parents), Path(path)]
    return next((place for place in way if not place.stat().st_mode & 0o001), None)


if __name__ == "__main__":
    _main()
