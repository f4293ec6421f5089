"""Jobs that hold the disk without a name: what can be counted ends at disk_mb, what cannot at the reserve."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.programs import (
    IN_FLIGHT,
    MAPPED,
    UNREADABLE,
)
from trusted_pool.core.words import Reason


@pytest.mark.parametrize("source", [MAPPED, UNREADABLE], ids=["mapped", "unreadable"])
def test_files_without_name_or_descriptor_count(worker: Any, source: str):
    ran = worker.run(source, disk_mb=16)
    assert ran.outcome.reason is Reason.DISK_LIMIT, ran
    assert ran.stdout == "True\n"
    assert worker.run(source, disk_mb=200).stdout == "True\ndone\n"


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs to be root, to mount a small file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m,mode=755", "none", str(place)], check=True, timeout=10)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=10)


def test_what_cannot_be_counted_ends_at_the_reserve_and_ends_no_neighbour(worker: Any, small_disk: Path):
    tight = type(worker)(small_disk / "w", worker.uid, allow_weaker=True)
    try:
        neighbour = tight.begin("import time; time.sleep(4); print('alive')", slot=1)
        ran = tight.run(IN_FLIGHT, disk_mb=16, memory_mb=1024)
        assert ran.outcome.reason is Reason.DISK_LIMIT, ran
        assert "in no file that can be counted" in ran.outcome.detail
        assert ran.outcome.evidence["disk_bytes"] >= 90 * 2**20
        assert ran.stdout == "True\n"
        assert tight.end(neighbour).stdout == "alive\n"
        # A full disk alone is nobody's breach: this one has written what it may, and that is counted.
        honest = tight.run(
            "open('x', 'wb').write(bytes(96 << 20))\nimport time; time.sleep(2.5)", disk_mb=100, memory_mb=1024
        )
        assert honest.outcome.reason is None, honest
    finally:
        tight.close()
