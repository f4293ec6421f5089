"""Jobs that make their own directory unreadable: the limits hold all the same, and nobody else is blamed."""

from typing import Any

import pytest

from trusted_pool.core.words import FAULT_OF, Fault, Reason

HIDE = "import os, time\nopen('seen', 'w').write('x')\nos.chmod('/job', 0)\nprint('hidden', flush=True)\n"


def test_the_wall_clock_runs_in_the_dark(worker: Any):
    ran = worker.run(HIDE + "time.sleep(30)", timeout_s=1)
    assert ran.stdout == "hidden\n"
    assert ran.outcome.reason in (Reason.TIMEOUT, Reason.DISK_LIMIT), ran
    assert ran.seconds < 5


def test_processor_time_is_counted_in_the_dark(worker: Any):
    ran = worker.run(HIDE + "while True: pass", cpu_seconds=1, timeout_s=20)
    assert ran.outcome.reason in (Reason.CPU_LIMIT, Reason.DISK_LIMIT), ran
    assert ran.seconds < 10


def test_the_disk_is_counted_in_the_dark(worker: Any):
    fill = "import os, time\nf = open('x', 'wb')\nos.chmod('/job', 0)\nfor _ in range(40):\n    f.write(bytes(2**20))\n"
    ran = worker.run(fill + "    f.flush()\n    time.sleep(0.05)\nprint('done')", disk_mb=100, timeout_s=20)
    assert ran.outcome.reason is (Reason.DISK_LIMIT if worker.uid is not None else None), ran
    ran = worker.run(fill + "    f.flush()\n    time.sleep(0.1)\nprint('done')", disk_mb=20, timeout_s=20)
    assert ran.outcome.reason is Reason.DISK_LIMIT, ran


@pytest.mark.parametrize("what", ["/job", "/job/d"])
def test_what_a_job_hid_at_its_end_is_collected_and_counted(worker: Any, what: str):
    hide = f"import os\nos.mkdir('d')\nopen('d/x', 'wb').write(bytes(2**20))\nos.chmod({what!r}, 0)"
    ran = worker.run(hide)
    assert (ran.outcome.reason, ran.outcome.exit_code) == (None, 0), ran
    assert [file.path for file in ran.outcome.outputs] == ["d/x"]
    large = worker.run(
        hide.replace("(2**20)", "(6 * 2**20)")
        .replace("'d/x'", "f'd/{n}'")
        .replace("open(", "for n in range(3): open("),
        disk_mb=16,
    )
    assert large.outcome.reason is Reason.DISK_LIMIT, large
    assert FAULT_OF[large.outcome.reason] is Fault.LIMIT
