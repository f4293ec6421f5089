"""What the doctor measures can fail: attempts to get out do, and limits are overrun, where nothing holds them."""

import hashlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.security.conftest import Workers

from trusted_pool.core.job import Outcome, OutputFile, Usage
from trusted_pool.sandbox import leftovers, overruns, policy, probe, seccomp
from trusted_pool.sandbox.outside import Outside

TPOOL = str(Path(sys.executable).with_name("tpool"))
WEAKEN = [sys.executable, str(Path(__file__).parents[1] / "support" / "weaken.py")]
PYTHON = "/usr/bin/python3"


def got(command: list[str], **options: Any) -> dict[str, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root does not get hold of everything")
def test_every_attempt_to_get_out_gets_out_where_nothing_holds_it():
    with Outside() as outside, Path("/etc/hostname").open() as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003 - its one argument
        found = got(outside.command(PYTHON), close_fds=False)
    assert set(found) == set(probe.ESCAPES)
    nothing = {name for name, what in found.items() if not what or what.startswith("the attempt broke")}
    assert nothing == set(), found


#: One wall taken down at a time: what is taken from bubblewrap's options, what is put before which others, and the only
#: attempts that notice.
WALLS: dict[str, tuple[str, str, str, set[str]]] = {
    "network": ("--unshare-net", "", "", {"network", "namespaces"}),
    "processes": ("--unshare-pid", "", "", {"processes", "namespaces"}),
    "host_files": ("", "--ro-bind /var /var", "--remount-ro /", {"host_files"}),
    "writes": ("--remount-ro /", "", "", {"writes"}),
    "environment": ("", "--setenv SECRET x", "--setenv HOME", {"environment"}),
    "devices": ("", "--dev-bind /dev/null /dev/mem", "--remount-ro /dev", {"devices"}),
    "ipc": ("--unshare-ipc", "", "", {"namespaces"}),
    "masks": ("", "--ro-bind /proc/cmdline /proc/cmdline", "--remount-ro /", {"kernel"}),
}


def found_at(options: list[str], words: list[str]) -> int:
    (place,) = [n for n in range(len(options)) if options[n : n + len(words)] == words]
    return place


@pytest.fixture
def options(place: Path) -> list[str]:
    """What bubblewrap is told for every job, with directories of this test."""
    if shutil.which("bwrap") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("bubblewrap is not installed")
    (place / "fstab").touch()
    (place / "job").mkdir()
    (place / "job").chmod(0o777)
    limits = policy.Limits(memory_bytes=2**28, disk_bytes=2**28, timeout_s=9)
    view = policy.View(system=policy.look(), etc=str(place), masked=policy.masked())
    return policy.options(view, str(place / "job"), limits, policy.environment({}, {}))


def boxed(options: list[str], *, filtered: bool) -> dict[str, str]:
    """Let the attempts be made in a sandbox with these options."""
    user = {"user": 64321, "group": 64321, "extra_groups": []} if os.geteuid() == 0 else {}
    fd = seccomp.compiled().memfd()
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        extra = ["--seccomp", str(fd)] if filtered else []
        with Outside() as outside:
            command = ["bwrap", *options, *extra, "--", *outside.command(PYTHON)]
            return got(command, pass_fds=(fd,) if filtered else (), env={}, **user)
    finally:
        os.close(fd)


def noticed(found: dict[str, str]) -> set[str]:
    return {name for name, what in found.items() if what}


def test_nothing_gets_out_of_the_whole_policy(options: list[str]):
    assert noticed(boxed(options, filtered=True)) == set()


def test_without_the_filter_only_the_filter_is_missed(options: list[str]):
    found = boxed(options, filtered=False)
    assert noticed(found) == {"filtered"}
    assert {"keyctl", "ptrace", "no filter is on"} <= set(found["filtered"].split(", "))


@pytest.mark.parametrize("name", WALLS)
def test_each_wall_is_missed_by_its_own_attempts(options: list[str], name: str):
    taken, added, before, who = (part.split() if isinstance(part, str) else part for part in WALLS[name])
    if taken:
        at = found_at(options, taken)
        del options[at : at + len(taken)]
    if added:
        at = found_at(options, before)
        options[at:at] = added
    assert noticed(boxed(options, filtered=True)) == who


def test_without_filter_and_without_a_ban_a_job_makes_namespaces(options: list[str]):
    options.remove("--disable-userns")
    assert noticed(boxed(options, filtered=False)) == {"filtered", "new_namespaces"}


@pytest.fixture(scope="module")
def own(_bubblewrap: None) -> Iterator[Workers]:
    """A worker of this test's own user."""
    with tempfile.TemporaryDirectory() as name:
        made = Workers(Path(name) / "worker", allow_weaker=True)
        assert not made.words, made.words
        yield made
        made.close()


ENOUGH = {
    "memory": {"memory_mb": 1024},
    "memory_of_children": {"memory_mb": 1024},
    "memory_files": {"memory_mb": 1024},
    "cpu_time": {"cpu_seconds": 60},
    "cpu_share": {"cpus": os.cpu_count()},
    "wall_clock": {"timeout_s": 60},
    "disk": {"disk_mb": 1024},
    "file_size": {"disk_mb": 1024},
    "memory_disks": {"memory_mb": 1024},
    "log_size": {},  # the worker's own limit, which is larger than the doctor's
    "output_count": {},  # likewise
}
OVERRUNS = {overrun.name: overrun for overrun in overruns.OVERRUNS}


@pytest.mark.parametrize("name", ENOUGH)
def test_an_overrun_with_enough_of_everything_ends_well_and_is_not_taken_for_held(own: Workers, name: str):
    ran = own.run(overruns.source(), args=[name], **ENOUGH[name])
    assert (ran.outcome.reason, ran.outcome.exit_code) == (None, 0), ran
    if name != "cpu_share":  # a busy machine gives nobody more than a share
        assert OVERRUNS[name].judge(ran.outcome, ran.stdout) == ""


def test_the_others_are_not_taken_for_held_without_evidence():
    ended_well = Outcome(exit_code=0, usage=Usage(cpu_seconds=1.0, wall_time_ms=1000.0))
    for name, said in (("processes", ""), ("open_files", ""), ("cpu_share", "")):
        assert OVERRUNS[name].judge(ended_well, said) == ""
    handed_out = Outcome(evidence={"outputs_passed_over": 3}, outputs=(OutputFile(path="a", size=1, sha256="0" * 64),))
    assert OVERRUNS["output_links"].judge(handed_out, "") == ""


def test_a_process_that_outlives_its_job_is_found(tmp_path: Path):
    (tmp_path / "jobs" / "left").mkdir(parents=True)
    word = f"left-{os.getpid()}"
    program = tmp_path / "overrun.py"
    program.write_text(overruns.source())
    subprocess.run([PYTHON, program, "daemon", word], check=True, timeout=20)
    (pid,) = leftovers.living(word)
    daemons, rest = leftovers.look(tmp_path, [], word, "")
    os.kill(pid, 9)
    assert (daemons.holds, daemons.why) == (False, f"process {pid} runs on")
    assert (rest.holds, rest.why) == (False, "left: 1 files")


ANSI = re.compile(r"\x1b\[[0-9;]*m")


def doctor(*arguments: str, tty: bool = False) -> tuple[int, str]:
    """Run the doctor where bubblewrap is missing: it has little to do there."""
    command = [*WEAKEN, "no_bubblewrap", "-1", TPOOL, "doctor", *arguments]
    if not tty:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout
    main, other = pty.openpty()
    with subprocess.Popen(command, stdout=other, stderr=other, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(other)
        said = b""
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:  # nobody has it open any more
                break
            if not piece:
                break
            said += piece
    os.close(main)
    return process.returncode, said.decode().replace("\r\n", "\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="taking something of a machine away needs root")
def test_people_are_shown_what_does_not_hold_why_and_what_mends_it():
    code, piped = doctor()
    assert code == 1
    assert ANSI.search(piped) is None
    lines = piped.splitlines()
    at = lines.index("  NO  bubblewrap 0.8 or newer is installed")
    assert lines[at + 1] == "      why:  bubblewrap is not installed"
    assert lines[at + 2].startswith("      mend: apt-get install bubblewrap")
    assert lines[-1].startswith("Isolation level 0: a worker refuses to start: no sandbox holds on this machine")
    code, shown = doctor(tty=True)
    assert code == 1
    assert ANSI.search(shown) is not None
    plain = ANSI.sub("", shown).splitlines()
    assert plain[at : at + 3] == lines[at : at + 3]


def test_where_there_is_no_directory_the_doctor_says_what_to_type(tmp_path: Path):
    done = subprocess.run(
        [TPOOL, "doctor", "--data", tmp_path / "none"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--data" in done.stderr


def test_the_policy_it_prints_is_the_one_with_that_name(own: Workers):
    done = subprocess.run([TPOOL, "doctor", "--policy"], capture_output=True, timeout=120, check=False)
    name = hashlib.sha256(done.stdout).hexdigest()
    assert done.returncode == (0 if own.level >= 2 else 1)
    assert f"isolation level {own.level}\n".encode() in done.stdout
    assert f"filter {own.capacity.seccomp}\n".encode() in done.stdout
    assert own.capacity.policy == name
    ran = own.run("print(1)")
    assert (ran.outcome.isolation, ran.outcome.policy) == (own.level, name)
