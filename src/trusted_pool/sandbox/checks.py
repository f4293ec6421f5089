"""What can be said of a machine without a sandbox: the programs and kernel features that one is built from."""

import os
import platform
import subprocess
import sys

from trusted_pool.ports.sandbox import SandboxError
from trusted_pool.sandbox import beneath, causes, machine
from trusted_pool.sandbox.causes import Cause
from trusted_pool.sandbox.standing import Finding, Kind
from trusted_pool.sandbox.survey import Survey

#: As a slot's user, if there is one: make the namespaces that a sandbox needs, and lay a filter that allows everything.
_TRY = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
uid = int(sys.argv[2])
if uid >= 0:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
libc.prctl(38, 1, 0, 0, 0)
if sys.argv[1] == "namespaces":
    failed = libc.unshare(0x10000000 | 0x00020000 | 0x40000000 | 0x08000000 | 0x04000000)
else:
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 1, ctypes.addressof(code)))
    failed = libc.prctl(22, 2, program, 0, 0)
print(os.strerror(ctypes.get_errno()) if failed else "")
"""


def without_a_sandbox(slot_uid: int | None) -> list[Finding]:
    """Look at everything; `slot_uid` is the user that jobs will run as, None for this one."""
    return [_bubblewrap(), _opening_beneath(), _namespaces(slot_uid), _filter(slot_uid)]


def _bubblewrap() -> Finding:
    title = f"bubblewrap {'.'.join(map(str, machine.BUBBLEWRAP_SINCE[:2]))} or newer is installed"
    try:
        path = machine.bubblewrap()
        version = machine.bubblewrap_version(path)
    except SandboxError as error:
        why, _, mend = str(error).partition("; ")
        return Finding(name="bubblewrap", title=title, kind=Kind.WALL, holds=False, why=why, mend=mend)
    setuid = ", setuid, which jobs have no use of" if os.stat(path).st_mode & 0o4000 else ""  # noqa: PTH116
    seen = f"{'.'.join(map(str, version))}{setuid}"
    return Finding(name="bubblewrap", title=title, kind=Kind.WALL, holds=True, seen=seen)


def _opening_beneath() -> Finding:
    title = "files can be opened below a directory and never beside it (openat2)"
    try:
        beneath.require()
    except SandboxError as error:
        mend = "boot Linux 5.6 or newer; in a container, allow the system call openat2"
        return Finding(name="openat2", title=title, kind=Kind.WALL, holds=False, why=str(error), mend=mend)
    return Finding(name="openat2", title=title, kind=Kind.WALL, holds=True, seen=f"Linux {platform.release()}")


def _namespaces(slot_uid: int | None) -> Finding:
    words = _tried("namespaces", slot_uid)
    cause = Cause("") if not words else causes.of_walls(words)
    seen = "" if slot_uid is None else f"as uid {slot_uid}"
    title = "users may make namespaces"
    return Finding(
        name="user_namespaces",
        title=title,
        kind=Kind.WALL,
        holds=not words,
        seen=seen,
        why=cause.why,
        mend=cause.mend,
    )


def _filter(slot_uid: int | None) -> Finding:
    title = "the kernel filters system calls"
    words = _tried("filter", slot_uid)
    if words:
        cause = causes.of_filter(words)
        return Finding(name="seccomp", title=title, kind=Kind.FILTER, holds=False, why=cause.why, mend=cause.mend)
    survey = Survey(allow_weaker=True)
    compiled = survey.filter()
    if compiled is None:
        return survey.findings[0]
    return Finding(name="seccomp", title=title, kind=Kind.FILTER, holds=True, seen=f"list {compiled.name[:12]}")


def _tried(what: str, slot_uid: int | None) -> str:
    """Try it in a process of its own; return the kernel's complaint, or nothing."""
    argv = [sys.executable, "-I", "-S", "-c", _TRY, what, str(-1 if slot_uid is None else slot_uid)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip()[-200:]
