"""Hostile programs against limits, cases 32 to 38, 47, 51 to 53, 57, 58, 60; each with its control."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.programs import (
    COUNT_FORKS,
    DEAF,
    DUMP_CORE,
    FILL,
    FORGED_STATUS,
    FORK_BOMB,
    GRANDCHILD,
    HOG_IN_A_CHILD,
    HOGS,
    KILL_ALL,
    SPINNING_CHILDREN,
    UNNAMED,
    daemon,
    flood,
)
from trusted_pool.core.words import Reason

MB = 1024 * 1024


def seen(marker: str) -> list[int]:
    """Pids of processes that have the marker in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Poll what happens in foreign processes."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_32_forks_are_counted(worker: Any, control: Any):
    ran = worker.run(COUNT_FORKS, memory_mb=2048)
    assert ran.stdout.startswith("refused 11"), ran
    assert int(ran.stdout.split()[-1]) <= 515
    assert "700" in control(COUNT_FORKS.replace("len(sys.argv) > 1", "True"), start_new_session=True).stdout


def test_32_a_fork_bomb_is_gone_with_its_job_and_its_neighbour_lives(worker: Any):
    neighbour = worker.begin("import time; time.sleep(1.5); print('alive')", slot=1)
    ran = worker.run(FORK_BOMB, timeout_s=0.5, cpus=0.5)
    assert ran.outcome.reason in (Reason.TIMEOUT, Reason.OUT_OF_MEMORY)
    assert ran.seconds < 5
    assert worker.end(neighbour).stdout == "alive\n"
    assert worker.run("print('again')").stdout == "again\n"


@pytest.mark.parametrize("kind", HOGS)
def test_33_memory_is_limited_however_it_is_held(strong: Any, kind: str):
    limit = 128 if kind != "tmpfs" else 170
    ran = strong.run(HOGS[kind], memory_mb=limit)
    assert ran.outcome.reason is Reason.OUT_OF_MEMORY, ran
    assert ran.outcome.limit == "memory_mb"
    assert ran.outcome.usage.memory_peak_bytes <= limit * MB
    assert ran.outcome.evidence["oom_kill"] >= 1
    # The control: the same program with enough.
    roomy = strong.run(HOGS[kind], memory_mb=512)
    assert roomy.outcome.reason is None, roomy
    assert roomy.outcome.usage.memory_peak_bytes >= 165 * MB


def test_33_a_heap_hog_ends_at_level_1_too(worker: Any):
    source = "import time\nx = []\nwhile True:\n    x.append(bytearray(2**20) )\n    time.sleep(0.002)"
    ran = worker.run(source, memory_mb=64, timeout_s=20)
    if worker.level < 2:
        assert ran.outcome.usage.approximate
    assert ran.outcome.reason is Reason.OUT_OF_MEMORY, ran


def test_34_a_child_that_runs_out_of_memory_is_reported_though_the_exit_status_is_0(strong: Any):
    ran = strong.run(HOG_IN_A_CHILD, memory_mb=100)
    assert ran.outcome.reason is Reason.OUT_OF_MEMORY
    roomy = strong.run(HOG_IN_A_CHILD, memory_mb=800)
    assert (roomy.outcome.reason, roomy.outcome.exit_code) == (None, 0)


@pytest.mark.parametrize("where", ["/tmp", "/dev/shm"])
def test_35_memory_disks_are_full_at_their_size(worker: Any, where: str):
    source = f"open('{where}/x', 'wb').write(bytes(80 * 2**20)); print('written')"
    ran = worker.run(source, memory_mb=128)
    assert ran.outcome.reason is not None
    assert "written" not in ran.stdout
    assert worker.run(source, memory_mb=512).stdout == "written\n"


def test_35_the_job_directory_is_limited(worker: Any):
    ran = worker.run(FILL, disk_mb=20)
    assert ran.outcome.reason is Reason.DISK_LIMIT, ran
    assert ran.outcome.limit == "disk_mb"
    assert "done" not in ran.stdout
    one = worker.run("open('x', 'wb').write(bytes(50 * 2**20))", disk_mb=20)
    assert one.outcome.reason is not None
    assert worker.run(FILL.replace("400", "10"), disk_mb=20).outcome.reason is None


def test_35_files_without_a_name_count(worker: Any):
    assert worker.run(UNNAMED, disk_mb=20).outcome.reason is Reason.DISK_LIMIT
    assert worker.run(UNNAMED, disk_mb=100).stdout == "done\n"


def test_36_forked_children_cannot_hide_their_cpu_time(worker: Any):
    ran = worker.run(SPINNING_CHILDREN, cpu_seconds=0.3, timeout_s=30)
    assert ran.outcome.reason is Reason.CPU_LIMIT, ran
    assert 0.3 <= ran.outcome.usage.cpu_seconds < 5
    free = worker.run(SPINNING_CHILDREN, timeout_s=3)
    assert free.outcome.reason is Reason.TIMEOUT
    assert free.outcome.usage.cpu_seconds > 0.3


def test_37_the_wall_clock_ends_what_ignores_signals(worker: Any):
    ran = worker.run(DEAF, timeout_s=0.5)
    assert ran.outcome.reason is Reason.TIMEOUT
    assert ran.stdout == "deaf\n"
    assert ran.seconds < 5
    with subprocess.Popen(["/usr/bin/python3", "-c", DEAF], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "deaf\n"
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.kill()


def test_38_a_daemon_does_not_outlive_its_job(worker: Any):
    marker = f"7351.{os.getpid()}"
    ran = worker.run(daemon(marker))
    assert ran.stdout == "left\n"
    assert seen(marker) == []
    unprotected = ["/usr/bin/python3", "-c", daemon(marker + "1")]
    subprocess.run(unprotected, stdout=subprocess.DEVNULL, timeout=10, check=False)
    left = seen(marker + "1")
    assert len(left) == 1
    os.kill(left[0], signal.SIGKILL)


def test_47_kill_all_reaches_nobody_else(worker: Any):
    neighbour = worker.begin("import time; time.sleep(1); print('alive')", slot=1)
    worker.run(KILL_ALL)
    assert worker.end(neighbour).stdout == "alive\n"
    if os.geteuid() == 0:
        text = "import os, subprocess, time; p = subprocess.Popen(['sleep', '30']); os.kill(-1, 9); print(p.wait())"
        unprotected = ["unshare", "--pid", "--fork", "--kill-child", "/usr/bin/python3", "-c", text]
        ran = subprocess.run(unprotected, capture_output=True, text=True, timeout=20, check=False)
        assert ran.stdout == "-9\n"  # in one namespace, a neighbour dies


def test_51_no_core_is_dumped(worker: Any):
    ran = worker.run(DUMP_CORE)
    assert ran.stdout == "refused\n"
    assert (ran.outcome.reason, ran.outcome.signal) == (Reason.SIGNAL, signal.SIGABRT)
    assert ran.outcome.outputs == ()


def test_52_a_flood_of_output_is_cut_once_and_the_worker_stays_small(worker: Any):
    before = worker.memory_bytes()
    ran = worker.run(flood(400))
    assert ran.outcome.reason is None
    assert 0.99 * 16 * MB < ran.kept < 16 * MB  # with the frames' headers it is 16 MiB on the disk
    assert ran.marks == ["the log was cut after 16 MiB\n"]
    assert worker.memory_bytes() - before < 32 * MB
    assert worker.run("print('x' * 1000)").marks == []


def test_53_a_grandchild_with_the_pipe_does_not_delay_the_end(worker: Any):
    ran = worker.run(GRANDCHILD)
    assert (ran.outcome.reason, ran.stdout) == (None, "bye\n")
    assert ran.seconds < 5
    unprotected = ["/usr/bin/python3", "-c", GRANDCHILD.replace("20", "3")]
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(unprotected, capture_output=True, timeout=1, check=False)


def test_57_a_job_cannot_write_its_own_report(worker: Any):
    ran = worker.run(FORGED_STATUS)
    assert (ran.outcome.reason, ran.outcome.exit_code) == (Reason.EXIT_CODE, 5)


def test_58_nothing_survives_a_killed_worker(worker: Any, place: Path):
    marker = f"7358.{os.getpid()}"
    make = type(worker)
    first = make(place / "w", worker.uid, allow_weaker=True)
    number = first.begin(daemon(marker).replace("time.sleep(0.2)", "print('up', flush=True)\ntime.sleep(60)"))
    assert number == 1
    assert until(lambda: len(seen(marker)) == 1)
    first.kill()
    assert until(lambda: seen(marker) == []), "a job outlived its worker"
    noted = place / "w" / "cgroups"
    groups = [Path(line) for line in noted.read_text().split()] if noted.exists() else []
    assert all(group.is_dir() for group in groups)
    second = make(place / "w", worker.uid, allow_weaker=True)
    assert second.swept == ["job-1"]
    assert second.run("print('fine')").stdout == "fine\n"
    second.close()
    assert not any(group.exists() for group in groups)
    # The control: what is started without that care outlives its parent.
    text = f"import os, subprocess; subprocess.Popen(['sleep', '{marker}2']); os.kill(os.getpid(), 9)"
    subprocess.run(["/usr/bin/python3", "-c", text], check=False, timeout=10)
    left = seen(marker + "2")
    assert len(left) == 1
    os.kill(left[0], signal.SIGKILL)


def test_58_nothing_survives_a_worker_killed_while_it_starts_jobs(worker: Any, place: Path):
    """Bubblewrap's own care for it begins too late for a sandbox that is still being built."""
    make = type(worker)
    for round_ in range(6):
        first = make(place / "w", worker.uid, allow_weaker=True)
        first.begin(f"import time\ntime.sleep(60)  # {round_}")
        mine = [pid for pid in seen("/job/main.py") if ancestor(pid, first.pid)]
        assert mine, "the sandbox is there, and has not begun"
        first.kill()
        assert until(lambda mine=mine: not any(alive(pid) for pid in mine)), (
            f"round {round_}: left of a killed worker: {mine}"
        )


def alive(pid: int) -> bool:
    """Whether a process does anything: one that is dead and has not been waited for does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] != "Z"


def ancestor(pid: int, above: int) -> bool:
    """Whether a process is below another."""
    while pid > 1 and pid != above:
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        pid = int(text[text.rindex(")") + 2 :].split()[1])
    return pid == above


def test_59_a_worker_that_cannot_limit_trees_refuses_to_start(worker: Any, place: Path):
    if worker.level >= 2:
        pytest.skip("this user can limit whole trees")
    refused = type(worker)(place / "w", worker.uid)
    assert refused.words.startswith("SandboxError: this machine cannot limit a whole tree of processes"), refused.words
    assert "start it as root" in refused.words or "start the worker as root" in refused.words
    assert "--allow-weaker-isolation" in refused.words
    refused.close()
    assert worker.capacity.isolation == 1  # said so, it starts, and says what it is


def test_60_the_next_job_on_a_slot_finds_nothing_of_the_last(worker: Any, control: Any):
    places = ("/tmp", "/dev/shm", "/job")
    write = "".join(f"open('{p}/marker-60', 'w').write('A')\n" for p in places)
    look = f"import os\nprint([p for p in {places!r} if os.path.exists(p + '/marker-60')])"
    assert worker.run(write + look).stdout == f"{list(places)}\n"
    assert worker.run(look).stdout == "[]\n"
    with tempfile.TemporaryDirectory() as shared:
        control(f"open('{shared}/marker-60', 'w')")
        assert control(f"import os; print(os.path.exists('{shared}/marker-60'))").stdout == "True\n"
