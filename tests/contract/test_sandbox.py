"""The contract of `ports.sandbox`, over bubblewrap and over the fake."""

import asyncio
import contextlib
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from trusted_pool.core.job import InputFile, Outcome
from trusted_pool.core.words import Reason
from trusted_pool.ports.sandbox import OutputMissingError, Sandbox, Task
from trusted_pool.protocol import frames
from trusted_pool.protocol.manifest import Resolved
from trusted_pool.sandbox.bubblewrap import BubblewrapSandbox
from trusted_pool.sandbox.fake import Disk, FakeSandbox, Play

Player = Callable[[Callable[["Stage"], Awaitable[None]]], None]
#: What programs do, for both: as Python for the real one, as a play for the fake.
PROGRAMS: dict[str, tuple[str, Play]] = {
    "nothing": ("pass", Play()),
    "hello": (
        (
            "import sys, os\nprint('hello')\nsys.stderr.write('oops\\n')\nos.mkdir('results')\n"
            "open('results/a.bin', 'wb').write(bytes(range(256)))\nopen('empty', 'w').close()"
        ),
        Play(
            says=((0, frames.STDOUT, b"hello\n"), (0, frames.STDERR, b"oops\n")),
            files={"results/a.bin": bytes(range(256)), "empty": b""},
        ),
    ),
    "three": ("open('kept', 'w').write('x'); raise SystemExit(3)", Play(exit_code=3, files={"kept": b"x"})),
    "waits": (
        "import time\nprint('ready', flush=True)\ntime.sleep(60)",
        Play(duration_s=60, says=((0, frames.STDOUT, b"ready\n"),)),
    ),
    "deaf": (
        "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(60)",
        Play(duration_s=60, says=((0, frames.STDOUT, b"ready\n"),), ignores_sigterm=True),
    ),
}


class Stage:
    """A sandbox under test, and what it said."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        self.path = path
        self.disk: Disk = {}
        self.log: list[tuple[int, bytes]] = []
        self.starts = 0
        self.spoke = asyncio.Event()
        self.sandbox = self.make()

    def make(self) -> Sandbox:
        if self.kind == "fake":
            plays = {source.encode(): play for source, play in PROGRAMS.values()}

            def script(_: Task, inputs: Mapping[str, bytes]) -> Play:
                return plays[inputs["main.py"]]

            return FakeSandbox(script, disk=self.disk)
        return BubblewrapSandbox(self.path, slots=2, allow_weaker=True)

    def task(self, name: str, key: str = "job-1", slot: int = 0, **manifest: object) -> Task:
        data = PROGRAMS[name][0].encode()
        given = InputFile(name="main.py", size=len(data), sha256=hashlib.sha256(data).hexdigest())
        resolved = msgspec.convert({"entrypoint": "main.py", "interpreter": "python3", **manifest}, Resolved)
        return Task(key=key, slot=slot, manifest=resolved, inputs=(given,))

    async def open_input(self, given: InputFile) -> AsyncIterator[bytes]:
        for source, _ in PROGRAMS.values():
            if hashlib.sha256(source.encode()).hexdigest() == given.sha256:
                yield source.encode()

    def on_log(self, stream: int, data: bytes) -> None:
        self.log.append((stream, data))
        self.spoke.set()

    async def on_start(self) -> None:
        assert self.starts or not self.log  # nothing is said before the first start
        self.starts += 1

    def text(self, stream: int) -> bytes:
        return b"".join(data for one, data in self.log if one == stream)

    async def run(self, name: str, **fields: object) -> Outcome:
        return await self.sandbox.run(self.task(name, **fields), self.open_input, self.on_log, self.on_start)

    async def read(self, key: str, path: str) -> bytes:
        return b"".join([piece async for piece in self.sandbox.output(key, path)])

    async def running(self, name: str, **fields: object) -> "asyncio.Task[Outcome]":
        """Start a program and wait until it said something."""
        task = asyncio.ensure_future(self.run(name, **fields))
        speaking = asyncio.ensure_future(self.spoke.wait())
        await asyncio.wait({task, speaking}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert self.spoke.is_set(), task
        return task


@pytest.fixture(params=["fake", "bubblewrap"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Player:
    """Run a scene on a started sandbox, and close it."""
    if request.param == "bubblewrap" and shutil.which("bwrap") is None:
        if os.environ.get("CI"):
            pytest.fail("bubblewrap is not installed")
        pytest.skip("bubblewrap is not installed")

    def runner(scene: Callable[[Stage], Awaitable[None]]) -> None:
        async def whole() -> None:
            stage = Stage(request.param, tmp_path / "sandbox")
            await stage.sandbox.start()
            try:
                async with asyncio.timeout(60):
                    await scene(stage)
            finally:
                await stage.sandbox.close()

        asyncio.run(whole())

    return runner


def test_a_program_runs_and_its_outputs_are_read_until_they_are_discarded(play: Player):
    async def scene(stage: Stage) -> None:
        outcome = await stage.run("hello")
        assert (outcome.reason, outcome.exit_code) == (None, 0)
        assert stage.starts == 1
        assert (stage.text(frames.STDOUT), stage.text(frames.STDERR)) == (b"hello\n", b"oops\n")
        assert outcome.interpreter_version
        assert outcome.usage.cpu_seconds > 0
        assert outcome.usage.memory_peak_bytes > 0
        assert [file.path for file in outcome.outputs] == ["empty", "results/a.bin"]
        for file in outcome.outputs:
            data = await stage.read("job-1", file.path)
            assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size, file.sha256)
        await stage.sandbox.discard("job-1")
        await stage.sandbox.discard("job-1")
        with pytest.raises(OutputMissingError):
            await stage.read("job-1", "empty")

    play(scene)


def test_another_exit_code_is_the_reason_and_keeps_outputs(play: Player):
    async def scene(stage: Stage) -> None:
        outcome = await stage.run("three")
        assert (outcome.reason, outcome.exit_code) == (Reason.EXIT_CODE, 3)
        assert await stage.read("job-1", "kept") == b"x"

    play(scene)


def test_what_is_no_output_is_missing(play: Player):
    async def scene(stage: Stage) -> None:
        await stage.run("nothing")
        for key, path in (("job-1", "none"), ("job-1", "../main.py"), ("nobody", "x"), ("../x", "x")):
            with pytest.raises(OutputMissingError):
                await stage.read(key, path)

    play(scene)


def test_the_timeout_ends_a_program(play: Player):
    async def scene(stage: Stage) -> None:
        outcome = await stage.run("waits", timeout_s=0.3)
        assert (outcome.reason, outcome.limit, outcome.exit_code) == (Reason.TIMEOUT, "timeout", None)
        assert outcome.usage.wall_time_ms >= 290

    play(scene)


@pytest.mark.parametrize("name", ["waits", "deaf"])
def test_stop_ends_a_program_that_listens_and_one_that_does_not(play: Player, name: str):
    async def scene(stage: Stage) -> None:
        task = await stage.running(name)
        loop = asyncio.get_running_loop()
        asked = loop.time()
        grace = 30.0 if name == "waits" else 0.3
        await stage.sandbox.stop("job-1", grace)
        outcome = await task
        assert outcome.reason is Reason.CANCELLED
        taken = loop.time() - asked
        assert taken < 10 if name == "waits" else 0.29 < taken < 10

    play(scene)


def test_stop_of_what_does_not_run_is_nothing(play: Player):
    async def scene(stage: Stage) -> None:
        await stage.sandbox.stop("nobody", 1.0)
        await stage.run("nothing")
        await stage.sandbox.stop("job-1", 1.0)

    play(scene)


def test_what_is_stopped_before_its_start_is_never_started(play: Player):
    async def scene(stage: Stage) -> None:
        asked = asyncio.Event()

        async def never(_: InputFile) -> AsyncIterator[bytes]:
            asked.set()
            await asyncio.Event().wait()
            yield b""

        task = asyncio.ensure_future(stage.sandbox.run(stage.task("hello"), never, stage.on_log, stage.on_start))
        await asyncio.wait_for(asked.wait(), 10)
        await stage.sandbox.stop("job-1", 30.0)
        outcome = await asyncio.wait_for(task, 10)
        assert outcome.reason is Reason.CANCELLED
        assert (stage.starts, stage.log) == (0, [])

    play(scene)


def test_a_cancelled_run_raises_and_its_slot_is_free(play: Player):
    async def scene(stage: Stage) -> None:
        task = await stage.running("deaf")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stage.log.clear()
        assert (await stage.run("hello", key="job-2")).reason is None

    play(scene)


def test_inputs_or_a_start_that_fail_are_an_outcome(play: Player):
    async def scene(stage: Stage) -> None:
        async def broken(_: InputFile) -> AsyncIterator[bytes]:
            yield b"x"
            raise OSError("the disk is on fire")

        async def refused() -> None:
            raise RuntimeError("the journal is closed")

        outcome = await stage.sandbox.run(stage.task("hello"), broken, stage.on_log, stage.on_start)
        assert outcome.reason is Reason.SANDBOX_FAILED
        assert "on fire" in outcome.detail
        outcome = await stage.sandbox.run(stage.task("hello"), stage.open_input, stage.on_log, refused)
        assert outcome.reason is Reason.SANDBOX_FAILED
        assert "journal" in outcome.detail
        assert stage.log == []

    play(scene)


def test_two_slots_run_at_once_and_one_slot_does_not(play: Player):
    async def scene(stage: Stage) -> None:
        first = await stage.running("waits")
        assert (await stage.run("waits", key="job-2", slot=0)).reason is Reason.SANDBOX_FAILED
        stage.log.clear()
        assert (await stage.run("hello", key="job-3", slot=1)).reason is None
        assert not first.done()
        await stage.sandbox.stop("job-1", 5.0)
        await first

    play(scene)


def test_sweep_keeps_what_is_kept(play: Player):
    async def scene(stage: Stage) -> None:
        for key in ("keep", "drop"):
            stage.log.clear()
            await stage.run("three", key=key)
        await stage.sandbox.close()
        stage.sandbox = stage.make()
        await stage.sandbox.start()
        assert await stage.sandbox.sweep(frozenset({"keep"})) == ["drop"]
        assert await stage.read("keep", "kept") == b"x"
        with pytest.raises(OutputMissingError):
            await stage.read("drop", "kept")

    play(scene)


def test_close_ends_what_runs(play: Player):
    async def scene(stage: Stage) -> None:
        task = await stage.running("deaf")
        await stage.sandbox.close()
        await stage.sandbox.close()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        assert task.done()

    play(scene)


def test_capacity_says_what_there_is(play: Player):
    async def scene(stage: Stage) -> None:
        capacity = stage.sandbox.capacity()
        assert capacity.slots == 2
        assert "python3" in (capacity.interpreters or {})
        assert min(capacity.memory_mb or 0, capacity.cpus or 0, capacity.disk_mb or 0, capacity.isolation or 0) > 0

    play(scene)
