"""What hostile programs do where nothing holds them: controls of `test_attacks` that no test of the launcher has."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from support import programs
from support.attacks import ATTACKS, LONG_ATTACKS

ROOT = Path(__file__).parents[2]


def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs to be root")


@pytest.mark.parametrize("name", sorted({attack.control for attack in (*ATTACKS, *LONG_ATTACKS)}))
def test_each_control_is_a_test(name: str):
    path, _, test = name.partition("::")
    assert f"\ndef {test}(" in (ROOT / path).read_text()


def test_35_without_a_limit_more_files_are_opened():
    source = programs.OPEN_FILES.replace("2.5", "0")
    command = ["prlimit", "--nofile=8192:8192", "/usr/bin/python3", "-c", source]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ran.stdout, ran.returncode) == ("", 7), ran.stderr


def test_35_a_memory_disk_holds_as_many_files_as_there_is_memory(control: Any):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        assert control(programs.MANY_FILES.format(count=105_000, place=place)).returncode == 0
        assert len(os.listdir(place)) == 105_000  # noqa: PTH208 - names alone


def test_44_outside_the_machine_answers(control: Any):
    with socket.create_server(("127.0.0.1", 0)) as server:
        ran = control(programs.NETWORK.replace("PORT", str(server.getsockname()[1])))
    assert "connected" in ran.stdout


def test_45_outside_a_system_may_be_written_to(control: Any, tmp_path: Path):
    source = programs.WRITE_EVERYWHERE.replace('"/usr", ', f'"{tmp_path}", ').replace('("/", ', "(")
    source = source.replace('"/etc", "/dev", "/proc", "/usr/bin"', "")
    source = source.replace('("/tmp", "/dev/shm", "/job")', "()")
    assert control(source).stdout == f"wrote {tmp_path}\n"


def test_51_outside_the_limit_of_cores_may_be_raised(tmp_path: Path):
    command = ["prlimit", "--core=0:unlimited", "/usr/bin/python3", "-c", programs.DUMP_CORE]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path)
    assert (ran.stdout, ran.returncode) == ("", -signal.SIGABRT), ran.stderr


def test_52_without_a_cap_all_of_it_comes():
    ran = subprocess.run(["/usr/bin/python3", "-c", programs.flood(20)], capture_output=True, timeout=30, check=True)
    assert len(ran.stdout) == 20 * 2**20 + len("done\n")


def test_55_outside_setuid_gains_a_user():
    as_root()
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        shutil.copy("/usr/bin/id", f"{place}/id")
        Path(f"{place}/id").chmod(0o6755)
        command = ["setpriv", "--reuid=64321", "--clear-groups", f"{place}/id", "-u"]
        assert subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout == "0\n"


def test_57_who_may_write_a_process_decides_how_it_ends():
    as_root()
    parent = (
        "import subprocess, sys\nsubprocess.run(['/usr/bin/python3', '-c', sys.argv[1]])\n"
        "print('ended as it liked')\nraise SystemExit(3)"
    )
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "/usr/bin/python3", "-c", parent]
    harmless, hostile = "pass", programs.SMASH_INIT
    ran = [
        subprocess.run([*command, source], capture_output=True, text=True, timeout=30, check=False)
        for source in (harmless, hostile)
    ]
    assert ran[0].returncode == 3
    assert ran[1].returncode not in (0, 3), ran[1]
    assert "ended as it liked" not in ran[1].stdout


def test_60_outside_what_is_lent_can_be_changed(tmp_path: Path):
    place = tmp_path / "lent"
    (place / "sub").mkdir(parents=True)
    (place / "data.txt").write_text("data")
    (tmp_path / "main.py").write_text("")
    source = programs.CHANGE_WHAT_IS_LENT.replace("/job/", f"{tmp_path}/")
    source = source.replace("lambda: again", "lambda: os.lstat")  # this machine's own mounts stay as they are
    env = {"TRUSTED_POOL_BIND_DATASET": str(place), "TRUSTED_POOL_BIND_TOOLS": str(place / "sub")}
    command = ["/usr/bin/python3", "-c", source]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path, env=env)
    worked = {line.removeprefix("worked: ") for line in ran.stdout.splitlines()[1:]}
    assert {"open", "through proc", "create", "truncate", "mode", "time", "rename", "below", "other bind"} <= worked
