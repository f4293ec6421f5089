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

from support.programs import (
    CALLS,
    CANARY,
    FOREIGN,
    HARMLESS,
    INTERFACES,
    KERNEL,
    PRIVILEGES,
    PROBER,
    SCAN,
    TERMINAL,
    WRITE_EVERYWHERE,
    X32,
)
from trusted_pool.core.words import Reason
from trusted_pool.sandbox import policy

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls are x86_64's")


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
    ran = worker.run(INTERFACES)
    assert ran.stdout == "['lo']\n"


def test_45_the_kernel_shows_and_takes_nothing(worker: Any, control: Any):
    assert worker.run(KERNEL).stdout.split() == ["False", "False", "False"]
    if os.geteuid() == 0:
        assert "writes /proc/sys/kernel/core_pattern" in control(KERNEL).stdout


def test_45_the_system_is_read_only(worker: Any):
    assert worker.run(WRITE_EVERYWHERE).stdout.split() == ["/tmp", "/dev/shm", "/job"]


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


def test_50_bytes_cannot_be_put_into_a_terminal(worker: Any, control: Any):
    assert worker.run(TERMINAL).stdout.split() == ["EPERM"] * 3
    assert control(TERMINAL).stdout.split() != ["EPERM"] * 3


@pytest.mark.parametrize("source", [FOREIGN, X32], ids=["int80", "x32"])
def test_54_calls_of_other_architectures_are_killed(worker: Any, control: Any, source: str):
    ran = worker.run(source)
    assert (ran.outcome.reason, ran.outcome.signal) == (Reason.SIGNAL, 31), ran  # SIGSYS
    if "alive" not in control(source).stdout:
        pytest.skip("this kernel has no such calls, protected or not")


def test_55_setuid_gains_nothing(worker: Any):
    assert worker.run(PRIVILEGES).stdout.split() == ["1", "0", "True", "True", "1000"]
    own = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert own["NoNewPrivs"].strip() == "0"
    assert not os.statvfs("/usr").f_flag & os.ST_NOSUID
    assert ctypes.sizeof(ctypes.c_void_p) == 8
