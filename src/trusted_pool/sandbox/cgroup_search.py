"""Which control groups this process may use, and under which name."""

import os
from pathlib import Path

import msgspec

from trusted_pool.sandbox import cgroup_v1, cgroup_v2
from trusted_pool.sandbox.causes import Cause, as_root
from trusted_pool.sandbox.cgroups import Cgroups, processes, remove
from trusted_pool.sandbox.standing import Finding, Kind

TITLE = "control groups limit all processes of a job together"
#: What gives a user control groups of its own, where systemd runs them as version 2.
_DELEGATED = "systemd-run --user --scope -p Delegate=yes tpool worker …"
_OR_ROOT = " (or start it as root)"


class Mount(msgspec.Struct, frozen=True):
    """One mounted hierarchy: where, which part of it, which controllers (version 1) or None (version 2)."""

    point: Path
    root: str
    controllers: frozenset[str] | None


class Found(msgspec.Struct, frozen=True):
    """What was found; without `cgroups`, why not and what mends it."""

    cgroups: Cgroups | None
    cause: Cause = Cause("")

    @property
    def finding(self) -> Finding:
        """Say it for the doctor."""
        seen = f"version {self.cgroups.version}" if self.cgroups is not None else ""
        return Finding(
            name="control_groups",
            title=TITLE,
            kind=Kind.LIMIT,
            holds=self.cgroups is not None,
            seen=seen,
            why=self.cause.why,
            mend=self.cause.mend,
        )


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
    listed = mounts(mountinfo if mountinfo is not None else Path("/proc/self/mountinfo").read_text())
    member = membership if membership is not None else Path("/proc/self/cgroup").read_text()
    seen = [mount for mount in listed if (mount.point / "cgroup.procs").exists()]
    if not seen:
        return Found(None, _none(listed))
    unified = next((m for m in seen if m.controllers is None), None)
    found = Found(None, Cause("no control groups with memory, pids and cpu are mounted", _mount_them()))
    if unified is not None:
        found = _unified(unified, member, name)
        if found.cgroups is not None:
            return found
    own: dict[str, Path] = {}
    for controller in cgroup_v1.CONTROLLERS:
        mount = next((m for m in seen if m.controllers and controller in m.controllers), None)
        path = own_path(mount, member) if mount else None
        if path is not None:
            own[controller] = path
    if len(own) < len(cgroup_v1.CONTROLLERS):
        return found
    try:
        return Found(cgroup_v1.V1Cgroups(own, name))
    except OSError as error:
        why = f"control groups are not delegated to this user ({error.strerror}: {error.filename})"
        mend = "start the worker as root (version 1 of control groups cannot be given to users safely; with version 2: "
        return Found(None, Cause(why, f"{mend}{_DELEGATED})"))


def _none(listed: list[Mount]) -> Cause:
    """Say why no hierarchy is to be seen."""
    if listed:
        where = ", ".join(dict.fromkeys(str(mount.point) for mount in listed[:3]))
        why = f"control groups are mounted, but something covers {where}, as some containers do"
        return Cause(why, "start the container with its control groups visible: docker run --cgroupns=private …")
    return Cause("no control groups are mounted", _mount_them())


def _mount_them() -> str:
    return as_root("mount -t cgroup2 cgroup2 /sys/fs/cgroup")


def _unified(mount: Mount, membership: str, name: str) -> Found:
    """Version 2: below our own group when it is ours alone, else, as root, at the top."""
    own = own_path(mount, membership) or mount.point
    cause: Cause | None = None
    for parent in dict.fromkeys((own, mount.point) if os.geteuid() == 0 else (own,)):
        try:
            offered = (parent / "cgroup.controllers").read_text().split()
        except OSError:
            continue  # no group is there that this process could see
        # Only the kernel's own root may hold processes beside groups with controllers; it alone has no events.
        top = not (parent / "cgroup.events").exists()
        missing = [c for c in cgroup_v2.CONTROLLERS if c not in offered]
        others = [pid for pid in processes(parent) if pid != os.getpid()]
        if missing:
            cause = cause or _without(parent, missing, top=top)
        elif others and not top:
            why = f"the control group {parent} holds other processes too"
            cause = cause or Cause(why, f"start the worker in one of its own: {_DELEGATED}{_OR_ROOT}")
        else:
            try:
                return Found(cgroup_v2.V2Cgroups(parent, name, move_self=not top))
            except OSError as error:
                why = f"the control group {parent} is not delegated to this user ({error.strerror})"
                mend = f"start the worker with control groups of its own: {_DELEGATED}{_OR_ROOT}"
                cause = cause or Cause(why, mend)
    why = "control groups are not delegated to this user: its own cannot be seen"
    return Found(None, cause or Cause(why, f"start the worker with control groups of its own: {_DELEGATED}{_OR_ROOT}"))


def _without(parent: Path, missing: list[str], *, top: bool) -> Cause:
    """Say what gives a group the controllers that it has not."""
    why = f"the control group {parent} has no controller {', '.join(missing)}"
    if not top:
        return Cause(why, f"{_pass_on()}, log in again, and {_DELEGATED}{_OR_ROOT}")
    if (parent.parent / "memory").is_dir():
        return Cause(why, "boot with systemd.unified_cgroup_hierarchy=1: version 1 has taken them")
    return Cause(why, f"boot with cgroup_enable={missing[0]}, or a kernel that has it")


def _pass_on() -> str:
    """What lets systemd give all three controllers to users."""
    place = "/etc/systemd/system/user@.service.d"
    write = f"printf '[Service]\\nDelegate=cpu memory pids\\n' | {as_root(f'tee {place}/delegate.conf')}"
    return f"{as_root(f'mkdir -p {place}')} && {write} && {as_root('systemctl daemon-reload')}"


def sweep(noted: list[Path]) -> None:
    """Remove the groups that an earlier worker of this data directory noted, killing what is in them."""
    for place in noted:
        remove(place)
