"""The installed `tpool worker`: real TLS, a real journal, a real sandbox, called through the coordinator's own link."""

import asyncio
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted_pool.compose.system import SystemClock
from trusted_pool.core.job import InputFile
from trusted_pool.core.words import AttemptState, Reason
from trusted_pool.core.worker import Worker
from trusted_pool.link.pinned import PinnedLink
from trusted_pool.ports.link import FencedError, FullError, GoneError, LinkError, NotSentError, Order, RefusedError
from trusted_pool.protocol import frames
from trusted_pool.protocol.identity import identity_of
from trusted_pool.protocol.messages import EndedEvent, Hello, InterruptedEvent, StartedEvent, WorkerMessage

TPOOL = Path(sys.executable).with_name("tpool")


@pytest.fixture(autouse=True)
def bubblewrap() -> None:
    if shutil.which("bwrap") is None:
        if os.environ.get("CI"):
            pytest.fail("bubblewrap is not installed; apt-get install bubblewrap")
        pytest.skip("bubblewrap is not installed")


class Process:
    """A `tpool worker` process."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self.key = home / "keys" / "worker.pem"
        if not self.key.exists():
            made = subprocess.run(
                [TPOOL, "worker", "--generate-key", self.key], capture_output=True, text=True, check=True
            )
            self.worker_id = re.fullmatch(
                rf"✅ Saved worker key to: {re.escape(str(self.key))}\n   Worker ID: (\S+)\n", made.stdout
            )[1]  # type: ignore[index]
            (home / "id").write_text(self.worker_id)
        self.worker_id = (home / "id").read_text()
        self.arguments = ["--worker-key", str(self.key), "--data", str(home / "data"), "--host", "127.0.0.1"]
        self.arguments += ["--allow-weaker-isolation", "--max-concurrent-jobs", "2", "--log-format", "plain", *options]
        self.lines: list[str] = []

    async def start(self) -> str:
        """Start it and return its endpoint."""
        self.process = await asyncio.create_subprocess_exec(
            TPOOL, "worker", "--port", "0", *self.arguments, stderr=asyncio.subprocess.PIPE
        )
        line = await self.said(r"serves (https://\S+)")
        return line[1]

    async def said(self, pattern: str) -> re.Match[str]:
        """Wait for a line of its log."""
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            while raw := await self.process.stderr.readline():
                self.lines.append(raw.decode())
                if found := re.search(pattern, self.lines[-1]):
                    return found
        pytest.fail(f"{pattern} never came: {''.join(self.lines)}")

    async def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            self.lines.append((await self.process.stderr.read()).decode())
            return await self.process.wait()


class Pool:
    """A coordinator's end of the line."""

    def __init__(self, worker_id: str, endpoint: str, key: Ed25519PrivateKey, epoch: int = 1) -> None:
        worker = Worker(worker_id=worker_id, endpoint=endpoint)
        self.link = PinnedLink(worker, key, epoch, SystemClock())

    async def submit(self, job: str, files: dict[str, str], *, attempt: int = 1, **fields: Any) -> Any:
        archive = packed(files)
        file = InputFile(name="project.tar.gz", size=len(archive), sha256=hashlib.sha256(archive).hexdigest())
        manifest = {"entrypoint": "main.py", "interpreter": "python3", **fields}

        async def opened(_: InputFile) -> AsyncIterator[bytes]:
            yield archive

        order = Order(job_id=job, attempt=attempt, manifest=json.dumps(manifest), inputs=(file,))
        return await self.link.submit(order, opened)

    async def until(self, kind: type[Any], journal_id: str = "", after: int = 0) -> tuple[Any, list[WorkerMessage]]:
        """Follow the events until one of this kind comes."""
        seen: list[WorkerMessage] = []
        async with asyncio.timeout(30):
            async for message in self.link.events(journal_id, after):
                seen.append(message)
                if isinstance(message, kind):
                    return message, seen
        raise AssertionError(seen)


def packed(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def play(home: Path, test: Callable[[Process, Pool], Awaitable[None]], *options: str) -> None:
    async def run() -> None:
        process = Process(home, *options)
        endpoint = await process.start()
        pool = Pool(process.worker_id, endpoint, Ed25519PrivateKey.generate())
        try:
            await test(process, pool)
        finally:
            await pool.link.close()
            await process.end(signal.SIGKILL)

    asyncio.run(run())


PROGRAM = """
import os, pathlib, sys
print("hello from", os.environ["TRUSTED_POOL_JOB_ID"], os.environ["TRUSTED_POOL_ATTEMPT"])
print("to stderr", file=sys.stderr)
pathlib.Path("results").mkdir()
pathlib.Path("results/out.txt").write_text("made " + pathlib.Path("data/in.txt").read_text())
"""
SLEEPER = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"


def test_a_python_job_runs_and_its_results_come_back(tmp_path: Path):
    async def test(process: Process, pool: Pool) -> None:
        health = await pool.link.health()
        assert health.worker_id == process.worker_id
        assert health.capacity.slots == 2
        assert "python3" in (health.capacity.interpreters or {})
        answer = await pool.submit("pool-1", {"main.py": PROGRAM, "data/in.txt": "ü"})
        assert re.fullmatch(r"job-[0-9a-f]{16}", answer.job_id)
        report = await pool.link.attempts()
        ended, _ = await pool.until(EndedEvent, report.journal_id, 0)
        assert ended.outcome.reason is None, ended.outcome
        assert ended.files == {"results/out.txt": "made ü".encode()}
        said = dict.fromkeys((frames.STDOUT, frames.STDERR), b"")
        for frame in frames.Decoder().feed(ended.log):
            said[frame.stream] += frame.data
        assert said == {frames.STDOUT: b"hello from pool-1 1\n", frames.STDERR: b"to stderr\n"}
        pieces = [piece async for piece in pool.link.output(answer.job_id, "results/out.txt")]
        assert b"".join(pieces) == "made ü".encode()
        log = [piece async for piece in pool.link.log(answer.job_id, 0, follow=True)]
        assert b"".join(log) == ended.log
        with pytest.raises(GoneError):
            await anext(aiter(pool.link.output(answer.job_id, "results/none")))
        assert (await pool.submit("pool-1", {"main.py": "print()"})).job_id == answer.job_id
        await pool.link.release(answer.job_id)
        await pool.link.release(answer.job_id)  # gone is no error
        assert (await pool.link.attempts()).attempts == []
        assert list((tmp_path / "data" / "sandbox" / "jobs").iterdir()) == []

    play(tmp_path, test)


def test_a_job_is_cancelled_and_a_full_worker_says_so(tmp_path: Path):
    async def test(_process: Process, pool: Pool) -> None:
        first = await pool.submit("pool-1", {"main.py": SLEEPER})
        await pool.submit("pool-2", {"main.py": SLEEPER})
        with pytest.raises(FullError) as caught:
            await pool.submit("pool-3", {"main.py": SLEEPER})
        assert caught.value.retry_after_s == 1.0
        with pytest.raises(RefusedError, match="is running"):
            await pool.link.release(first.job_id)
        async with asyncio.timeout(20):
            async for piece in pool.link.log(first.job_id, 0, follow=True):
                if b"up" in piece:  # live, while it runs
                    break
        await pool.link.cancel(first.job_id)
        report = await pool.link.attempts()
        ended, _ = await pool.until(EndedEvent, report.journal_id, 0)
        assert ended.remote_id == first.job_id
        assert ended.outcome.reason is Reason.CANCELLED
        with pytest.raises(GoneError):
            await pool.link.cancel("job-0000000000000000")

    play(tmp_path, test)


def test_killed_and_restarted_it_interrupts_and_never_runs_again(tmp_path: Path):
    async def test(process: Process, pool: Pool) -> None:
        done = await pool.submit("pool-1", {"main.py": PROGRAM, "data/in.txt": "x"})
        journal_id = (await pool.link.attempts()).journal_id
        await pool.until(EndedEvent, journal_id, 0)
        ran = await pool.submit("pool-2", {"main.py": SLEEPER})
        process.process.kill()
        await process.end(signal.SIGKILL)
        process.process = await asyncio.create_subprocess_exec(
            TPOOL, "worker", "--port", "0", *process.arguments, stderr=asyncio.subprocess.PIPE
        )
        line = await process.said(r"serves (https://\S+)")
        again = Pool(process.worker_id, line[1], pool.link._line._key)
        try:
            report = await again.link.attempts()
            assert report.journal_id == journal_id
            states = {a.remote_id: a.state for a in report.attempts}
            assert states == {done.job_id: AttemptState.ENDED, ran.job_id: AttemptState.INTERRUPTED}
            interrupted, seen = await again.until(InterruptedEvent, journal_id, 0)
            assert interrupted.remote_id == ran.job_id
            assert [type(m) for m in seen] == [Hello, StartedEvent, EndedEvent, StartedEvent, InterruptedEvent]
            assert (await again.submit("pool-2", {"main.py": SLEEPER})).job_id == ran.job_id
            pieces = [piece async for piece in again.link.output(done.job_id, "results/out.txt")]
            assert b"".join(pieces) == b"made x"
            assert (await again.link.health()).active_jobs == 0
        finally:
            await again.link.close()

    play(tmp_path, test)


def test_a_drained_worker_finishes_and_leaves(tmp_path: Path):
    async def test(process: Process, pool: Pool) -> None:
        waiting = "import pathlib, time\nwhile True:\n  time.sleep(0.05)\n  print('.', flush=True)\n"
        answer = await pool.submit("pool-1", {"main.py": waiting}, timeout=2)
        journal_id = (await pool.link.attempts()).journal_id
        process.process.send_signal(signal.SIGTERM)
        await process.said("Draining")
        with pytest.raises(FullError, match="draining"):
            await pool.submit("pool-2", {"main.py": "print(1)"})
        ended, _ = await pool.until(EndedEvent, journal_id, 0)
        assert ended.outcome.reason is Reason.TIMEOUT
        await pool.link.release(answer.job_id)
        async with asyncio.timeout(10):
            assert await process.process.wait() == 0

    play(tmp_path, test)


def test_the_second_signal_ends_what_runs_as_interrupted(tmp_path: Path):
    async def test(process: Process, pool: Pool) -> None:
        answer = await pool.submit("pool-1", {"main.py": SLEEPER})
        journal_id = (await pool.link.attempts()).journal_id
        process.process.send_signal(signal.SIGTERM)
        await process.said("Draining")
        process.process.send_signal(signal.SIGTERM)
        event, _ = await pool.until(InterruptedEvent, journal_id, 0)
        assert event.remote_id == answer.job_id
        assert "operator" in event.words

    play(tmp_path, test)


def test_the_first_pool_is_enrolled_and_another_is_told_what_to_type(tmp_path: Path):
    async def test(process: Process, pool: Pool) -> None:
        await pool.link.health()
        kept = process.key.with_name("worker.pem.pool")
        first = identity_of(pool.link._line._key)
        assert kept.read_text() == first + "\n"
        assert kept.stat().st_mode & 0o777 == 0o600
        key = Ed25519PrivateKey.generate()
        other = Pool(process.worker_id, pool.link.worker.endpoint, key)
        for call in (other.link.health, lambda: other.submit("pool-1", {"main.py": "print(1)"})):
            with pytest.raises(LinkError) as caught:
                await call()
            assert f"tpool worker --pool {identity_of(key)}" in str(caught.value)
            assert f"tpool worker --forget-pool --worker-key {process.key}" in str(caught.value)
        await other.link.close()
        impostor = Pool(identity_of(key), pool.link.worker.endpoint, key)
        with pytest.raises(NotSentError):
            await impostor.link.health()
        await impostor.link.close()
        stale = Pool(process.worker_id, pool.link.worker.endpoint, pool.link._line._key, epoch=0)
        await pool.submit("pool-1", {"main.py": "print(1)"})
        with pytest.raises(FencedError):
            await stale.submit("pool-2", {"main.py": "print(1)"})
        await stale.link.close()

    play(tmp_path, test)


def start(*arguments: str) -> tuple[int, str]:
    done = subprocess.run([TPOOL, *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_every_failure_to_start_is_one_line_that_says_what_to_type(tmp_path: Path):
    async def test(process: Process, pool: Pool) -> None:
        port = pool.link.worker.endpoint.rpartition(":")[2]
        loose, other = tmp_path / "loose.pem", tmp_path / "rsa.pem"
        shutil.copy(process.key, loose)
        loose.chmod(0o644)
        other.write_text("no key")
        other.chmod(0o600)
        key = ("--worker-key", str(process.key), "--host", "127.0.0.1")
        free = (*key, "--port", "0")
        cases = [
            (("worker",), "--worker-key PATH"),
            (("worker", "--worker-key", str(tmp_path / "none")), "--generate-key"),
            (("worker", "--worker-key", str(loose)), "chmod 600"),
            (("worker", "--worker-key", str(other)), "no unencrypted PEM"),
            (("worker", *key, "--port", port, "--data", str(tmp_path / "d2")), "--port"),
            (("worker", *free, "--data", str(tmp_path / "data")), "in use"),
            (("worker", *free, "--data", "/proc/none"), "--data"),
            (("worker", *free, "--pool", "abc"), "no pool id"),
            (("worker", *free, "--label", "x"), "NAME=VALUE"),
            (("worker", *free, "--memory", "much"), "2G"),
            (("worker", "--generate-key", str(process.key)), "never overwritten"),
            (("keygen", str(process.key)), "never overwritten"),
        ]
        for arguments, words in cases:
            code, said = await asyncio.to_thread(start, *arguments)
            assert code in {2, 125}, (arguments, said)
            assert said.count("\n") == 1, said
            assert words in said, said

    play(tmp_path, test)
