"""A job that tries to get out. It is never imported: its text is run inside a sandbox, by the machine's own python3.

Argument: JSON with what is outside (see `outside`). Prints JSON: attempt → what it got hold of; empty: nothing.
Standard library only, and nothing newer than Python 3.7.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import socket
import sys
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
NEWUSER, NEWNS = 0x10000000, 0x00020000
SPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
#: What a sandbox's root may hold.
ROOT = {"bin", "dev", "etc", "job", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "tmp", "usr"}
TERMINAL = (("TIOCSTI", 0x5412), ("TIOCSTI with a high bit", 0x100005412))
#: The kernel makes these in every network namespace while their modules are loaded; they lead nowhere.
INTERFACES = {"lo", "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"}
#: Where numbers of system calls are known here: x86_64, and those that have the generic ones.
NUMBERED = {"x86_64": 0, "aarch64": 1, "riscv64": 1}
IOCTL = (16, 29)
#: Calls that no job may make, with arguments that are harmless where they work.
CALLS = {
    "ptrace": (101, 117, (0, 0, 0, 0)),
    "process_vm_readv": (310, 270, (0, 0, 0, 0, 0, 0)),
    "keyctl": (250, 219, (0, -3, 0)),
    "mount": (165, 40, (0, 0, 0, 0, 0)),
    "pivot_root": (155, 41, (0, 0)),
    "chroot": (161, 51, (0,)),
    "setns": (308, 268, (-1, 0)),
    "bpf": (321, 280, (0, 0, 0)),
    "perf_event_open": (298, 241, (0, 0, -1, -1, 0)),
    "io_uring_setup": (425, 425, (0, 0)),
    "userfaultfd": (323, 282, (0,)),
    "name_to_handle_at": (303, 264, (-1, 0, 0, 0, 0)),
    "shmget": (29, 194, (0, 0, 0)),
    "add_key": (248, 217, (0, 0, 0, 0, 0)),
    "init_module": (175, 105, (0, 0, 0)),
    "swapoff": (168, 225, (0,)),
}


def call(numbers: tuple[int, int], *args: int) -> int:
    """Make a system call by its number; return 0 or the error's number."""
    number = numbers[NUMBERED[os.uname().machine]]
    if LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, args)) >= 0:
        return 0
    return ctypes.get_errno()


def opened(path: str, flags: int) -> bool:
    """Whether a file can be opened."""
    try:
        os.close(os.open(path, flags))
    except OSError:
        return False
    return True


def read(path: str) -> bool:
    """Whether anything is to be read in a file, or listed in a directory."""
    try:
        if os.path.isdir(path):
            return bool(os.listdir(path))
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return bool(os.read(fd, 1))
        finally:
            os.close(fd)
    except OSError:
        return False


def status() -> dict[str, str]:
    """Return this process's own status, field by field."""
    with open("/proc/self/status") as file:
        lines = [line.partition(":") for line in file]
    return {name: value.strip() for name, _, value in lines}


def host_files(outside: dict[str, Any]) -> list[str]:
    """Read a file that everybody outside may read; look around."""
    found = [path for path in outside["files"] if read(path)]
    return found + sorted("/" + name for name in set(os.listdir("/")) - ROOT)


def writes(outside: dict[str, Any]) -> list[str]:
    """Write where only the system may."""
    found = []
    for directory in ("/", "/usr", "/usr/bin", "/etc", "/dev", "/proc"):
        path = os.path.join(directory, outside["word"])
        if opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL):
            with contextlib.suppress(OSError):
                os.unlink(path)
            found.append(directory)
    return found


def kernel(_outside: dict[str, Any]) -> list[str]:
    """Change or read what is the kernel's."""
    written = ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger")
    places = ("/proc/kcore", "/proc/kmsg", "/proc/keys", "/proc/cmdline", "/sys/kernel", "/dev/mem")
    return [path for path in written if opened(path, os.O_WRONLY)] + [path for path in places if read(path)]


def network(outside: dict[str, Any]) -> list[str]:
    """See an interface, reach a listener of the machine."""
    with open("/proc/net/dev") as file:
        found = [line.split(":")[0].strip() for line in file if ":" in line]
    found = [name for name in found if name not in INTERFACES]
    targets: list[tuple[int, Any]] = [
        (socket.AF_INET, ("127.0.0.1", outside["port"])),
        (socket.AF_UNIX, "\0" + outside["word"]),
    ]
    for family, address in targets:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.settimeout(0.5)
                sock.connect(address)
        except OSError:
            continue
        found.append(f"a listener at {address!r}")
    return found


def processes(outside: dict[str, Any]) -> list[str]:
    """See others than its own init, and signal the worker."""
    own = (1, os.getpid(), os.getppid())
    found = [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in own]
    if outside["pid"] in own:  # the worker's number is one of ours in here: in a container it may be 1
        return found
    try:
        os.kill(outside["pid"], 0)
    except ProcessLookupError:
        return found
    except PermissionError:
        return [*found, "the worker"]
    return [*found, "the worker, which it may signal"]


def namespaces(outside: dict[str, Any]) -> list[str]:
    """Compare with those outside."""
    found = []
    for name in SPACES:
        with contextlib.suppress(OSError):
            if os.readlink("/proc/self/ns/" + name) == outside["namespaces"].get(name):
                found.append(name)
    return found


def environment(outside: dict[str, Any]) -> list[str]:
    """Look for variables that nobody gave it, in every process that it sees."""
    found = [name for name in os.environ if name not in outside["environment"]]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open("/proc/" + pid + "/environ", "rb") as file:
            said = {part.partition(b"=")[0].decode("utf-8", "replace") for part in file.read().split(b"\0") if part}
            found += sorted(said - set(outside["environment"]))
    return found


def descriptors(_outside: dict[str, Any]) -> list[str]:
    """Look for files that were open when it began."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2:  # stdin, stdout, stderr
                found.append(os.readlink("/proc/self/fd/" + name))
    return [path for path in found if path != f"/proc/{os.getpid()}/fd"]


def privileges(_outside: dict[str, Any]) -> list[str]:
    """Have capabilities, or a way to them."""
    said = status()
    found = [name for name in ("CapInh", "CapPrm", "CapEff", "CapAmb") if int(said[name], 16)]
    if said.get("NoNewPrivs", "1") != "1":
        found.append("new privileges")
    for path in ("/usr", "/job", "/tmp"):
        with contextlib.suppress(FileNotFoundError):
            if not os.statvfs(path).f_flag & os.ST_NOSUID:
                found.append("setuid programs in " + path)
    return found


def devices(_outside: dict[str, Any]) -> list[str]:
    """Find devices beyond the harmless ones."""
    harmless = "console core fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"
    return sorted(set(os.listdir("/dev")) - set(harmless.split()))


def new_namespaces(_outside: dict[str, Any]) -> list[str]:
    """Become root of a namespace of its own, from where most holes of kernels are reached."""
    return ["a user namespace"] if LIBC.unshare(NEWUSER) == 0 else []


def filtered(_outside: dict[str, Any]) -> list[str]:
    """Make calls that the filter refuses."""
    found = [] if status().get("Seccomp") == "2" else ["no filter is on"]
    numbered = os.uname().machine in NUMBERED
    if numbered:
        found += sorted(name for name, (a, b, args) in CALLS.items() if call((a, b), *args) != errno.ENOSYS)
    for family in ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_ALG", "AF_VSOCK"):
        try:
            socket.socket(getattr(socket, family), socket.SOCK_DGRAM).close()
        except (OSError, AttributeError) as error:
            if getattr(error, "errno", errno.EAFNOSUPPORT) == errno.EAFNOSUPPORT:
                continue
        found.append("a socket of " + family)
    if numbered and not found:  # without the filter this would put a byte into a terminal
        found += [word for word, request in TERMINAL if call(IOCTL, 0, request, 0) != errno.EPERM]
    return found


ATTEMPTS = (
    host_files,
    writes,
    kernel,
    network,
    processes,
    namespaces,
    environment,
    descriptors,
    privileges,
    devices,
    filtered,
    new_namespaces,  # last: where it succeeds, the process is another
)


def main() -> None:
    """Try everything; what fails in an unforeseen way is told too."""
    outside = json.loads(sys.argv[1])
    said = {}
    for attempt in ATTEMPTS:
        try:
            said[attempt.__name__] = ", ".join(map(str, attempt(outside)))[:500]
        except Exception as error:  # noqa: BLE001 - an attempt that broke has shown nothing
            said[attempt.__name__] = f"the attempt broke: {error!r}"[:500]
    print(json.dumps(said))  # noqa: T201 - its answer


main()
