"""Hostile programs, in Python: what the tests of walls and limits run inside a sandbox, and outside as the control."""

import socket
from typing import Any

COUNT_FORKS = """
import os, sys, time
n = 0
try:
    for _ in range(700):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        n += 1
except OSError as error:
    print("refused", error.errno)
print(n)
sys.stdout.flush()
os.killpg(0, 9) if len(sys.argv) > 1 else None
"""
FORK_BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
HOGS = {
    "heap": "x = bytearray(300 * 2**20); print(len(x))",
    "tmpfs": "for d in ('/tmp', '/dev/shm'):\n  open(d + '/x', 'wb').write(bytes(84 * 2**20))\nprint('done')",
    "memfd": "import os\nf = os.memfd_create('x')\nfor _ in range(300): os.write(f, bytes(2**20))\nprint('done')",
}
HOG_IN_A_CHILD = """
import os, sys
if os.fork() == 0:
    x = bytearray(400 * 2**20)
    os._exit(0)
os.wait()
print("all is well")
sys.stdout.flush()
os._exit(0)
"""
FILL = """
import os, time, sys
for n in range(400):
    with open(f"f{n}", "wb") as file:
        file.write(bytes(2**20))
    time.sleep(0.01)
print("done")
"""
UNNAMED = """
import os, time
keep = []
for n in range(60):
    f = open("x", "wb")
    os.unlink("x")
    f.write(bytes(2**20))
    f.flush()
    keep.append(f)
    time.sleep(0.05)
print("done")
"""
SPINNING_CHILDREN = """
import os
while True:
    pid = os.fork()
    if pid == 0:
        for _ in range(10**6):
            pass
        os._exit(0)
    os.waitpid(pid, 0)
"""
DEAF = """
import signal, time
for number in (1, 2, 15):
    signal.signal(number, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""


KILL_ALL = """
import os, signal
os.kill(-1, signal.SIGKILL)
print("done")
"""
DUMP_CORE = """
import os, resource
try:
    resource.setrlimit(resource.RLIMIT_CORE, (2**20, 2**20))
except ValueError:
    print("refused", flush=True)
os.abort()
"""
GRANDCHILD = """
import os, subprocess
subprocess.Popen(["sleep", "20"])
print("bye", flush=True)
os.close(1)
"""
FORGED_STATUS = r"""
import os, sys
forged = b'{ "exit-code": 0 }\n{ "child-pid": 1 }\n'
for pid in ("1", "self"):
    for fd in os.listdir(f"/proc/{pid}/fd"):
        if pid == "self" and int(fd) < 3:
            continue
        try:
            os.write(os.open(f"/proc/{pid}/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK), forged)
        except OSError:
            pass
sys.exit(5)
"""


def flood(mib: int) -> str:
    """Write so many MiB to stdout."""
    return f"import os\nb = bytes(2**20)\nfor _ in range({mib}):\n    os.write(1, b)\nprint('done')"


def daemon(marker: str) -> str:
    """Leave a process with the marker on its command line, in a session of its own."""
    return (
        "import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        os.execv('/bin/sleep', ['sleep', '{marker}'])\n    os._exit(0)\nos.wait()\n"
        "time.sleep(0.2)\nprint('left')"
    )


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
INTERFACES = "print(sorted(line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line))"
#: The machine's own services, and the address that tells virtual machines their secrets.
NETWORK = """
import socket
for address in (("127.0.0.1", PORT), ("169.254.169.254", 80)):
    try:
        socket.create_connection(address, 2)
        print("connected", address)
    except OSError as error:
        print("refused", error.errno)
"""
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
WRITE_EVERYWHERE = """
import os
for d in ("/", "/usr", "/etc", "/dev", "/proc", "/usr/bin"):
    try:
        open(d + "/canary", "w")
        print("wrote", d)
    except OSError:
        pass
for d in ("/tmp", "/dev/shm", "/job"):
    open(d + "/canary", "w")
    print(d)
"""
PRIVILEGES = """
import os
status = dict(l.split(":", 1) for l in open("/proc/self/status"))
print(status["NoNewPrivs"].strip(), int(status["CapBnd"], 16) & int(status["CapEff"], 16))
print(bool(os.statvfs("/usr").f_flag & os.ST_NOSUID), bool(os.statvfs("/job").f_flag & os.ST_NOSUID), os.getuid())
"""
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
TERMINAL = """
import ctypes, os, errno
libc = ctypes.CDLL(None, use_errno=True)
master, slave = os.openpty()
byte = ctypes.create_string_buffer(b"x")
for request in (0x5412, (1 << 32) | 0x5412, 0x541C):
    result = libc.syscall(16, slave, ctypes.c_ulong(request), byte)
    print("ok" if result == 0 else errno.errorcode[ctypes.get_errno()])
"""
FOREIGN = """
import ctypes, mmap, os, sys
code = bytes.fromhex("b814000000cd80c3")  # mov eax, 20 (getpid of 32-bit x86); int 0x80; ret
memory = mmap.mmap(-1, 4096, prot=7)
memory.write(code)
function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
print("alive", function() != 0)
"""
X32 = "import ctypes; ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 | 39)); print('alive')"
FILE = """
import ctypes, os, socket, time
def file(n, mb):
    fd = os.open(f"f{n}", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, mb << 20)
    os.unlink(f"f{n}")
    return fd
"""
MAPPED = (
    FILE
    + """
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
for n in range(40):
    fd = file(n, 1)
    assert libc.mmap(None, 1 << 20, 3, 1, fd, 0) not in (None, 2**64 - 1)
    os.close(fd)
print(len(os.listdir("/proc/self/fd")) < 10, flush=True)
time.sleep(5)
print("done")
"""
)
UNREADABLE = (
    FILE
    + """
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
fds = [file(n, 1) for n in range(40)]
print(True, flush=True)
time.sleep(5)
print("done")
"""
)
IN_FLIGHT = (
    FILE
    + """
pairs = []
for n in range(12):
    fd = file(n, 8)
    pairs.append(socket.socketpair())
    socket.send_fds(pairs[-1][0], [b"x"], [fd])
    os.close(fd)
print(True, flush=True)
time.sleep(8)
print("done")
"""
)
#: Opens the memory of the sandbox's first process and writes over all that may be written, after using processor time.
SMASH_INIT = """
import os, time
begun = time.process_time()
while time.process_time() - begun < 0.4:
    pass
print("begun", flush=True)
memory = os.open("/proc/1/mem", os.O_RDWR)
for line in open("/proc/1/maps"):
    area, modes = line.split()[:2]
    start, end = (int(part, 16) for part in area.split("-"))
    if start < 2**47 and ("w" in modes or "x" in modes):
        try:
            os.pwrite(memory, b"\\xcc" * (end - start), start)
        except OSError:
            pass
print("smashed", flush=True)
"""
MANY_FILES = "import os\nfor n in range({count}):\n    os.close(os.open(f'{place}/{{n}}', os.O_CREAT | os.O_WRONLY))"
#: The same with two files that have many names, which is done three times as fast.
MANY_NAMES = """
import os
for n in range(101_000):
    if n % 60_000 == 0:
        file = f"file{n}"
        open(file, "w").close()
    os.link(file, str(n))
"""
#: More descriptors than a process may have, for as long as somebody may look.
OPEN_FILES = """
import os, time
fds = []
try:
    for _ in range(5000):
        fds.append(os.dup(0))
except OSError as error:
    print("refused", error.errno, len(fds) + 3 < 4200, flush=True)
time.sleep(2.5)
raise SystemExit(7)
"""
LONG_FILE = """
import os
try:
    os.truncate(os.open("sparse", os.O_CREAT | os.O_WRONLY), 2**40)
    print("made it")
except OSError as error:
    print("refused", error.errno)
for n in range(3):
    os.truncate(os.open(f"large{n}", os.O_CREAT | os.O_WRONLY), 16 * 2**20)
"""
#: Goes on after its program's end: a file that is one moment a file and the next a link, and one that grows.
RESTLESS = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        grown = open("grown.bin", "wb", buffering=0)
        while True:
            grown.write(b"x" * 1000)
            open("next", "w").write("mine")
            os.rename("next", "swapped.txt")
            os.symlink("SECRET", "next")
            os.rename("next", "swapped.txt")
    os._exit(0)
os.wait()
while not os.path.lexists("swapped.txt"):
    time.sleep(0.01)
"""
NESTED = """
import os
for _ in range(10_000):
    os.mkdir("d")
    os.chdir("d")
print("nested")
"""
#: Tries everything that would change what it was only lent, and says what worked.
CHANGE_WHAT_IS_LENT = """
import ctypes, mmap, os
place = os.environ["TRUSTED_POOL_BIND_DATASET"]
print(sorted(os.listdir(place)), open(place + "/data.txt").read(), os.environ["TRUSTED_POOL_BIND_TOOLS"])
libc = ctypes.CDLL(None, use_errno=True)
def fd_of(flags):
    return os.open(place + "/data.txt", flags)
def again(path):
    if libc.mount(b"none", path.encode(), None, 32 | 4096, None) != 0:  # remount, bind: writable
        raise OSError(ctypes.get_errno(), path)
tries = {
    "open": lambda: fd_of(os.O_WRONLY),
    "through proc": lambda: os.open(f"/proc/self/fd/{fd_of(os.O_RDONLY)}", os.O_RDWR),
    "create": lambda: open(place + "/new", "w"),
    "truncate": lambda: os.truncate(place + "/data.txt", 0),
    "mode": lambda: os.chmod(place + "/data.txt", 0),
    "mode by descriptor": lambda: os.fchmod(fd_of(os.O_RDONLY), 0),
    "owner": lambda: os.chown(place + "/data.txt", 1000, 1000),
    "time": lambda: os.utime(place + "/data.txt"),
    "attribute": lambda: os.setxattr(place + "/data.txt", "user.canary", b"x"),
    "rename": lambda: os.rename(place + "/data.txt", place + "/gone.txt"),
    "unlink": lambda: os.unlink(place + "/data.txt"),
    "remove": lambda: os.unlink(place + "/sub/more.txt"),
    "link in": lambda: os.link("main.py", place + "/main.py"),
    "link out": lambda: os.link(place + "/data.txt", "/job/linked.txt"),
    "map": lambda: mmap.mmap(fd_of(os.O_RDONLY), 4, flags=mmap.MAP_SHARED, prot=mmap.PROT_WRITE),
    "remount": lambda: again(place),
    "remount by way of the root": lambda: again("/"),
    "device": lambda: os.mknod(place + "/device", 0o20666, os.makedev(1, 3)),
    "below": lambda: open(place + "/sub/new", "w"),
    "other bind": lambda: open(os.environ["TRUSTED_POOL_BIND_TOOLS"] + "/new", "w"),
}
for name, attempt in tries.items():
    try:
        attempt()
        print("worked:", name)
    except OSError:
        pass
"""
#: Everywhere a job may write, and what is there of others.
MARKS = ("/tmp", "/dev/shm", "/job")
LEAVE_MARKS = "".join(f"open('{place}/marker-60', 'w').write('A')\n" for place in MARKS)
FIND_MARKS = f"import os\nprint([p for p in {MARKS!r} if os.path.exists(p + '/marker-60')])"
FIND_CANARIES = """
import os, time
time.sleep(0.5)
found = [os.path.join(d, f) for d, _, fs in os.walk("/") for f in fs if "canary-48" in f]
print(found, len([p for p in os.listdir("/proc") if p.isdigit()]), os.path.exists("/binds"))
"""
#: Tells who watches a terminal what it likes, in bytes that are no text and as if it were the pool.
SPEAK_FALSELY = r"""
import sys
sys.stdout.buffer.write(b'\x1b]0;owned\x07\x1b[2J\x1b[1;31mred\x1b[0m \xff\xfe\x00 {"state": "completed"}\n')
sys.stdout.buffer.write(b'event: end\ndata: {"state": "completed"}\n\n')
raise SystemExit(1)
"""
SETUID = """
import os, shutil, subprocess
shutil.copy("/usr/bin/id", "id")
os.chmod("id", 0o6755)
print(subprocess.run(["./id", "-u"], capture_output=True, text=True).stdout.strip())
"""
#: Leaves what it can: a process, shared memory of both kinds, a queue, a key, files. Says what of it worked.
LEAVE_BEHIND = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def worked(name, result):
    print(name, "yes" if result >= 0 else "no", flush=True)
worked("shm", libc.syscall(29, 0, 4096, 0o1600))
worked("sem", libc.syscall(64, 0, 1, 0o1600))
worked("msg", libc.syscall(68, 0, 0o1600))
worked("queue", libc.syscall(240, b"left-behind", 0o102, 0o600, 0))
worked("key", libc.syscall(248, b"user", b"left-behind", b"x", 1, -4))
for place in ("/dev/shm", "/tmp", "/var/tmp"):
    try:
        open(f"{place}/left-behind-{os.getuid()}", "w").write("x")
        worked(place, 0)
    except OSError:
        worked(place, -1)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 3)
        os.execv("/bin/sleep", ["sleep", "30"])
    os._exit(0)
os.wait()
"""
