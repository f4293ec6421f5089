"""Hostile programs against the walls, cases 39 to 50, 54, 55: the same calls inside, and outside as the control."""

import ctypes
import json
import os
import platform
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from trusted_pool.core.words import Reason
from trusted_pool.sandbox import policy

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls are x86_64's")

NEWUSER, NEWUTS = 0x10000000, 0x04000000
#: Makes one call after the other, each in a child; prints what came of each.
PROBER = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
buffer = ctypes.create_string_buffer(256)
ctypes.memmove(buffer, (ctypes.c_uint64 * 8)(0x10000000, 0, 0, 0, 17), 64)
def value(text):
    if isinstance(text, int):
        return ctypes.c_long(text)
    return ctypes.byref(buffer) if text == "BUFFER" else ctypes.c_char_p(text.encode())
said = {}
for name, number, *args in CALLS:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        if number == 438:
            args[0] = libc.syscall(434, os.getpid(), 0)
        if name == "process_vm_readv":
            args[0] = os.getpid()
        result = libc.syscall(number, *map(value, args))
        word = "ok" if result >= 0 else errno.errorcode.get(ctypes.get_errno(), "?")
        os.write(write, word.encode())
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(pid, 0)
    said[name] = os.read(read, 99).decode() or "killed by %d" % (status & 127)
    os.close(read)
print(json.dumps(said))
"""
CALLS: list[tuple[Any, ...]] = [
    ("ptrace", 101, 0, 0, 0, 0),
    ("process_vm_readv", 310, 0, 0, 0, 0, 0, 0),
    ("pidfd_getfd", 438, 0, 0, 0),
    ("keyctl", 250, 0, -2, 1),
    ("add_key", 248, "user", "canary", "x", 1, -2),
    ("mount", 165, "none", "/tmp", "tmpfs", 0, 0),
    ("fsopen", 430, "tmpfs", 0),
    ("chroot", 161, "/"),
    ("unshare", 272, NEWUSER),
    ("unshare_uts", 272, NEWUTS),
    ("clone", 56, NEWUSER | 17, 0, 0, 0, 0),
    ("clone3", 435, "BUFFER", 64),
    ("io_uring_setup", 425, 4, "BUFFER"),
    ("userfaultfd", 323, 1),
    ("bpf", 321, 0, "BUFFER", 64),
    ("perf_event_open", 298, "BUFFER", 0, -1, -1, 0),
    ("socket_inet", 41, socket.AF_INET, socket.SOCK_STREAM, 0),
    ("socket_inet6", 41, socket.AF_INET6, socket.SOCK_DGRAM, 0),
    ("socket_netlink", 41, 16, socket.SOCK_RAW, 0),
    ("socket_packet", 41, 17, socket.SOCK_RAW, 0),
    ("socket_alg", 41, 38, socket.SOCK_SEQPACKET, 0),
    ("socket_vsock", 41, 40, socket.SOCK_STREAM, 0),
    ("shmget", 29, 0, 4096, 0o1600),
    ("mq_open", 240, "canary", 0o102, 0o600, 0),
    ("mlockall", 151, 1),
    ("name_to_handle_at", 303, -100, "/", "BUFFER", "BUFFER", 0),
    ("mknod_device", 133, "/tmp/canary-device", 0o20666, 0x103),
    ("sched_setscheduler", 144, 0, 3, "BUFFER"),
    ("personality", 135, 0x0400000),
    ("swapoff", 168, "/nowhere"),
]
HARMLESS = [("getpid", 39), ("socket_unix", 41, 1, 1, 0), ("dup", 32, 1)]


@pytest.fixture(scope="module")
def inside(worker: Any) -> dict[str, str]:
    ran = worker.run(f"CALLS = {json.dumps(CALLS + HARMLESS)}\n{PROBER}")
    assert ran.outcome.reason is None, ran
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def outside() -> dict[str, str]:
    command = ["unshare", "--mount", "--ipc"] if os.geteuid() == 0 else []
    command += ["/usr/bin/python3", "-c", f"CALLS = {json.dumps(CALLS + HARMLESS)}\n{PROBER}"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    Path("/tmp/canary-device").unlink(missing_ok=True)
    return json.loads(ran.stdout)


@pytest.mark.parametrize("name", [call[0] for call in CALLS])
def test_39_to_44_calls_that_no_job_may_make(inside: dict[str, str], outside: dict[str, str], name: str):
    expected = {"EAFNOSUPPORT"} if name.startswith("socket_") else {"ENOSYS"}
    assert inside[name] in expected
    if outside[name] in expected:
        pytest.skip(f"this machine has no {name}, protected or not")


@pytest.mark.parametrize("name", [call[0] for call in HARMLESS])
def test_harmless_calls_work(inside: dict[str, str], name: str):
    assert inside[name] == "ok"


def test_42_no_user_namespace_even_without_the_filter(tmp_path: Path):
    """The filter is one wall; `--disable-userns` is another, and holds alone."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    limits = policy.Limits(memory_bytes=2**28, disk_bytes=2**28, timeout_s=9)
    view = policy.View(system=policy.look(), etc=str(tmp_path))
    options = policy.options(view, str(tmp_path), limits, policy.environment({}, {}))
    attack = ["--", "/usr/bin/unshare", "--user", "/bin/echo", "out"]
    protected = subprocess.run(["bwrap", *options, *attack], capture_output=True, text=True, env={}, check=False)
    assert (protected.stdout, protected.returncode) == ("", 1)
    options.remove("--disable-userns")
    assert subprocess.run(["bwrap", *options, *attack], capture_output=True, text=True, check=False).stdout == "out\n"


def test_44_no_way_to_the_machines_own_network(worker: Any):
    ran = worker.run("print(sorted(line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line))")
    assert ran.stdout == "['lo']\n"


KERNEL = """
import os
for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/kernel/hostname"):
    try:
        os.close(os.open(path, os.O_WRONLY)); print("writes", path)
    except OSError:
        pass
try:
    open("/proc/kcore", "rb").read(1); print("reads kcore")
except OSError:
    pass
there = os.path.exists("/proc/kallsyms")
addresses = {line.split()[0].strip("0") for line in open("/proc/kallsyms")} if there else {""}
seen = [os.path.exists(path) for path in ("/sys/kernel", "/root", "/home")]
print("addresses" if addresses - {""} else "", *seen)
"""


def test_45_the_kernel_shows_and_takes_nothing(worker: Any, control: Any):
    assert worker.run(KERNEL).stdout.split() == ["False", "False", "False"]
    if os.geteuid() == 0:
        assert "writes /proc/sys/kernel/core_pattern" in control(KERNEL).stdout


def test_45_the_system_is_read_only(worker: Any):
    source = (
        "import os\nfor d in ('/', '/usr', '/etc', '/dev', '/proc', '/usr/bin'):\n    try:\n"
        "        open(d + '/canary', 'w'); print('wrote', d)\n    except OSError:\n        pass\n"
        "for d in ('/tmp', '/dev/shm', '/job'): open(d + '/canary', 'w'); print(d)"
    )
    assert worker.run(source).stdout.split() == ["/tmp", "/dev/shm", "/job"]


def test_46_abstract_sockets_of_the_machine_are_not_there(worker: Any, control: Any):
    with socket.socket(socket.AF_UNIX) as server:
        name = f"canary-{os.getpid()}"
        server.bind("\0" + name)
        server.listen()
        source = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('\\0{name}'); print('connected')"
        assert "connected" not in worker.run(source).stdout
        assert control(source).stdout == "connected\n"


def test_48_a_neighbours_files_and_processes_are_not_there(worker: Any):
    neighbour = worker.begin(
        "import time\nopen('/job/canary-48', 'w').write('secret')\nopen('/tmp/canary-48', 'w')\ntime.sleep(1.2)", slot=1
    )
    source = (
        "import os, time\ntime.sleep(0.5)\nfound = [os.path.join(d, f) for d, _, fs in os.walk('/') for f in fs"
        " if 'canary-48' in f]\nprint(found, len([p for p in os.listdir('/proc') if p.isdigit()]))"
    )
    assert worker.run(source).stdout == "[] 2\n"
    worker.end(neighbour)
    if os.geteuid() == 0:  # without the wall, who may read everything finds it
        assert list((worker.root / "jobs").rglob("canary-48"))


CANARY = "canary-0f9b1c"
SCAN = f"""
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        try:
            if b"{CANARY[:6]}" b"{CANARY[6:]}" in open(f"/proc/{{pid}}/{{name}}", "rb").read(): print("found in", name)
        except OSError:
            pass
    try:
        for fd in os.listdir(f"/proc/{{pid}}/fd"):
            link = os.readlink(f"/proc/{{pid}}/fd/{{fd}}")
            if link.endswith(".open-canary"): print("open")
    except OSError:
        pass
"""


def test_49_nothing_of_the_worker_is_inherited(worker: Any, place: Path, control: Any):
    with tempfile.NamedTemporaryFile(suffix=".open-canary") as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003 - its one argument
        os.environ["CANARY"] = CANARY
        try:
            own = type(worker)(place / "w", worker.uid, allow_weaker=True)
            ran = own.run(SCAN)
            own.close()
            unprotected = control(SCAN, close_fds=False).stdout
        finally:
            del os.environ["CANARY"]
    assert (ran.outcome.reason, ran.stdout) == (None, "")
    assert {"found in environ", "open"} <= set(unprotected.splitlines())


TERMINAL = """
import ctypes, os, errno
libc = ctypes.CDLL(None, use_errno=True)
master, slave = os.openpty()
byte = ctypes.create_string_buffer(b"x")
for request in (0x5412, (1 << 32) | 0x5412, 0x541C):
    result = libc.syscall(16, slave, ctypes.c_ulong(request), byte)
    print("ok" if result == 0 else errno.errorcode[ctypes.get_errno()])
"""


def test_50_bytes_cannot_be_put_into_a_terminal(worker: Any, control: Any):
    assert worker.run(TERMINAL).stdout.split() == ["EPERM"] * 3
    assert control(TERMINAL).stdout.split() != ["EPERM"] * 3


FOREIGN = """
import ctypes, mmap, os, sys
code = bytes.fromhex("b814000000cd80c3")  # mov eax, 20 (getpid of 32-bit x86); int 0x80; ret
memory = mmap.mmap(-1, 4096, prot=7)
memory.write(code)
function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
print("alive", function() != 0)
"""
X32 = "import ctypes; ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 | 39)); print('alive')"


@pytest.mark.parametrize("source", [FOREIGN, X32], ids=["int80", "x32"])
def test_54_calls_of_other_architectures_are_killed(worker: Any, control: Any, source: str):
    ran = worker.run(source)
    assert (ran.outcome.reason, ran.outcome.signal) == (Reason.SIGNAL, 31), ran  # SIGSYS
    if "alive" not in control(source).stdout:
        pytest.skip("this kernel has no such calls, protected or not")


def test_55_setuid_gains_nothing(worker: Any):
    source = (
        "import os\nstatus = dict(l.split(':', 1) for l in open('/proc/self/status'))\n"
        "print(status['NoNewPrivs'].strip(), int(status['CapBnd'], 16) & int(status['CapEff'], 16),"
        " bool(os.statvfs('/usr').f_flag & os.ST_NOSUID), bool(os.statvfs('/job').f_flag & os.ST_NOSUID), os.getuid())"
    )
    assert worker.run(source).stdout.split() == ["1", "0", "True", "True", "1000"]
    own = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert own["NoNewPrivs"].strip() == "0"
    assert not os.statvfs("/usr").f_flag & os.ST_NOSUID
    assert ctypes.sizeof(ctypes.c_void_p) == 8
