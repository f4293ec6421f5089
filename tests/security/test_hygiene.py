"""Nothing of a job is left when it has ended, whatever it did, and nothing of a killed worker after its next start."""

import contextlib
import os
import random  # noqa: TID251 - seeded, and the seed is printed
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from support import leftovers, programs
from support.arena import ATTACKERS, NEIGHBOURS, Arena, Ended
from support.real_pool import until
from trusted_pool.sandbox import machine

SEED = int(os.environ.get("HYGIENE_SEED", "0")) or int.from_bytes(os.urandom(4), "big")
SLOTS = ATTACKERS + NEIGHBOURS
MB = 2**20


class Mischief(msgspec.Struct, frozen=True):
    """A job that misbehaves for a moment, and how it may end."""

    source: str
    ends: tuple[str | None, ...]
    manifest: dict[str, Any] = {}


MIXED = [
    Mischief("print('hello')", (None,)),
    Mischief(programs.LEAVE_BEHIND, (None,)),
    Mischief("import os\nfor n in range(50): os.mkdir(f'{n}', 0)\nos.chmod('/job', 0)", (None, "disk_limit")),
    Mischief("import os\nfor _ in range(60): os.mkdir('d'); os.chdir('d')\nopen('x', 'w')", (None,)),
    Mischief("import os\nfor _ in range(250): os.mkdir('d'); os.chdir('d')", ("disk_limit",)),
    Mischief("x = bytearray(200 * 2**20)", ("out_of_memory",), {"memory_mb": 48}),
    Mischief("open('x', 'wb').write(bytes(9 * 2**20))", ("exit_code", "disk_limit"), {"disk_mb": 8}),
    Mischief(programs.KILL_ALL, ("exit_code",)),
    Mischief(programs.DUMP_CORE, ("signal",)),
    Mischief(programs.X32, ("signal",)),
    Mischief(programs.flood(20), (None,)),
    Mischief(programs.GRANDCHILD, (None,)),
    Mischief("import os\nos.mkfifo('p'); os.symlink('/etc/shadow', 's'); os.link('main.py', 'l')", (None,)),
    Mischief("import os\nos.symlink('/etc/shadow', 's')", ("bad_output",), {"outputs": ["s"]}),
    Mischief("import time; time.sleep(30)", ("timeout",), {"timeout": "300ms"}),
    Mischief("import os\nwhile True: os.fork() or os._exit(0)", ("timeout", "exit_code"), {"timeout": "300ms"}),
    Mischief("import os, signal\nsignal.signal(15, signal.SIG_IGN)\nos.kill(os.getppid(), 9)", (None, "signal")),
    Mischief("#!/bin/sh\nexit 3\n", ("exit_code",), {"interpreter": "sh"}),
    Mischief("\x7fnot a program", ("bad_input", "exit_code", "sandbox_failed"), {"interpreter": "exec"}),
    Mischief("import socket\nfor n in range(50): socket.socket(1).bind(f's{n}')", (None,)),
]
#: Cancelled while it runs.
CANCELLED = """
import signal, time
if {deaf}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(60)
"""


class State(msgspec.Struct):
    """What a worker holds of its machine between jobs."""

    children: set[str]
    groups: set[str]
    mounts: list[int]
    descriptors: int
    memory: int

    @classmethod
    def of(cls, arena: Arena) -> "State":
        process = psutil.Process(arena.worker.pid)
        tasks = Path(f"/proc/{process.pid}/task")
        mounts = {len((task / "mountinfo").read_text().splitlines()) for task in tasks.iterdir()}
        places = (arena.jobs.parent / "cgroups").read_text().split()
        return cls(
            children={child.name() for child in process.children(recursive=True)},
            groups={str(path) for place in places for path in Path(place).rglob("*") if path.is_dir()},
            mounts=sorted(mounts),
            descriptors=process.num_fds(),
            memory=process.memory_info().rss,
        )


def users(arena: Arena) -> set[int]:
    """The users that this worker's jobs are outside."""
    if arena.uid is None and os.geteuid() == 0:
        first = machine.first_uid(arena.jobs.parent)
        return set(range(first, first + SLOTS))
    return {arena.uid if arena.uid is not None else os.geteuid()}


def own(arena: Arena) -> set[int]:
    """The processes that belong to the worker itself."""
    process = psutil.Process(arena.worker.pid)
    return {process.pid, *(child.pid for child in process.children(recursive=True))}


def quiet(arena: Arena) -> State:
    """Wait until no job is there any more, and say what the worker holds."""
    arena.until_empty()
    # One stays: who waits for the worker's end.
    until(lambda: len(psutil.Process(arena.worker.pid).children(recursive=True)) == 1, "the end of all sandboxes")
    return State.of(arena)


def jobs(arena: Arena, count: int, dice: random.Random) -> list[tuple[Mischief, Ended]]:
    """Run so many jobs, some at a time."""
    chosen = [MIXED[n % len(MIXED)] for n in range(count)]
    dice.shuffle(chosen)
    with ThreadPoolExecutor(SLOTS) as threads:
        ended = threads.map(lambda one: arena.run(one.source, **one.manifest), chosen)
        return list(zip(chosen, ended, strict=True))


def nothing_is_left(arena: Arena, count: int) -> None:
    dice = random.Random(SEED)  # noqa: S311 - no secret
    print(f"HYGIENE_SEED={SEED} runs this again")  # noqa: T201 - shown when it fails
    for mischief, ended in jobs(arena, max(len(MIXED), count // 5), dice):  # the first of each kind makes room
        assert ended.reason in mischief.ends, (mischief, ended)
    before = quiet(arena)
    for mischief, ended in jobs(arena, count - max(len(MIXED), count // 5), dice):
        assert ended.reason in mischief.ends, (mischief, ended)
    after = quiet(arena)
    assert (after.children, after.groups, after.mounts) == (before.children, before.groups, before.mounts)
    assert after.descriptors <= before.descriptors + 8  # some connections more or less; each job has a dozen
    assert after.memory < before.memory + 16 * MB  # the newest 256 small logs are remembered
    assert leftovers.of_users(users(arena), own(arena)) == set()
    data = arena.jobs.parent.parent
    kept = [path for name in ("inputs", "sandbox/spool") for path in (data / name).rglob("*") if path.is_file()]
    assert kept == []


@pytest.fixture
def cancelled(arena: Arena) -> Iterator[list[str]]:
    """Jobs that are cancelled while the others run."""
    ids: list[str] = []
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(0.3):
            deaf = len(ids) % 4 == 3
            ids.append(arena.begin(CANCELLED.format(deaf=deaf)))
            with contextlib.suppress(AssertionError):
                until(lambda: arena.pool.http.get(f"/logs/{ids[-1]}").json()["stdout"] or over.is_set(), "its word")
            arena.pool.http.post(f"/cancel/{ids[-1]}")

    thread = threading.Thread(target=go_on)
    thread.start()
    yield ids
    over.set()
    thread.join()
    for job_id in ids:
        assert arena.end(job_id).status["state"] == "cancelled"


@pytest.mark.timeout(300)
def test_nothing_is_left_of_a_hundred_jobs(arena: Arena):
    nothing_is_left(arena, 100)


@pytest.mark.long
def test_nothing_is_left_of_a_thousand_jobs(arena: Arena, cancelled: list[str]):
    nothing_is_left(arena, 1000)
    assert cancelled


def test_what_is_left_would_be_seen():
    """The control: the same program where nothing cleans up after it."""
    if os.geteuid() != 0:
        pytest.skip("needs to be root, to be somebody else for a moment")
    uid = 64_399
    command = ["unshare", "--ipc", "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    text = f"""
import subprocess, sys
sys.path.insert(0, {str(Path(leftovers.__file__).parents[1])!r})
from support import leftovers
subprocess.run([*{command[2:]!r}, "/usr/bin/python3", "-c", {programs.LEAVE_BEHIND!r}], check=True)
print("\\n".join(leftovers.of_users({{{uid}}})))
"""
    words = [*command[:2], sys.executable, "-c", text]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    seen = ran.stdout.splitlines()
    for line in seen:
        words = line.split()
        if words[0] == "process":
            os.kill(int(words[1]), signal.SIGKILL)
        if words[0] == "file":
            Path(words[1]).unlink()
    assert {line.split()[0] for line in seen} >= {"process", "shm", "sem", "msg", "file"}, ran
    until(lambda: not leftovers.processes({uid}, ()), "their end")


def test_60_the_next_job_on_a_slot_finds_nothing_of_the_last(arena: Arena):
    arena.until_empty()
    assert arena.run(programs.LEAVE_MARKS + programs.FIND_MARKS).stdout == f"{list(programs.MARKS)}\n"
    # As many at once as there are slots: one of them is where the marks were left.
    ids = [arena.begin(programs.FIND_MARKS + "\nimport time; time.sleep(1)") for _ in range(SLOTS)]
    ended = [arena.end(job_id) for job_id in ids]
    assert [one.stdout for one in ended] == ["[]\n"] * SLOTS
    begun, over = max(one.times[0] for one in ended), min(one.times[1] for one in ended)
    assert begun < over, "not all slots were taken at once"


def test_58_a_killed_worker_leaves_nothing_once_it_has_started_again(arena: Arena):
    running = {
        "a daemon": programs.daemon("7358.1").replace("time.sleep(0.2)", "time.sleep(60)"),
        "a bomb": programs.FORK_BOMB,
        "files": "import time\nfor n in range(500): open(str(n), 'w').write('x')\ntime.sleep(60)",
        "memory": "import time\nopen('/dev/shm/x', 'wb').write(bytes(2**25))\ntime.sleep(60)",
    }
    ids = [arena.begin(source) for source in running.values()]
    for job_id in ids:
        arena.pool.until_state(job_id, "running")
    until(lambda: len(list(arena.jobs.glob("*/499"))) == 1, "files")
    mine = own(arena) - {arena.worker.pid}
    arena.worker.kill9()
    until(lambda: not [pid for pid in mine if alive(pid)], "the end of all that it had started", 30.0)
    if os.geteuid() == 0:
        until(lambda: not leftovers.processes(users(arena), ()), "the end of all that jobs had started", 30.0)
    assert list(arena.jobs.glob("*/499")), "what it left on the disk is still there"
    arena.worker.start()
    for job_id in ids:
        assert arena.end(job_id).reason == "interrupted"
    arena.worker.said("Removed what a crash left of")
    arena.pool.until_healthy(1)
    quiet(arena)
    assert leftovers.of_users(users(arena), own(arena)) == set()
    assert arena.run("print('as before')").stdout == "as before\n"


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
