"""Hosts on which something is missing, made for real: the worker refuses, weaker is advertised, the doctor agrees."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.real_pool import until
from trusted_pool.compose.system import SystemClock
from trusted_pool.core.worker import Worker
from trusted_pool.link.pinned import PinnedLink

TPOOL = str(Path(sys.executable).with_name("tpool"))
WEAKEN = [sys.executable, str(Path(__file__).parents[1] / "support" / "weaken.py")]
ORDINARY = 64_322
SECONDS = 90


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of host, and what is to be said of it."""

    lacks: str  #: as `weaken` names it
    uid: int = -1
    level: int
    weaker: bool = True  #: whether --allow-weaker-isolation starts a worker
    cause: str  #: in the words of worker and doctor
    mend: str

    def __str__(self) -> str:
        return self.lacks if self.uid < 0 else f"{self.lacks}, ordinary user"


HOSTS = [
    Host(
        lacks="no_bubblewrap",
        level=0,
        weaker=False,
        cause="bubblewrap is not installed",
        mend="apt-get install bubblewrap",
    ),
    Host(
        lacks="no_namespaces",
        level=0,
        weaker=False,
        cause="user.max_user_namespaces is 0",
        mend="sysctl -w user.max_user_namespaces=15000",
    ),
    Host(
        lacks="no_namespaces",
        uid=ORDINARY,
        level=0,
        weaker=False,
        cause="user.max_user_namespaces is 0",
        mend="sudo sysctl -w user.max_user_namespaces=15000",
    ),
    Host(
        lacks="refused_namespaces",
        level=0,
        weaker=False,
        cause="a system-call filter that this process runs under refuses namespaces",
        mend="--security-opt seccomp=unconfined",
    ),
    Host(
        lacks="leaky_bubblewrap",
        level=0,
        weaker=False,
        cause="a job got hold of: /var/tmp/tpool-canary-",
        mend="",
    ),
    Host(
        lacks="no_libseccomp",
        level=0,
        cause="libseccomp cannot be loaded",
        mend="apt-get install libseccomp2",
    ),
    Host(
        lacks="refused_filters",
        level=0,
        cause="a system-call filter that this process runs under refuses further ones",
        mend="--security-opt seccomp=unconfined",
    ),
    Host(
        lacks="no_cgroups",
        level=1,
        cause="no control groups are mounted",
        mend="mount -t cgroup2 cgroup2 /sys/fs/cgroup",
    ),
    Host(
        lacks="no_cgroups",
        uid=ORDINARY,
        level=1,
        cause="no control groups are mounted",
        mend="sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup",
    ),
]
#: Seen by the doctor alone.
MORE = [
    Host(lacks="old_bubblewrap", level=0, weaker=False, cause="is bubblewrap 0.4.1", mend="upgrade"),
    Host(lacks="covered_proc", level=0, weaker=False, cause="/proc is partly covered", mend="systempaths=unconfined"),
    Host(lacks="covered_cgroups", level=1, cause="something covers /sys/fs/cgroup", mend="--cgroupns=private"),
]


@pytest.fixture(scope="module", autouse=True)
def _able(bwrap: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("taking something of a machine away needs root")
    assert shutil.which("bwrap") == bwrap


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that an ordinary user can reach."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def spawn(host: Host, home: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start `tpool` on a host."""
    if host.uid >= 0:
        os.chown(home, host.uid, host.uid)
        for path in home.rglob("*"):
            os.chown(path, host.uid, host.uid)
    command = [*WEAKEN, host.lacks, str(host.uid), TPOOL, *arguments]
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd="/")


def worker(host: Host, home: Path, name: str, *options: str) -> "subprocess.Popen[str]":
    key = home / f"{name}.pem"
    subprocess.run([TPOOL, "keygen", str(key)], check=True, capture_output=True)
    arguments = ["--worker-key", str(key), "--data", str(home / name), "--port", "0", "--host", "127.0.0.1"]
    return spawn(host, home, "worker", *arguments, "--log-format", "plain", "--max-concurrent-jobs", "1", *options)


def advertised(lines: list[str]) -> int | None:
    """Ask a worker for its health, as a coordinator does."""
    found = re.search(r"Worker (\S+) serves (https://\S+)", "".join(lines))
    assert found is not None, lines

    async def ask() -> int | None:
        entry = Worker(worker_id=found[1], endpoint=found[2])
        link = PinnedLink(entry, Ed25519PrivateKey.generate(), 1, SystemClock())
        try:
            return (await link.health()).capacity.isolation
        finally:
            await link.close()

    return asyncio.run(ask())


def diagnosed(process: "subprocess.Popen[str]") -> tuple[int, dict[str, Any]]:
    said, complaint = process.communicate(timeout=SECONDS)
    assert complaint == "", complaint
    return process.returncode, json.loads(said)


def agrees(report: dict[str, Any], host: Host) -> None:
    """The doctor names level, cause and mend."""
    assert report["isolation"] == host.level, report
    assert not report["starts"]
    assert host.cause in report["refusal"], report["refusal"]
    assert host.mend in report["refusal"]
    broken = [f for f in report["findings"] if f["holds"] is False and host.cause in f["why"]]
    assert broken, report["findings"]
    assert host.mend in broken[0]["mend"]


LONG = [pytest.param(host, marks=[pytest.mark.long] * (host.lacks == "no_libseccomp")) for host in HOSTS]


@pytest.mark.parametrize("host", LONG, ids=str)
def test_what_a_host_lacks_is_refused_named_and_advertised(host: Host, home: Path):
    refusing = worker(host, home, "refusing")
    weaker = worker(host, home, "weaker", "--allow-weaker-isolation")
    doctor = spawn(host, home, "doctor", "--json")
    said, complaint = refusing.communicate(timeout=SECONDS)
    assert (refusing.returncode, said) == (125, "")
    assert complaint.count("\n") == 1, complaint
    assert complaint.startswith("tpool worker: ")
    assert host.cause in complaint
    assert host.mend in complaint
    assert ("--allow-weaker-isolation" in complaint) == host.weaker

    if host.weaker:
        assert weaker.stderr is not None
        lines = []
        while "serves" not in (line := weaker.stderr.readline()):
            assert line, lines
            lines.append(line)
        assert advertised([*lines, line]) == host.level
        weaker.send_signal(signal.SIGTERM)
        weaker.communicate(timeout=SECONDS)
        assert weaker.returncode == 0
    else:
        said, complaint = weaker.communicate(timeout=SECONDS)
        assert weaker.returncode == 125
        assert host.cause in complaint, "no option lets a worker start without a sandbox"

    code, report = diagnosed(doctor)
    assert code == 1
    agrees(report, host)


@pytest.mark.parametrize("host", MORE, ids=str)
def test_more_that_a_host_may_lack_is_named(host: Host, home: Path):
    code, report = diagnosed(spawn(host, home, "doctor", "--json"))
    assert code == 1
    agrees(report, host)


def test_a_host_that_lacks_nothing_passes(home: Path):
    """The control: the same way of starting, with nothing taken away."""
    host = Host(lacks="nothing", level=3, cause="", mend="")
    doctor = spawn(host, home, "doctor", "--json")
    started = worker(host, home, "strong")
    assert started.stderr is not None
    line = started.stderr.readline()
    assert "serves" in line, line
    assert advertised([line]) == 3
    started.send_signal(signal.SIGTERM)
    started.communicate(timeout=SECONDS)
    code, report = diagnosed(doctor)
    assert (code, report["isolation"], report["starts"], report["refusal"]) == (0, 3, True, "")
    assert [f for f in report["findings"] if f["holds"] is not True and f["kind"] != "note"] == []
    assert report["version"] == 1
    until(lambda: not list(home.glob("tpool-doctor-*")), "the doctor to leave nothing")
