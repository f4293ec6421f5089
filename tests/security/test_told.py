"""What is told of limits and use, at each level: also where processes are looked at for want of control groups."""

from typing import Any

from support import programs
from trusted_pool.core.words import Reason

MB = 1024 * 1024
#: Where processes are looked at, what hundreds of them share is counted for each.
ENOUGH_MB = 16_384


def test_bytes_in_and_out(worker: Any):
    source = "import sys\nprint('x' * 99)\nsys.stderr.write('y' * 50)\nopen('out', 'wb').write(bytes(1000))"
    ran = worker.run(source, more={"more.txt": "z" * 500})
    assert ran.outcome.usage.bytes_in == len(source) + 500
    assert ran.outcome.usage.bytes_out == 1000 + 100 + 50
    dropped = worker.run(programs.flood(20))
    assert 15 * MB < dropped.outcome.usage.bytes_out <= 16 * MB
    assert dropped.outcome.evidence["log_bytes"] >= 20 * MB


def test_what_is_polled_is_marked(worker: Any):
    assert worker.run("print(1)").outcome.usage.approximate is (worker.level < 2)


def test_refused_processes_are_told(worker: Any):
    source = programs.COUNT_FORKS.replace("sys.stdout.flush()", "time.sleep(1.5); raise SystemExit(4)")
    ran = worker.run(source, memory_mb=ENOUGH_MB)
    assert (ran.outcome.reason, ran.outcome.exit_code) == (Reason.EXIT_CODE, 4), ran
    assert "processes" in ran.outcome.evidence["limits_met"]
    assert ran.outcome.evidence["processes_limit"] == 512
    assert "it was refused more than 512 processes" in ran.outcome.detail


def test_open_files_are_told(worker: Any):
    ran = worker.run(programs.OPEN_FILES)
    assert ran.stdout == "refused 24 True\n"
    assert ran.outcome.evidence["open_files_seen"] == ran.outcome.evidence["open_files_limit"] == 4096
    assert "had 4096 files open, which is the limit" in ran.outcome.detail
    few = worker.run("import time; time.sleep(1.5)")
    assert "limits_met" not in few.outcome.evidence


def test_a_file_beyond_the_disk_is_told(worker: Any):
    ran = worker.run("f = open('x', 'wb')\nfor _ in range(9): f.write(bytes(2**20)); f.flush()", disk_mb=8)
    told = (ran.outcome.reason, ran.outcome.limit, ran.outcome.evidence.get("limits_met"))
    # The write that failed, or the count that came first.
    assert told in ((Reason.EXIT_CODE, "", "disk_mb"), (Reason.DISK_LIMIT, "disk_mb", "disk_mb")), ran
    by_signal = worker.run(
        "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_DFL)\nopen('x', 'wb').truncate(2**40)", disk_mb=8
    )
    assert (by_signal.outcome.reason, by_signal.outcome.limit) == (Reason.DISK_LIMIT, "disk_mb"), by_signal


def test_files_in_memory_are_counted(worker: Any):
    source = programs.MANY_FILES.format(count=101_000, place="/dev/shm") + "\nimport time; time.sleep(5); print('done')"
    ran = worker.run(source, memory_mb=1024)
    assert (ran.outcome.reason, ran.outcome.limit, ran.stdout) == (Reason.DISK_LIMIT, "files", ""), ran
    assert ran.outcome.evidence["files_limit"] == 100_000
    assert worker.run(source.replace("101000", "1000").replace("5", "0"), memory_mb=1024).stdout == "done\n"


def test_what_lies_in_memory_is_memory(worker: Any):
    source = (
        "import time\nfor place in ('/tmp', '/dev/shm'):\n    open(place + '/x', 'wb').write(bytes(60 * 2**20))\n"
        "    time.sleep(0.5)\nx = bytearray(60 * 2**20)\ntime.sleep(2)\nprint('done')"
    )
    ran = worker.run(source, memory_mb=128)
    assert (ran.outcome.reason, ran.stdout) == (Reason.OUT_OF_MEMORY, ""), ran
    assert worker.run(source, memory_mb=512).stdout == "done\n"


def test_processor_time_and_the_disk_are_watched_beside_processes_that_never_rest(worker: Any):
    """Reading what hundreds of them have mapped takes long; nothing else may wait for that."""
    bomb = (
        "import os\nif os.fork() == 0:\n    while True:\n        try: os.fork()\n        except OSError: pass\n"
        "import time\nfor n in range(200): open(f'f{n}', 'wb').write(bytes(2**20)); time.sleep(0.01)\ntime.sleep(60)"
    )
    ran = worker.run(bomb, disk_mb=30, timeout_s=50, memory_mb=ENOUGH_MB)
    assert (ran.outcome.reason, ran.outcome.limit) == (Reason.DISK_LIMIT, "disk_mb"), ran
    if worker.level < 2:
        return  # /proc counts whole ticks of each process, and most of these never have one
    spent = worker.run(programs.FORK_BOMB, cpu_seconds=1, timeout_s=50, memory_mb=ENOUGH_MB)
    assert spent.outcome.reason is Reason.CPU_LIMIT, spent
