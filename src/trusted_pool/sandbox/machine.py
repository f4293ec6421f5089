"""What this machine has for a sandbox: its program, names, uids, memory, and the /etc that jobs see."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from trusted_pool.ports.sandbox import SandboxError
from trusted_pool.sandbox import policy
from trusted_pool.sandbox.causes import as_root

#: The first with `--disable-userns`.
BUBBLEWRAP_SINCE = (0, 8, 0)
#: Share of the machine's memory that is offered unless the operator says otherwise.
MEMORY_SHARE = 0.9
#: Where slots' uids are taken from: beyond people, services, systemd's dynamic users and common container ranges.
_FIRST_UID = 1_900_000_000
_BLOCKS, _BLOCK = 100_000, 256
_FALLBACK_UID = 59_000  #: for user namespaces that map only 16 bits


def bubblewrap() -> str:
    """Find bubblewrap. Raises SandboxError: it is missing, or too old."""
    found = shutil.which("bwrap", path="/usr/bin:/usr/local/bin:/bin")
    if found is None:
        mend = f"{as_root('apt-get install bubblewrap')} (or your distribution's package)"
        raise SandboxError(f"bubblewrap is not installed; {mend}")
    version = bubblewrap_version(found)
    if version < BUBBLEWRAP_SINCE:
        has, needs = (".".join(map(str, v)) for v in (version, BUBBLEWRAP_SINCE))
        raise SandboxError(
            f"{found} is bubblewrap {has}, and {needs} or newer is needed; upgrade the distribution, or bubblewrap"
        )
    return found


def bubblewrap_version(path: str) -> tuple[int, ...]:
    """Ask a bubblewrap for its version. Raises SandboxError: it does not say."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False, env={})
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxError(f"{path} cannot be run: {error}; install bubblewrap again") from None
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", said.stdout)
    if match is None:
        raise SandboxError(f"{path} is no bubblewrap: it says {said.stdout[:100]!r}; install bubblewrap")
    return tuple(int(part or 0) for part in match.groups())


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
