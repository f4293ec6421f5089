"""A small machine of its own: Debian's kernel in qemu, on this machine's files, which it cannot change.

Its root is this machine's, read through 9p and covered by a file system in memory, so that nothing has to be installed
in it. Its control groups are version 2 alone, with all controllers.
"""

import io
import queue
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

KERNEL = Path(__file__).parents[2] / ".guest"
_MODULES = ("virtio_pci", "virtio_blk", "9pnet_virtio", "9p", "overlay", "ext4", "crc32c_generic", "quota_v2")
_HELLO = "the guest is up"
#: A machine with working KVM says hello in seconds. Some have the device and no guest ever comes up on it.
_KVM_WITHIN_S, _EMULATED_WITHIN_S = 30, 400
_MEMORY_MB = 2048

_INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
for module in {modules}; do $b insmod /modules/$module.ko; done
$b mkdir /lower /over /new
$b mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,ro,msize=512000 root /lower
$b mount -t tmpfs -o size=50% over /over
$b mkdir /over/upper /over/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/over/upper,workdir=/over/work root /new
$b mount -t proc proc /new/proc
$b mount -t sysfs sys /new/sys
$b mount --move /dev /new/dev
$b mkdir -p /new/dev/shm /new/dev/pts
$b mount -t tmpfs shm /new/dev/shm
$b mount -t devpts pts /new/dev/pts
$b mount -t tmpfs run /new/run
$b mount -t ext4 -o prjquota /new/dev/vda /new/tmp
$b chmod 1777 /new/tmp
$b mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
$b ip link set lo up
echo {hello}
exec $b switch_root /new /bin/sh /tmp/run
"""
#: Its disk holds this program. The machine goes off when it ends, whatever it did.
_RUN = """export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8
{command}
echo o > /proc/sysrq-trigger
while true; do true; done
"""


def missing() -> str | None:
    """Say what there is not of what a guest needs."""
    for program in ("qemu-system-x86_64", "busybox", "mkfs.ext4"):
        if shutil.which(program, path="/usr/bin:/usr/sbin:/bin:/sbin") is None:
            return f"{program} is not installed"
    return None if (KERNEL / "ready").exists() else "there is no kernel for it: scripts/guest-kernel.sh .guest"


def _modules() -> list[Path]:
    """Return the modules in the order in which they are loaded."""
    files = {path.name.partition(".ko")[0].replace("-", "_"): path for path in KERNEL.glob("lib/modules/*/**/*.ko*")}
    order: dict[str, Path] = {}

    def need(name: str) -> None:
        if name in order or name not in files:  # built in
            return
        said = re.search(rb"\0depends=([^\0]*)\0", files[name].read_bytes())
        for other in said[1].decode().split(",") if said and said[1] else ():
            need(other.replace("-", "_"))
        order[name] = files[name]

    for name in _MODULES:
        need(name)
    return list(order.values())


def _initramfs(modules: list[Path]) -> bytes:
    """Write the files that the kernel starts from, in the form it reads (cpio, newc)."""
    out = io.BytesIO()

    def add(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        path = name.encode() + b"\0"
        fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        out.write(b"070701" + "".join(f"{field:08x}" for field in fields).encode() + path)
        out.write(bytes(-out.tell() % 4) + data)
        out.write(bytes(-out.tell() % 4))

    busybox = shutil.which("busybox", path="/usr/bin:/bin")
    assert busybox is not None
    names = [path.name.partition(".ko")[0] for path in modules]
    for directory in ("bin", "modules", "dev"):
        add(directory, 0o40755)
    add("dev/console", 0o20600, device=(5, 1))
    add("bin/busybox", 0o100755, Path(busybox).read_bytes())
    for path, name in zip(modules, names, strict=True):
        add(f"modules/{name}.ko", 0o100644, path.read_bytes())
    add("init", 0o100755, _INIT.format(modules=" ".join(names), hello=_HELLO).encode())
    add("TRAILER!!!", 0)
    return out.getvalue()


class Guest:
    """One run of one command in a guest."""

    def __init__(self, directory: Path, command: str) -> None:
        """`directory`: for its files; `command`: for its shell."""
        self.lines: list[str] = []
        self.accelerator = ""
        self._initramfs = directory / "initramfs"
        self._initramfs.write_bytes(_initramfs(_modules()))
        self._disk = directory / "disk"
        content = directory / "content"
        content.mkdir()
        (content / "run").write_text(_RUN.format(command=command))
        with self._disk.open("wb") as file:
            file.truncate(4 << 30)
        mkfs = shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin:/bin")
        subprocess.run([str(mkfs), "-q", "-F", "-O", "quota,project", "-d", content, self._disk], check=True)

    def run(self, seconds: float) -> list[str]:
        """Boot it, wait until it goes off, return what it printed."""
        for accelerator, within in (("kvm", _KVM_WITHIN_S), ("tcg,thread=multi", _EMULATED_WITHIN_S)):
            self.accelerator = accelerator.partition(",")[0]
            if self._boot(accelerator, within, seconds):
                return self.lines
        raise AssertionError(f"the guest never came up: {self.lines[-30:]}")

    def _boot(self, accelerator: str, within: float, seconds: float) -> bool:
        """Whether it came up. Raises AssertionError: it did, and was not done in time."""
        (kernel,) = (KERNEL / "boot").glob("vmlinuz-*")
        features = "max,arch-capabilities=off" if accelerator == "kvm" else "max"
        argv = ["qemu-system-x86_64", "-M", "q35", "-accel", accelerator, "-cpu", features, "-m", str(_MEMORY_MB)]
        argv += ["-smp", "2", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]
        argv += ["-kernel", str(kernel), "-initrd", str(self._initramfs)]
        argv += ["-append", f"console=ttyS0 loglevel=1 panic=-1 guest.accelerator={self.accelerator}"]
        argv += ["-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"]
        argv += ["-drive", f"file={self._disk},format=raw,if=virtio,cache=unsafe"]
        self.lines = []
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL) as qemu:
            said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            reader = threading.Thread(target=_read, args=(qemu, said))
            reader.start()
            try:
                up = self._listen(said, time.monotonic() + within, _HELLO)
                if up and not self._listen(said, time.monotonic() + seconds, None):
                    raise AssertionError(f"the guest was not done after {seconds:g} s: {self.lines[-50:]}")
                return up
            finally:
                qemu.kill()
                reader.join()

    def _listen(self, said: "queue.SimpleQueue[bytes | None]", until: float, word: str | None) -> bool:
        """Take down what it says until a word comes (None: until its end); whether that came in time."""
        while (left := until - time.monotonic()) > 0:
            try:
                line = said.get(timeout=left)
            except queue.Empty:
                return False
            if line is None:
                return word is None
            self.lines.append(line.decode(errors="replace").rstrip())
            if word is not None and word in self.lines[-1]:
                return True
        return False


def _read(qemu: "subprocess.Popen[bytes]", said: "queue.SimpleQueue[bytes | None]") -> None:
    assert qemu.stdout is not None
    for line in qemu.stdout:
        said.put(line)
    said.put(None)
