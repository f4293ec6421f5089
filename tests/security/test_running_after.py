"""What is done about a job after its end, when its numbers are other jobs' by then."""

import asyncio
import hashlib
import shutil
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from trusted_pool.core.job import InputFile, Outcome
from trusted_pool.core.words import Reason
from trusted_pool.ports.sandbox import Task
from trusted_pool.protocol.manifest import Resolved
from trusted_pool.sandbox.bubblewrap import BubblewrapSandbox
from trusted_pool.sandbox.runner import Run

SHORT = "pass"
LONG = "import time; time.sleep(0.5); print('done')"


class Scene:
    """A sandbox of this process, so that what runs can be held on to."""

    def __init__(self, sandbox: BubblewrapSandbox) -> None:
        self.sandbox = sandbox
        self.said: dict[str, bytes] = {}

    async def run(self, key: str, source: str, slot: int, on_start: Callable[[], Awaitable[None]]) -> Outcome:
        data = source.encode()
        given = InputFile(name="main.py", size=len(data), sha256=hashlib.sha256(data).hexdigest())
        manifest = msgspec.convert({"entrypoint": "main.py", "interpreter": "python3"}, Resolved)

        async def open_input(_: InputFile) -> AsyncIterator[bytes]:
            yield data

        def on_log(_: int, said: bytes) -> None:
            self.said[key] = self.said.get(key, b"") + said

        task = Task(key=key, slot=slot, manifest=manifest, inputs=(given,))
        return await self.sandbox.run(task, open_input, on_log, on_start)

    def held(self, key: str) -> Run:
        """What runs now."""
        run = self.sandbox._running[key][0]._run
        assert run is not None
        return run


@pytest.fixture
def play(_bubblewrap: None) -> Callable[[Callable[[Scene], Awaitable[None]]], None]:
    def runner(scene: Callable[[Scene], Awaitable[None]]) -> None:
        async def whole(root: Path) -> None:
            sandbox = BubblewrapSandbox(root, slots=2, allow_weaker=True)
            await sandbox.start()
            try:
                async with asyncio.timeout(60):
                    await scene(Scene(sandbox))
            finally:
                await sandbox.close()

        place = Path(tempfile.mkdtemp())
        place.chmod(0o755)
        try:
            asyncio.run(whole(place))
        finally:
            shutil.rmtree(place)

    return runner


def test_an_ended_job_kills_nobody(play: Callable[[Callable[[Scene], Awaitable[None]]], None]):
    async def scene(stage: Scene) -> None:
        kept: list[Run] = []

        async def keep() -> None:
            kept.append(stage.held("first"))

        async def go() -> None:
            return

        assert (await stage.run("first", SHORT, 0, keep)).exit_code == 0
        second = asyncio.ensure_future(stage.run("second", LONG, 1, go))
        while not second.done():
            kept[0].program.kill()
            kept[0].program.terminate()
            kept[0].watch.end_for(Reason.DISK_LIMIT)
            await asyncio.sleep(0.01)
        assert (second.result().reason, second.result().exit_code) == (None, 0), second.result()
        assert stage.said["second"] == b"done\n"

    play(scene)


def test_what_a_job_left_is_not_walked_through_in_the_event_loop(
    play: Callable[[Callable[[Scene], Awaitable[None]]], None],
):
    listed: list[str] = []
    looking = [True]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if looking[0] and event == "os.listdir" and isinstance(arguments[0], int):
            listed.append(threading.current_thread().name)

    sys.addaudithook(hook)  # for good: it only looks while this test runs

    async def scene(stage: Scene) -> None:
        async def go() -> None:
            listed.clear()

        await stage.run("many", "import os\nfor n in range(50): os.mkdir(str(n))", 0, go)
        assert len(listed) >= 51
        assert threading.main_thread().name not in listed

    try:
        play(scene)
    finally:
        looking[0] = False
