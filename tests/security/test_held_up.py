"""What must die dies also when what should take it along is held up: here by a freezer, on a busy machine by others."""

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from support.real_pool import until
from trusted_pool.core.job import InputFile
from trusted_pool.core.words import Reason
from trusted_pool.ports.sandbox import Task
from trusted_pool.protocol.manifest import Resolved
from trusted_pool.sandbox import proc
from trusted_pool.sandbox.bubblewrap import BubblewrapSandbox

FREEZER = Path("/sys/fs/cgroup/freezer")
FAMILY = "import os, time\nfor _ in range(4):\n    if os.fork() == 0: break\nprint('up', flush=True)\ntime.sleep(60)"


class Freezer:
    """Holds processes and single threads: not even a signal that kills gets through before they are let go."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def hold(self, tid: int) -> None:
        (self._place / "tasks").write_text(str(tid))
        (self._place / "freezer.state").write_text("FROZEN")
        until(lambda: (self._place / "freezer.state").read_text() == "FROZEN\n", "ice")

    def let_go(self) -> None:
        (self._place / "freezer.state").write_text("THAWED")
        until(lambda: not (self._place / "tasks").read_text(), "the end of what was held", 20)


@pytest.fixture
def freezer() -> Iterator[Freezer]:
    if os.geteuid() != 0:
        pytest.skip("needs to be root")
    if not (FREEZER / "tasks").exists():
        pytest.skip("this machine has no freezer of version 1; that of version 2 lets signals through")
    place = FREEZER / f"held-up-{os.getpid()}"
    place.mkdir()
    one = Freezer(place)
    yield one
    one.let_go()
    until(lambda: _removed(place), "its removal")


def _removed(place: Path) -> bool:
    with contextlib.suppress(OSError):
        place.rmdir()
    return not place.exists()


def dead(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


@pytest.mark.usefixtures("_bubblewrap")
def test_each_process_is_killed_though_the_first_one_does_not_get_to_it(freezer: Freezer):
    async def whole(root: Path) -> None:
        sandbox = BubblewrapSandbox(root, slots=1, allow_weaker=True)
        await sandbox.start()
        data = FAMILY.encode()
        given = InputFile(name="main.py", size=len(data), sha256=hashlib.sha256(data).hexdigest())
        manifest = msgspec.convert({"entrypoint": "main.py", "interpreter": "python3"}, Resolved)
        said: list[bytes] = []

        async def open_input(_: InputFile) -> AsyncIterator[bytes]:
            yield data

        async def on_start() -> None:
            return

        task = Task(key="held", slot=0, manifest=manifest, inputs=(given,))
        running = asyncio.ensure_future(sandbox.run(task, open_input, lambda _, piece: said.append(piece), on_start))
        async with asyncio.timeout(60):
            await asyncio.to_thread(until, lambda: b"".join(said).count(b"up") == 5, "a family")
            run = sandbox._running["held"][0]._run
            assert run is not None
            init = run.program.init
            assert init is not None
            family = [pid for pid in proc.tree(init) if pid != init]
            assert len(family) == 5
            freezer.hold(init)
            run.watch.end_for(Reason.TIMEOUT)
            await asyncio.to_thread(until, lambda: all(dead(pid) for pid in family), "the end of the family", 20)
            assert not running.done()
            freezer.let_go()
            assert (await running).reason is Reason.TIMEOUT
        await sandbox.close()

    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        asyncio.run(whole(Path(place) / "w"))


def test_a_worker_that_cannot_end_takes_its_jobs_with_it(freezer: Freezer, worker: Any, place: Path):
    """A thread of a killed worker may have to wait long for its end, and the kernel tells of none before."""
    own = type(worker)(place / "w", worker.uid, allow_weaker=True)
    own.begin(FAMILY)
    process = psutil.Process(own.pid)

    def sandbox() -> list[psutil.Process]:
        return [p for p in process.children(recursive=True) if "/job/main.py" in p.cmdline()]

    until(lambda: len(sandbox()) == 7, "a family of five, the init and bubblewrap")
    family = [p.pid for p in sandbox()]
    thread = next(
        int(task.name)
        for task in Path(f"/proc/{own.pid}/task").iterdir()
        if int(task.name) != own.pid and any(_parent_of(pid, int(task.name)) for pid in family)
    )
    freezer.hold(thread)
    process.kill()
    until(lambda: all(dead(pid) for pid in family), "the end of its jobs", 20)
    assert Path(f"/proc/{own.pid}/task/{thread}").exists(), "it was not held up"
    freezer.let_go()


def _parent_of(pid: int, tid: int) -> bool:
    """Whether this thread started the process."""
    return pid in map(int, Path(f"/proc/{tid}/task/{tid}/children").read_text().split())
