"""Networks of the test's own: two ends of a cable, several machines at a switch. They need root and `ip`.

The calling thread can be put into one of them; what it starts and what it connects is inside from then on.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_CLONE_NEWNET = 0x40000000
_LIBC_ERROR = -1
_libc = ctypes.CDLL(None, use_errno=True)
#: Documentation addresses; they exist inside the namespaces alone.
HERE, THERE = "192.0.2.1", "192.0.2.2"


def need_namespaces() -> None:
    """Skip the test where there can be none; fail where CI is set."""
    tell = pytest.fail if os.environ.get("CI") else pytest.skip
    if shutil.which("ip") is None or shutil.which("nsenter") is None:
        tell("ip or nsenter is missing: apt-get install iproute2 util-linux")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, (words, done.stderr)


class Cable:
    """`here` and `there`, connected. Use as `with`; what is inside `here` from then on is the calling thread."""

    def __init__(self, name: str) -> None:
        """`name`: short, and nobody else's."""
        self.here, self.there = f"{name}-here", f"{name}-there"
        self._ends = (f"{name}h", f"{name}t")

    def cut(self) -> None:
        """Take the cable out: whatever is on its way is lost, and nobody is told."""
        _ip("-n", self.here, "link", "set", self._ends[0], "down")

    def mend(self) -> None:
        """Put it back."""
        _ip("-n", self.here, "link", "set", self._ends[0], "up")

    @property
    def command_there(self) -> list[str]:
        """What comes before a command that is to run there. The mounts stay those of here: only networks differ."""
        return ["nsenter", f"--net=/run/netns/{self.there}"]

    def _lay(self) -> None:
        for name in (self.here, self.there):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        one, other = self._ends
        _ip("-n", self.here, "link", "add", one, "type", "veth", "peer", "name", other, "netns", self.there)
        for name, end, address in ((self.here, one, HERE), (self.there, other, THERE)):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            _ip("-n", name, "link", "set", end, "up")

    def _remove(self) -> None:
        for name in (self.here, self.there):
            if Path(f"/run/netns/{name}").exists():
                _ip("netns", "delete", name)

    @contextlib.contextmanager
    def laid(self) -> Iterator[None]:
        """Lay it, stand here, and remove it in the end."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._remove()
            self._lay()
            _enter_file(Path(f"/run/netns/{self.here}"))
            yield
        finally:
            _enter(before)
            os.close(before)
            self._remove()


class Switch:
    """Machines by name, each with an address of its own, at one switch. Use `plugged_in` as `with`."""

    def __init__(self, name: str, addresses: dict[str, str]) -> None:
        """`name`: short, and nobody else's. `addresses`: of the machines, all of one /24."""
        self.addresses = addresses
        self._name = name

    def _namespace(self, machine: str) -> str:
        return f"{self._name}-{machine}"

    def command_on(self, machine: str, disk: Path) -> list[str]:
        """Return what comes before a command that is to run on a machine. What is /var/lib there is `disk` here."""
        disk.mkdir(parents=True, exist_ok=True)
        script = 'mount --bind "$0" /var/lib && exec "$@"'
        inside = ["unshare", "--mount", "sh", "-c", script, str(disk)]
        return ["nsenter", f"--net=/run/netns/{self._namespace(machine)}", *inside]

    @contextlib.contextmanager
    def plugged_in(self, at: str) -> Iterator[None]:
        """Set everything up, sit down at a machine, and remove everything in the end."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._remove()
            self._build()
            _enter_file(Path(f"/run/netns/{self._namespace(at)}"))
            yield
        finally:
            _enter(before)
            os.close(before)
            self._remove()

    def _build(self) -> None:
        middle = self._namespace("switch")
        _ip("netns", "add", middle)
        _ip("-n", middle, "link", "add", "switch", "type", "bridge")
        _ip("-n", middle, "link", "set", "switch", "up")
        for number, (machine, address) in enumerate(self.addresses.items()):
            name, port = self._namespace(machine), f"port{number}"
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", middle)
            _ip("-n", middle, "link", "set", port, "master", "switch", "up")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")

    def _remove(self) -> None:
        for machine in ("switch", *self.addresses):
            if Path(f"/run/netns/{self._namespace(machine)}").exists():
                _ip("netns", "delete", self._namespace(machine))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Put the calling thread, and what it starts, into a network with nothing but a loopback interface of its own."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert _libc.unshare(_CLONE_NEWNET) != _LIBC_ERROR, os.strerror(ctypes.get_errno())
        _ip("link", "set", "lo", "up")
        yield
    finally:
        _enter(before)
        os.close(before)


def _enter_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(fd)
    finally:
        os.close(fd)


def _enter(fd: int) -> None:
    assert _libc.setns(fd, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
