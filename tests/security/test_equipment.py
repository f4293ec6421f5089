"""Binds, GPUs and interpreters as jobs of a pool get them: asked for, and only then.

No real GPU was there to test with: the devices are like /dev/null, and the library that knows them is a stand-in.
"""

import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.arena import Arena
from support.real_pool import TPOOL

GPU = """
import ctypes, errno, glob, os, sys, time
print(sorted(os.path.basename(path) for path in glob.glob("/dev/nvidia*")))
print(os.environ.get("TRUSTED_POOL_GPUS"), os.environ.get("CUDA_VISIBLE_DEVICES"))
libc = ctypes.CDLL(None, use_errno=True)
for request in (0xC0204627, 33):  # one of the driver, one of unified memory
    libc.syscall(16, 0, ctypes.c_ulong(request), 0)
    print(errno.errorcode[ctypes.get_errno()])
for path in glob.glob("/dev/nvidia?"):
    open(path, "wb").write(b"x")
if sys.argv[1:]:
    begun = time.time()
    time.sleep(float(sys.argv[1]))
    print(begun, time.time())
"""
NOTHING = "[]\nNone None\nENOSYS\nENOSYS\n"


def said(program: str, *words: str) -> str:
    """What a program of this machine says."""
    if shutil.which(program) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{program} is not installed")
    return subprocess.run([program, *words], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def gpus(arena: Arena) -> Arena:
    if os.geteuid() != 0:
        pytest.skip("needs to be root, to make device files")
    return arena


def refusal(arena: Arena, **manifest: Any) -> str:
    """What a job that can never run is told."""
    answer = arena.pool.post({"main.py": b""}, manifest)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unplaceable"), answer.text
    dry = arena.pool.post({"main.py": b""}, manifest, params={"dry_run": 1}).json()
    assert dry["verdict"] == "impossible"
    return "; ".join(obstacle["message"] for worker in dry["workers"] for obstacle in worker["obstacles"])


def test_what_is_lent_is_advertised_by_name_alone(arena: Arena):
    capacity = arena.pool.pool()["workers"][0]["capacity"]
    assert capacity["binds"] == ["dataset", "tools"]
    assert str(arena.lent) not in arena.pool.http.get("/pool").text
    shown = subprocess.run(
        ["env", f"TRUSTED_POOL_ADDR={arena.pool.url}", *TPOOL, "pool"], capture_output=True, text=True, check=True
    ).stdout
    assert "binds dataset, tools" in shown


def test_a_bind_that_nobody_lends_is_impossible(arena: Arena):
    assert refusal(arena, binds=["dataset", "imagenet"]) == "has no bind 'imagenet'"


def test_only_what_was_asked_for_is_there(arena: Arena):
    look = "import os\nprint(sorted(os.listdir('/binds')) if os.path.exists('/binds') else None)\n"
    look += "print(sorted(name for name in os.environ if 'BIND' in name))"
    assert arena.run(look).stdout == "None\n[]\n"
    assert arena.run(look, binds=["tools"]).stdout == "['tools']\n['TRUSTED_POOL_BIND_TOOLS']\n"
    forged = arena.run(look, binds=["tools"], env={"TRUSTED_POOL_BIND_TOOLS": "/etc"})
    assert forged.stdout == "['tools']\n['TRUSTED_POOL_BIND_TOOLS']\n"
    where = "import os; print(os.environ['TRUSTED_POOL_BIND_TOOLS'], os.listdir(os.environ['TRUSTED_POOL_BIND_TOOLS']))"
    assert (
        arena.run(where, binds=["tools"], env={"TRUSTED_POOL_BIND_TOOLS": "/etc"}).stdout
        == "/binds/tools ['more.txt']\n"
    )


def test_a_program_in_a_bind_runs_and_gains_nothing(arena: Arena):
    program = arena.lent / "sub" / "id"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o6755)
    try:
        said = (
            "import subprocess; print(subprocess.run(['/binds/tools/id', '-u'], capture_output=True, text=True).stdout)"
        )
        assert arena.run(said, binds=["tools"]).stdout.strip() == "1000"
        bound = "import os\nflags = os.statvfs('/binds/tools').f_flag\n"
        bound += "print(*(bool(flags & flag) for flag in (os.ST_NOSUID, os.ST_NODEV, os.ST_RDONLY)))"
        assert arena.run(bound, binds=["tools"]).stdout == "True True True\n"
    finally:
        program.unlink()


def test_a_job_that_asks_for_no_gpu_sees_none(gpus: Arena):
    assert gpus.run(GPU).stdout == NOTHING
    assert gpus.run(GPU, gpu={"required": False, "device_id": 0}).stdout == NOTHING
    assert (gpus.home / "gpus" / "nvidia0").is_char_device()  # outside, everybody may open it


def test_a_job_that_asks_for_a_gpu_gets_one_and_no_other(gpus: Arena):
    for ask, number in (
        ({"required": True, "min_vram_gb": 8}, 0),
        ({"device_id": 1}, 1),
        ({"cuda_version": "12.1"}, 1),
    ):
        ended = gpus.run(GPU, gpu=ask)
        said = f"['nvidia{number}', 'nvidiactl']\n{number} GPU-fake-{number}\nENOTTY\nENOTTY\n"
        assert (ended.reason, ended.stdout) == (None, said), (ask, ended)
    both = gpus.run(GPU, gpu={"count": 2})
    assert both.stdout.startswith("['nvidia0', 'nvidia1', 'nvidiactl']\n0,1 GPU-fake-0,GPU-fake-1\n"), both


def test_no_two_jobs_have_one_gpu(gpus: Arena):
    ids = [gpus.begin(GPU, args=["0.5"], gpu=True) for _ in range(4)]
    ended = [gpus.end(job_id) for job_id in ids]
    assert [one.reason for one in ended] == [None] * 4
    had = [(said[1][0], *map(float, said[-1].split())) for said in (one.stdout.splitlines() for one in ended)]
    assert {number for number, _, _ in had} == {"0", "1"}
    for one, other in itertools.combinations(had, 2):
        assert one[0] != other[0] or one[2] <= other[1] or other[2] <= one[1], had


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        ({"count": 3}, "has 2 gpus, 2 that fit; the job asks for 3"),
        ({"min_vram_gb": 9}, "has 2 gpus, 0 that fit; the job asks for 1 with 9216 MB"),
        ({"device_id": 2}, "has 2 gpus, 0 that fit; the job asks for number 2"),
        ({"cuda_version": "12.4"}, "its driver supports CUDA 12.2, not 12.4"),
    ],
)
def test_gpus_that_nobody_has_are_impossible(gpus: Arena, ask: dict[str, Any], words: str):
    assert refusal(gpus, gpu=ask) == words


def test_interpreters_are_advertised_with_their_versions(arena: Arena):
    found = arena.pool.pool()["workers"][0]["capacity"]["interpreters"]
    assert {"python3", "bash", "sh", "perl", "exec"} <= found.keys()
    assert found["ruby"].startswith(said("ruby", "-e", "print RUBY_VERSION"))
    assert found["node"] == said("node", "--version").strip().removeprefix("v")


@pytest.mark.parametrize(
    ("name", "interpreter", "source", "says"),
    [
        ("main.py", "python3", "import sys; print('hello', sys.argv[1])", "hello x\n"),
        ("main.js", "node", "console.log('hello', process.argv[2])", "hello x\n"),
        ("main.sh", "bash", "echo hello $1 ${BASH_VERSION:+really}", "hello x really\n"),
        ("main", "sh", "echo hello $1", "hello x\n"),
        ("main.rb", "ruby", 'puts "hello #{ARGV[0]} #{[1, 2].sum}"', "hello x 3\n"),
        ("main.pl", "perl", 'print "hello $ARGV[0]\\n"', "hello x\n"),
        ("bin/main", "exec", "#!/bin/sh\necho hello $1", "hello x\n"),
    ],
)
def test_each_interpreter_runs_its_programs(arena: Arena, name: str, interpreter: str, source: str, says: str):
    if interpreter in ("node", "ruby"):
        assert said(interpreter, "--version")
    files = {name: source.encode()}
    job = arena.pool.submit(files, {"entrypoint": name, "interpreter": interpreter, "args": ["x"]})
    ended = arena.end(job)
    assert (ended.reason, ended.stdout) == (None, says), ended
    extension = Path(name).suffix
    if extension:
        guessed = arena.pool.submit(files, {"entrypoint": name, "args": ["x"]})
        assert arena.end(guessed).status["worker_status"]["execution_metadata"]["interpreter"] == interpreter


def test_an_interpreter_is_found_where_it_is_installed(arena: Arena):
    """R is large: a stand-in that says a version as Rscript does is found in /usr/local/bin, and given the program."""
    if os.geteuid() != 0:
        pytest.skip("needs to be root, to lay another /usr/local/bin over the machine's")
    assert arena.pool.pool()["workers"][0]["capacity"]["interpreters"]["Rscript"] == "4.2.2"
    job = arena.pool.submit({"main.R": b"echo stand-in $1"}, {"entrypoint": "main.R", "args": ["x"]})
    ended = arena.end(job)
    assert (ended.reason, ended.stdout) == (None, "stand-in x\n"), ended
