"""Workers' sandboxes in processes of their own: one as root, when we are, and one as an ordinary user."""

import asyncio
import concurrent.futures.thread  # noqa: F401 - as below: asyncio imports it late
import contextlib
import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.arena import Arena
from support.arena import arena as open_arena
from trusted_pool.core.job import InputFile, Outcome
from trusted_pool.core.request import Capacity
from trusted_pool.ports.sandbox import Task
from trusted_pool.protocol import frames
from trusted_pool.protocol.manifest import Resolved
from trusted_pool.sandbox import seccomp
from trusted_pool.sandbox.bubblewrap import BubblewrapSandbox

ORDINARY_UID = 64_321
_FORK = multiprocessing.get_context("fork")  # an ordinary user may not be able to read where our Python lives


class Ran(msgspec.Struct):
    """What came of one job. `stdout` holds at most a MiB; `kept` counts all bytes that were passed on."""

    outcome: Outcome
    stdout: str
    marks: list[str]
    kept: int
    seconds: float


async def _serve(conn: Connection, root: Path, options: dict[str, Any]) -> None:
    """Carry out what comes over the connection, several jobs at once; answers carry the number of their question."""
    loop = asyncio.get_running_loop()
    sandbox = BubblewrapSandbox(root, slots=2, **options)
    over = loop.create_future()

    async def job(  # noqa: PLR0917 - what crosses the pipe, in its order
        number: int, source: str, key: str, slot: int, manifest: dict[str, Any], more: dict[str, str]
    ) -> None:
        files = {"main.py": source, **more}
        inputs = tuple(
            InputFile(name=name, size=len(text.encode()), sha256=hashlib.sha256(text.encode()).hexdigest())
            for name, text in files.items()
        )
        said: list[bytes] = []
        marks: list[str] = []
        kept = 0

        async def open_input(given: InputFile) -> AsyncIterator[bytes]:
            yield files[given.name].encode()

        def on_log(stream: int, data: bytes) -> None:
            nonlocal kept
            if stream == frames.MARK:
                marks.append(data.decode())
                return
            kept += len(data)
            if stream == frames.STDOUT and kept <= 2**20:
                said.append(data)

        async def on_start() -> None:
            conn.send(("started", number))

        resolved = msgspec.convert({"entrypoint": "main.py", "interpreter": "python3", **manifest}, Resolved)
        began = loop.time()
        outcome = await sandbox.run(
            Task(key=key, slot=slot, manifest=resolved, inputs=inputs), open_input, on_log, on_start
        )
        stdout = b"".join(said).decode(errors="replace")
        conn.send(("ended", number, Ran(outcome, stdout, marks, kept, loop.time() - began)))

    def listen() -> None:
        try:
            what, *args = conn.recv()
        except EOFError:
            what, args = "end", []
        if what == "job":
            task = loop.create_task(job(*args))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        elif not over.done():
            over.set_result(None)

    tasks: set[asyncio.Task[None]] = set()
    await sandbox.start()
    swept = await sandbox.sweep(frozenset())
    conn.send(("ready", sandbox.capacity(), swept))
    loop.add_reader(conn.fileno(), listen)
    await over
    loop.remove_reader(conn.fileno())
    await sandbox.close()


def _main(conn: Connection, root: Path, uid: int | None, options: dict[str, Any]) -> None:
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    try:
        asyncio.run(_serve(conn, root, options))
    except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
        conn.send(("failed", f"{type(error).__name__}: {error}"))
    os._exit(0)


class Workers:
    """One worker's sandbox in a process of its own."""

    def __init__(self, root: Path, uid: int | None = None, **options: Any) -> None:
        seccomp.compiled()
        self.root = root
        self.uid = uid
        root.mkdir(mode=0o755, exist_ok=True)
        if uid is not None:
            os.chown(root, uid, uid)
        self._conn, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=_main, args=(theirs, root, uid, options), daemon=True)
        self._process.start()
        theirs.close()
        self._numbers = 0
        self._ended: dict[int, Ran] = {}
        self._started: set[int] = set()
        self.words = ""
        self.capacity = Capacity()
        self.swept: list[str] = []
        match self._receive(30):
            case ("ready", capacity, swept):
                self.capacity, self.swept = capacity, swept
            case (_, words):
                self.words = words

    @property
    def level(self) -> int:
        return self.capacity.isolation or 0

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def _receive(self, timeout_s: float) -> Any:
        assert self._conn.poll(timeout_s), "the worker does not answer"
        message = self._conn.recv()
        if message[0] == "ended":
            self._ended[message[1]] = message[2]
        elif message[0] == "started":
            self._started.add(message[1])
        return message

    def begin(self, source: str, slot: int = 0, more: dict[str, str] | None = None, **manifest: Any) -> int:
        """Start a job and return its number once it was started (or has ended)."""
        self._numbers += 1
        number = self._numbers
        self._conn.send(("job", number, source, f"job-{number}", slot, manifest, more or {}))
        while number not in self._started and number not in self._ended:
            self._receive(30)
        return number

    def end(self, number: int, timeout_s: float = 60) -> Ran:
        """Wait for a job's end."""
        while number not in self._ended:
            self._receive(timeout_s)
        return self._ended.pop(number)

    def run(self, source: str, slot: int = 0, more: dict[str, str] | None = None, **manifest: Any) -> Ran:
        return self.end(self.begin(source, slot, more, **manifest))

    def memory_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._process.join(10)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._conn.send(("end",))
        self._process.join(20)
        if self._process.is_alive():
            self.kill()
        self._conn.close()


@pytest.fixture(scope="session")
def _bubblewrap() -> None:
    if shutil.which("bwrap") is None:
        if os.environ.get("CI"):
            pytest.fail("bubblewrap is not installed")
        pytest.skip("bubblewrap is not installed")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that any user can get to (pytest's own are private)."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session", params=["root", "ordinary user"])
def worker(request: pytest.FixtureRequest, _bubblewrap: None) -> Iterator[Workers]:
    """A worker that runs as root (isolation level 3) and one that does not (level 1 unless groups are delegated)."""
    root = os.geteuid() == 0
    if request.param == "root" and not root:
        pytest.skip("needs to be root")
    uid = ORDINARY_UID if request.param == "ordinary user" and root else None
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        found = Workers(Path(name) / "worker", uid, allow_weaker=True)
        assert not found.words, found.words
        yield found
        found.close()


@pytest.fixture(scope="session")
def strong(worker: Workers) -> Workers:
    """Only a worker that limits whole trees."""
    if worker.level < 2:
        if os.environ.get("CI") and os.geteuid() == 0 and worker.uid is None:
            pytest.fail("root cannot limit whole trees here: no control groups, or the probe found them broken")
        pytest.skip("level 1 limits each process and polls")
    return worker


def bare(source: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the same Python with no protection: the control."""
    return subprocess.run(
        ["/usr/bin/python3", "-c", source], capture_output=True, text=True, timeout=20, check=False, **options
    )


@pytest.fixture(scope="session")
def control() -> Any:
    """The function `bare`."""
    return bare


@pytest.fixture(scope="session", params=["root", "ordinary user"])
def arena(request: pytest.FixtureRequest, _bubblewrap: None) -> Iterator[Arena]:
    """A pool whose worker runs as root, and one whose worker is an ordinary user's in groups delegated to it."""
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("needs to be root")
    with open_arena(request.param) as found:
        yield found
