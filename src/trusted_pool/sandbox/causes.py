"""Why a machine cannot hold a job, and the command that mends it: from what was said to what is set in the kernel."""

import os
from pathlib import Path

import msgspec

PROC = Path("/proc")


class Cause(msgspec.Struct, frozen=True):
    """What keeps something from holding, and what to type."""

    why: str
    mend: str = ""


def as_root(command: str) -> str:
    """Write a command as this user has to type it."""
    return command if os.geteuid() == 0 else f"sudo {command}"


def of_walls(words: str, proc: Path = PROC) -> Cause:
    """Say why no sandbox can be built, from bubblewrap's or the kernel's words."""
    most = _setting(proc, "user/max_user_namespaces")
    if not (proc / "self/ns/user").exists() and not (proc / "self/ns/user").is_symlink():
        return Cause("the kernel has no user namespaces", "boot a kernel with CONFIG_USER_NS=y, as distributions' have")
    if most == "0":
        return Cause(
            f"user namespaces are off: user.max_user_namespaces is 0 ({words})",
            as_root("sysctl -w user.max_user_namespaces=15000"),
        )
    if _setting(proc, "kernel/unprivileged_userns_clone") == "0":
        return Cause(
            f"user namespaces are off: kernel.unprivileged_userns_clone is 0 ({words})",
            as_root("sysctl -w kernel.unprivileged_userns_clone=1"),
        )
    if _setting(proc, "kernel/apparmor_restrict_unprivileged_userns") == "1":
        return Cause(
            f"AppArmor forbids user namespaces: kernel.apparmor_restrict_unprivileged_userns is 1 ({words})",
            _profile() + ", or " + as_root("sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        )
    if filtered(proc):
        return Cause(
            f"a system-call filter that this process runs under refuses namespaces ({words})",
            "start the container with --security-opt seccomp=unconfined, or with a profile that allows clone, unshare, "
            "mount, umount2 and pivot_root",
        )
    if "No space left" in words:
        return Cause(
            f"no more user namespaces may be made: the limit of {most or 'this machine'}, or one of a container, is "
            f"reached ({words})",
            as_root("sysctl -w user.max_user_namespaces=100000") + " on the host",
        )
    if "mount proc" in words:
        return Cause(
            f"/proc is partly covered, as container runtimes do, so no second one may be mounted ({words})",
            "start the container with --security-opt systempaths=unconfined (Podman: --security-opt unmask=ALL)",
        )
    return Cause(f"a sandbox cannot be built: {words}", "in a container, allow user namespaces and mounts")


def _profile() -> str:
    """What lets bubblewrap, and nobody else, make user namespaces. The profile comes with AppArmor, switched off."""
    name = "bwrap-userns-restrict"
    steps = ("apt-get install apparmor-profiles", f"cp /usr/share/apparmor/extra-profiles/{name} /etc/apparmor.d/")
    return " && ".join(map(as_root, (*steps, f"apparmor_parser -r /etc/apparmor.d/{name}")))


def of_filter(words: str, proc: Path = PROC) -> Cause:
    """Say why a system-call filter cannot be laid on a job."""
    if not (proc / "sys/kernel/seccomp").exists():
        return Cause(
            f"the kernel has no system-call filters ({words})",
            "boot a kernel with CONFIG_SECCOMP_FILTER=y, as distributions' have",
        )
    if filtered(proc):
        return Cause(
            f"a system-call filter that this process runs under refuses further ones ({words})",
            "start the container with --security-opt seccomp=unconfined, or with a profile that allows seccomp(2)",
        )
    return Cause(f"a system-call filter cannot be laid on a job: {words}")


def filtered(proc: Path = PROC) -> bool:
    """Whether this process runs under a system-call filter itself."""
    try:
        lines = (proc / "self/status").read_text().splitlines()
    except OSError:
        return False
    return any(line.split() == ["Seccomp:", "2"] for line in lines)


def _setting(proc: Path, name: str) -> str | None:
    """Read one of the kernel's settings; None: this kernel does not have it."""
    try:
        return (proc / "sys" / name).read_text().strip()
    except OSError:
        return None
