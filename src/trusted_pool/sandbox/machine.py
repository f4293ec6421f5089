"""What this machine has, and what keeps a sandbox from starting on it, in words that say what to type."""

import hashlib
import os
import shutil
from pathlib import Path

from trusted_pool.ports.sandbox import SandboxError
from trusted_pool.sandbox import policy

#: Share of the machine's memory that is offered unless the operator says otherwise.
MEMORY_SHARE = 0.9
#: Where slots' uids are taken from: beyond people, services, systemd's dynamic users and common container ranges.
_FIRST_UID = 1_900_000_000
_BLOCKS, _BLOCK = 100_000, 256
_FALLBACK_UID = 59_000  #: for user namespaces that map only 16 bits


def bubblewrap() -> str:
    """Find bubblewrap. Raises SandboxError."""
    found = shutil.which("bwrap", path="/usr/bin:/usr/local/bin:/bin")
    if found is None:
        raise SandboxError("bubblewrap is not installed; apt-get install bubblewrap (or your distribution's package)")
    return found


def worker_name(root: Path) -> str:
    """Name this worker's control groups after its data directory: two workers on one machine never share one."""
    return "tpool-" + hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:12]


def first_uid(root: Path, uid_map: str | None = None) -> int:
    """Choose the uid of slot 0; slot n has this one + n.

    A worker's data directory decides, so that two workers on one machine do not share uids.
    """
    block = int(hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8], 16) % _BLOCKS
    wanted = _FIRST_UID + block * _BLOCK
    lines = (uid_map if uid_map is not None else Path("/proc/self/uid_map").read_text()).splitlines()
    spans = [(int(inside), int(length)) for inside, _, length in (line.split() for line in lines)]
    if any(inside <= wanted and wanted + _BLOCK <= inside + length for inside, length in spans):
        return wanted
    return _FALLBACK_UID + block % 4 * _BLOCK


def memory_mb() -> int:
    """Memory that is offered by default, in MB: a share of the machine's, or of the container's."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return int(total * MEMORY_SHARE) // policy.MB


def why_not(words: str) -> str:
    """Say what mends a sandbox that could not be built, from bubblewrap's complaint."""
    if Path("/proc/sys/user/max_user_namespaces").read_text().strip() == "0":
        return f"user namespaces are off ({words}); sysctl -w user.max_user_namespaces=15000"
    clone = Path("/proc/sys/kernel/unprivileged_userns_clone")
    if clone.exists() and clone.read_text().strip() == "0":
        return f"user namespaces are off ({words}); sysctl -w kernel.unprivileged_userns_clone=1"
    apparmor = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if apparmor.exists() and apparmor.read_text().strip() == "1":
        return (
            f"AppArmor forbids user namespaces ({words}); install the profile of bubblewrap (apt-get install "
            "apparmor-profiles, then apparmor_parser -r /usr/share/apparmor/extra-profiles/bwrap-userns-restrict), "
            "or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        )
    return f"a sandbox cannot be built here ({words}); in a container, allow user namespaces and mounts"


def make_etc(directory: Path) -> None:
    """Make the /etc that jobs see."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    for name, text in policy.ETC.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o644)
    for name in policy.ETC_COPIED:
        source, target = Path("/etc") / name, directory / name
        try:
            if source.is_dir() and not source.is_symlink():
                shutil.copytree(source, target, symlinks=True, ignore_dangling_symlinks=True)
            elif source.is_symlink() or source.is_file():
                shutil.copy2(source, target, follow_symlinks=False)
        except OSError:
            shutil.rmtree(target, ignore_errors=True)  # not readable by us: jobs do without
