"""What a job sees and may: limits and binds in, bubblewrap's arguments out. A pure function, pinned by golden tests."""

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

MB = 1024 * 1024
#: Inside, the job is this user; outside, it is its slot's uid.
INNER_UID = 1000
HOSTNAME = "sandbox"
JOB = "/job"
#: The base of every job's environment; the manifest's `env` is laid over it, the pool's own variables over that.
#: HOME lies in memory, so that caches written there are no outputs. PYTHONUNBUFFERED makes logs live.
BASE_ENV: Mapping[str, str] = {
    "HOME": "/tmp",  # noqa: S108 - the sandbox's own
    "LANG": "C.UTF-8",
    "LOGNAME": "job",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "PYTHONUNBUFFERED": "1",
    "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's own
    "USER": "job",
}
_EMPTY = "fstab"  #: a file of our /etc with nothing in it
#: Files of the sandbox's /etc that are made, not the host's.
ETC: Mapping[str, str] = {
    "passwd": f"root:x:0:0:root:/nonexistent:/bin/false\njob:x:{INNER_UID}:{INNER_UID}:job:/tmp:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "group": f"root:x:0:\njob:x:{INNER_UID}:\nnogroup:x:65534:\n",
    _EMPTY: "",
    "hosts": "127.0.0.1 localhost sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
#: What of the host's /etc is copied into it, when it is there: what programs need to be found and to run.
ETC_COPIED = ("ld.so.cache", "alternatives", "localtime", "timezone", "mime.types", "R", "perl")


#: What of /proc is hidden where others than root may read it: keyrings, the kernel's symbols and command line, devices,
#: and interrupts, from whose times keystrokes can be guessed.
PROC_MASKED = ("keys", "kallsyms", "modules", "cmdline", "interrupts", "acpi", "asound", "scsi")


class Entry(msgspec.Struct, frozen=True):
    """One directory at the root of the sandbox: a symlink into /usr, or a directory of the host, read-only."""

    path: str
    symlink: str | None = None


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What every job on this machine sees. `etc` is a directory of ours; `masked` are names in /proc."""

    system: tuple[Entry, ...]
    etc: str
    masked: tuple[str, ...] = ()


class Equipment(msgspec.Struct, frozen=True, kw_only=True):
    """What of the machine one job is lent beside that: pairs of a path outside and one inside."""

    binds: Sequence[tuple[str, str]] = ()  #: directories, read-only
    devices: Sequence[tuple[str, str]] = ()  #: device files


NOTHING_LENT = Equipment()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one job may use."""

    memory_bytes: int
    disk_bytes: int
    timeout_s: float
    cpus: float = 1
    cpu_seconds: float | None = None
    pids: int = 512
    files: int = 100_000  #: entries of the attempt's directory
    open_files: int = 4096


def look(root: Path = Path("/")) -> tuple[Entry, ...]:
    """See how this machine lays out its system directories (merged /usr or not)."""
    entries = [Entry("/usr")]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = root / name
        try:
            mode = path.lstat().st_mode
        except OSError:
            continue
        if stat.S_ISLNK(mode):
            entries.append(Entry(f"/{name}", str(path.readlink())))
        elif stat.S_ISDIR(mode):
            entries.append(Entry(f"/{name}"))
    return tuple(entries)


def masked(proc: Path = Path("/proc")) -> tuple[str, ...]:
    """See what of /proc is to be hidden: what tells of the machine and everybody may read."""
    found = []
    for name in PROC_MASKED:
        try:
            mode = (proc / name).lstat().st_mode
        except OSError:
            continue
        if mode & stat.S_IROTH:
            found.append(f"{name}/" if stat.S_ISDIR(mode) else name)
    return tuple(found)


def environment(manifest_env: Mapping[str, str], pool_env: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a job; later ones win: base, manifest, pool."""
    return {**BASE_ENV, **manifest_env, **pool_env}


def options(
    view: View, directory: str, limits: Limits, env: Mapping[str, str], equipment: Equipment = NOTHING_LENT
) -> list[str]:
    """Bubblewrap's options, in the order it carries them out."""
    tmpfs = str(max(MB, limits.memory_bytes // 2))  # two of them: both full are the job's memory
    out = [
        *("--unshare-user", "--uid", str(INNER_UID), "--gid", str(INNER_UID)),
        *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup", "--disable-userns"),
        *("--die-with-parent", "--new-session", "--hostname", HOSTNAME),
    ]
    for entry in view.system:
        if entry.symlink is not None:
            out += ["--symlink", entry.symlink, entry.path]
        else:
            out += ["--ro-bind", entry.path, entry.path]
    out += ["--ro-bind", view.etc, "/etc"]
    out += ["--proc", "/proc"]
    for name in view.masked:
        over = ["--size", "4096", "--tmpfs"] if name.endswith("/") else ["--ro-bind", f"{view.etc}/{_EMPTY}"]
        out += [*over, f"/proc/{name.rstrip('/')}"]
    out += ["--dev", "/dev"]
    for outside, inside in equipment.devices:
        out += ["--dev-bind", outside, inside]
    out += ["--size", tmpfs, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108 - the sandbox's own
    out += ["--size", tmpfs, "--tmpfs", "/tmp"]  # noqa: S108 - the sandbox's own
    for outside, inside in equipment.binds:
        out += ["--ro-bind", outside, inside]
    out += ["--bind", directory, JOB, "--remount-ro", "/", "--chdir", JOB]
    for name, value in env.items():
        out += ["--setenv", name, value]
    return out


def packed(arguments: list[str]) -> bytes:
    """Write options as bubblewrap reads them from `--args`, where other users of the machine cannot see them."""
    return b"".join(argument.encode("utf-8", "surrogateescape") + b"\0" for argument in arguments)


def rlimits(limits: Limits, *, tree: bool) -> dict[str, int]:
    """Limits of each single process, by the name in `resource`; a second line behind those of the whole tree.

    `tree`: there are limits of the whole tree.
    """
    out = {
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": limits.disk_bytes,
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
    }
    if limits.cpu_seconds is not None:
        out["RLIMIT_CPU"] = int(limits.cpu_seconds) + 2
    if not tree:
        out["RLIMIT_NPROC"] = limits.pids
        out["RLIMIT_DATA"] = 2 * limits.memory_bytes + 256 * MB
    return out
