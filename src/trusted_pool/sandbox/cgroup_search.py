"""Which control groups this process may use, and under which name."""

import os
from pathlib import Path

import msgspec

from trusted_pool.sandbox import cgroup_v1, cgroup_v2
from trusted_pool.sandbox.cgroups import Cgroups, processes, remove

HINT = (
    "start the worker with control groups of its own: "
    "systemd-run --user --scope -p Delegate=yes tpool worker …  (or as root)"
)


class Mount(msgspec.Struct, frozen=True):
    """One mounted hierarchy: where, which part of it, which controllers (version 1) or None (version 2)."""

    point: Path
    root: str
    controllers: frozenset[str] | None


class Found(msgspec.Struct, frozen=True):
    """What was found; `cgroups` None with the words why not."""

    cgroups: Cgroups | None
    words: str = ""


def mounts(mountinfo: str) -> list[Mount]:
    """Read the cgroup mounts from the text of /proc/self/mountinfo."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if len(tail) < 3 or not tail[0].startswith("cgroup"):  # noqa: PLR2004 - type, source, options
            continue
        controllers = None if tail[0] == "cgroup2" else frozenset(tail[2].split(","))
        found.append(Mount(Path(fields[4]), fields[3], controllers))
    return found


def own_path(mount: Mount, membership: str) -> Path | None:
    """Find this process's group in a hierarchy, from the text of /proc/self/cgroup."""
    for line in membership.splitlines():
        _, names, path = line.split(":", 2)
        mine = names == "" if mount.controllers is None else bool(mount.controllers & set(names.split(",")))
        if not mine:
            continue
        inside = path.removeprefix(mount.root.rstrip("/")) if mount.root != "/" else path
        candidate = mount.point / inside.lstrip("/")
        return candidate if candidate.is_dir() else mount.point
    return None


def find(name: str, *, mountinfo: str | None = None, membership: str | None = None) -> Found:
    """Find usable control groups and make the worker's directories in them.

    `name`: the worker's own, so that two workers on one machine never touch each other's groups.
    """
    seen = mounts(mountinfo if mountinfo is not None else Path("/proc/self/mountinfo").read_text())
    member = membership if membership is not None else Path("/proc/self/cgroup").read_text()
    unified = next((m for m in seen if m.controllers is None), None)
    words = "no control groups are mounted"
    if unified is not None:
        found = _unified(unified, member, name)
        if found.cgroups is not None:
            return found
        words = found.words
    own: dict[str, Path] = {}
    for controller in cgroup_v1.CONTROLLERS:
        mount = next((m for m in seen if m.controllers and controller in m.controllers), None)
        path = own_path(mount, member) if mount else None
        if path is not None:
            own[controller] = path
    if len(own) == len(cgroup_v1.CONTROLLERS):
        try:
            return Found(cgroup_v1.V1Cgroups(own, name))
        except OSError as error:
            words = f"control groups are not delegated to this user ({error.strerror}: {error.filename})"
    return Found(None, words)


def _unified(mount: Mount, membership: str, name: str) -> Found:
    """Version 2: below our own group when it is ours alone, else, as root, at the top."""
    own = own_path(mount, membership) or mount.point
    words = ""
    for parent in dict.fromkeys((own, mount.point) if os.geteuid() == 0 else (own,)):
        try:
            offered = (parent / "cgroup.controllers").read_text().split()
        except OSError:
            continue  # no group is there that this process could see
        missing = [c for c in cgroup_v2.CONTROLLERS if c not in offered]
        if missing:
            words = words or f"the control group {parent} has no controller {', '.join(missing)}"
            continue
        top = parent == mount.point and mount.root == "/"
        others = [pid for pid in processes(parent) if pid != os.getpid()]
        if others and not top:
            words = words or f"the control group {parent} holds other processes too"
            continue
        try:
            return Found(cgroup_v2.V2Cgroups(parent, name, move_self=not top))
        except OSError as error:
            words = words or f"the control group {parent} is not delegated ({error.strerror})"
    return Found(None, words or "control groups are not delegated to this user: its own cannot be seen")


def sweep(noted: list[Path]) -> None:
    """Remove the groups that an earlier worker of this data directory noted, killing what is in them."""
    for place in noted:
        remove(place)
