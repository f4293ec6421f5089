"""Takes something of a machine away for real, then becomes another program.

weaken.py WHAT[,WHAT] UID PROGRAM …: runs as root. Everything happens in namespaces of its own or by filters of system
calls, and is gone with the program. UID -1: stay root. Otherwise the program is an ordinary user's, and can reach this
Python although its home is private.
"""

import ctypes
import os
import sys
from pathlib import Path

NEWNS, NEWUSER = 0x00020000, 0x10000000
BIND, REC, PRIVATE = 4096, 16384, 1 << 18
libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "none", flags: int = 0, options: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode(), flags, options.encode() or None)
    check(libc.mount(*arguments), f"mounting {target}")


def own_mounts() -> None:
    check(libc.unshare(NEWNS), "a mount namespace")
    mount("none", "/", flags=REC | PRIVATE)


def nothing() -> None:
    """The control."""


def no_bubblewrap() -> None:
    mount("/dev/null", "/usr/bin/bwrap", flags=BIND)


def old_bubblewrap() -> None:
    path = Path("/run/old-bwrap")  # in a mount of this namespace alone
    mount("tmpfs", "/run", "tmpfs")
    path.write_text("#!/bin/sh\necho bubblewrap 0.4.1\n")
    path.chmod(0o755)
    mount(str(path), "/usr/bin/bwrap", flags=BIND)


def leaky_bubblewrap() -> None:
    """One that shows its jobs more than it was told to."""
    mount("tmpfs", "/run", "tmpfs")
    real, leaky = Path("/run/real-bwrap"), Path("/run/leaky-bwrap")
    real.touch()
    mount("/usr/bin/bwrap", str(real), flags=BIND)
    leaky.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec {real} --version\nexec {real} --ro-bind /var /var "$@"\n'
    )
    leaky.chmod(0o755)
    mount(str(leaky), "/usr/bin/bwrap", flags=BIND)


def no_libseccomp() -> None:
    for path in Path("/usr/lib").rglob("libseccomp.so.2*"):
        mount("/dev/null", str(path.resolve()), flags=BIND)


def no_cgroups() -> None:
    check(libc.umount2(b"/sys/fs/cgroup", 2), "unmounting control groups")


def covered_cgroups() -> None:
    mount("tmpfs", "/sys/fs/cgroup", "tmpfs")


def covered_proc() -> None:
    """As container runtimes do."""
    mount("/dev/null", "/proc/timer_list", flags=BIND)
    mount("tmpfs", "/proc/acpi", "tmpfs")


def no_namespaces() -> None:
    """As in a user namespace whose owner allows no further ones."""
    ours, theirs = os.pipe()
    done, finish = os.pipe()
    me = os.getpid()
    if os.fork() == 0:  # stays outside, where the maps have to be written
        os.close(theirs)
        os.read(ours, 1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{me}/{name}").write_text("0 0 4294967295\n")
        os.write(finish, b"x")
        os._exit(0)
    check(libc.unshare(NEWUSER | NEWNS), "a user namespace")
    os.write(theirs, b"x")
    os.read(done, 1)
    os.wait()
    for fd in (ours, theirs, done, finish):
        os.close(fd)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


def _filtered(rules: list[tuple[str, tuple[int, int] | None, int]]) -> None:
    """Refuse calls by name; the second of each is an argument's index and the bits of it that are meant."""
    import errno  # noqa: PLC0415 - not needed otherwise

    import pyseccomp as seccomp  # noqa: PLC0415 - the same

    made = seccomp.SyscallFilter(seccomp.ALLOW)
    for name, bits, number in rules:
        arguments = [] if bits is None else [seccomp.Arg(bits[0], seccomp.MASKED_EQ, bits[1], bits[1])]
        made.add_rule(seccomp.ERRNO(number), name, *arguments)
    made.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    made.load()


def refused_namespaces() -> None:
    """As under a container's filter."""
    _filtered([("unshare", (0, NEWUSER), 1), ("clone", (0, NEWUSER), 1)])


def refused_filters() -> None:
    """As under a filter that lets no further ones be laid on."""
    import pyseccomp as seccomp  # noqa: PLC0415 - not needed otherwise

    made = seccomp.SyscallFilter(seccomp.ALLOW)
    made.add_rule(seccomp.ERRNO(22), "seccomp")
    made.add_rule(seccomp.ERRNO(22), "prctl", seccomp.Arg(0, seccomp.EQ, 22))
    made.load()


def reachable() -> None:
    """Let others than root reach this Python, wherever in root's home it is; the home's other files are gone."""
    base = Path(sys.base_prefix).resolve()
    private = next((p for p in reversed(base.parents) if p.stat().st_mode & 0o001 == 0), None)
    if private is None:
        return
    stage = Path("/mnt")
    mount(str(base), str(stage), flags=BIND | REC)
    mount("tmpfs", str(private), "tmpfs", options="mode=755")
    base.mkdir(parents=True)
    mount(str(stage), str(base), flags=BIND | REC)


def main() -> None:
    what, uid, *program = sys.argv[1:]
    own_mounts()
    if int(uid) >= 0:
        reachable()
    late = {"refused_namespaces", "refused_filters"}
    for name in sorted(what.split(","), key=late.__contains__):
        globals()[name]()
    if int(uid) >= 0:
        os.setgroups([])
        os.setresgid(int(uid), int(uid), int(uid))
        os.setresuid(int(uid), int(uid), int(uid))
    os.execv(program[0], program)  # noqa: S606 - what it is for


if __name__ == "__main__":
    main()
