"""A pool of real processes: `tpool coordinator` and `tpool worker`, on free ports of the loopback interface.

Whatever a test does to them, leaving the pool ends every process by its pid and shows that nothing is left of them.
"""

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import psutil

from support.archives import tar_gz

TPOOL = (sys.executable, "-m", "trusted_pool.cli")
PATIENCE_S = 60.0
STOP_S = 20.0
_POLL_S = 0.02
_T = TypeVar("_T")


def until(holds: Callable[[], _T], what: str, within_s: float = PATIENCE_S) -> _T:
    """Return what `holds` returns as soon as that is true; a foreign process tells nobody, so it is asked again.

    Raises:
        AssertionError: it never came to hold; says `what`.
    """
    end = time.monotonic() + within_s
    while not (found := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"within {within_s:g} s it never came: {what}")
        time.sleep(_POLL_S)
    return found


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def run_tpool(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a `tpool` command to its end."""
    command = [*TPOOL, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, **options)


class Daemon:
    """One process in a session of its own, that can be started again; all its output goes to one file."""

    def __init__(self, command: Sequence[str | Path], log: Path, **options: Any) -> None:
        """`options`: for Popen."""
        self.command = [str(word) for word in command]
        self.path = log
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._family: set[psutil.Process] = set()  #: everybody it ever was seen to have started
        self._sessions: set[int] = set()

    @property
    def pid(self) -> int:
        """The process id. Raises AssertionError when it was never started."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """All that it has said."""
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def start(self) -> None:
        """Start it."""
        assert self._process is None or self.code is not None, "it runs already"
        with self.path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self._options,
            )
        self._sessions.add(self._process.pid)

    def send(self, number: int) -> None:
        """Send a signal."""
        self._remember()
        os.kill(self.pid, number)

    def said(self, words: str, within_s: float = PATIENCE_S) -> str:
        """Wait for a line that contains these words and return it."""

        def line() -> str | None:
            running = self.code is None  # asked first: what it said last is in the log by then
            found = next((line for line in self.log.splitlines() if words in line), None)
            assert found or running, f"it ended without saying {words!r}:\n{self.log}"
            return found

        return str(until(line, words, within_s))

    def wait(self, within_s: float = STOP_S) -> int:
        """Wait for its end and return the exit code. Raises AssertionError."""
        assert self._process is not None
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.path.stem} still runs after {within_s:g} s:\n{self.log}") from None

    def stop(self, *numbers: int) -> int | None:
        """End it as an operator does, with these signals in quick succession (one SIGTERM), then with force."""
        if self._process is None:
            return None
        patience_s = [0.2] * (len(numbers) - 1) + [STOP_S]
        for number, seconds in zip(numbers or (signal.SIGTERM,), patience_s or [STOP_S], strict=True):
            if self.code is None:
                self.send(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(seconds)
        self.kill9()
        return self.code

    def kill9(self) -> None:
        """Kill it, as the kernel does when memory runs out."""
        if self._process is not None and self.code is None:
            self.send(signal.SIGKILL)
            self._process.wait(STOP_S)

    def left(self) -> list[psutil.Process]:
        """Return what is alive of it and of all that it started."""
        alive = {p for p in self._family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE}
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(process.pid) in self._sessions and process.status() != psutil.STATUS_ZOMBIE:
                    alive.add(process)
        return sorted(alive, key=lambda p: p.pid)

    def _remember(self) -> None:
        with contextlib.suppress(psutil.Error):
            self._family |= set(psutil.Process(self.pid).children(recursive=True))


class RealWorker(Daemon):
    """A `tpool worker`."""

    def __init__(self, home: Path, name: str, slots: int, *options: str) -> None:
        """`home`: where its key, data and log are."""
        self.key, self.port, self.slots = home / f"{name}.pem", free_port(), slots
        made = run_tpool("keygen", self.key)
        assert made.returncode == 0, made.stderr
        self.worker_id = made.stdout.split()[-1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        command = [*TPOOL, "worker", "--host", "127.0.0.1", "--port", str(self.port), "--worker-key", self.key]
        command += ["--data", home / name, "--max-concurrent-jobs", str(slots), "--log-format", "plain"]
        # The level that it measures is what it advertises; where the machine cannot do more, the pool still works.
        super().__init__([*command, "--allow-weaker-isolation", *options], home / f"{name}.log")

    @property
    def entry(self) -> dict[str, Any]:
        """Its line in workers.json."""
        return {"worker_id": self.worker_id, "endpoint": self.endpoint, "max_concurrent_jobs": self.slots}

    def stop(self, *numbers: int) -> int | None:
        """End it without waiting for its jobs or for who fetches results: that is what a third SIGTERM means."""
        return super().stop(*(numbers or (signal.SIGTERM,) * 3))


class RealPool:
    """A coordinator and its workers. Use as `with`; on entering, all of them are healthy."""

    def __init__(
        self,
        home: Path,
        workers: Sequence[int] = (2, 2),
        *,
        options: Sequence[str] = ("--check-interval", "1s"),
        program: Sequence[str] = (*TPOOL, "coordinator"),
        running: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`workers`: their slots. `options`: more of the coordinator's. `running`: whether workers are started.

        `tls`: what clients trust, where the options make it serve TLS.
        """
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.running = running
        self.workers = [RealWorker(home, f"worker{n}", slots) for n, slots in enumerate(workers, 1)]
        self.allowlist = home / "workers.json"
        self.allow(*(worker.entry for worker in self.workers))
        self.data = home / "coordinator"
        self.port = free_port()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        command = [*program, "--port", str(self.port), "--workers", self.allowlist, "--data", self.data]
        command += [] if "--log-format" in options else ["--log-format", "plain"]
        self.coordinator = Daemon([*command, *options], home / "coordinator.log")
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE_S, trust_env=False, verify=tls or True)

    def allow(self, *entries: object) -> None:
        """Write workers.json anew."""
        self.allowlist.write_text(json.dumps(entries, indent=2))

    def __enter__(self) -> Self:
        try:
            if self.running:
                for worker in self.workers:
                    worker.start()
            self.coordinator.start()
            self.until_up()
            if self.running:
                self.until_healthy(len(self.workers))
        except BaseException:
            sys.stderr.write(self.logs())
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is not None:
            sys.stderr.write(self.logs())
        left = self._end()
        assert left == [], f"processes outlived the pool: {left}"

    def _end(self) -> list[psutil.Process]:
        """End everything; return what would not go, which is then killed."""
        self.http.close()
        daemons = [self.coordinator, *self.workers]
        for daemon in daemons:
            daemon.stop()

        def left() -> list[psutil.Process]:
            return [process for daemon in daemons for process in daemon.left()] + self._named()

        with contextlib.suppress(AssertionError):  # what is dying has a moment for it
            until(lambda: not left(), "an end", 5.0)
        stubborn = left()
        for process in stubborn:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return stubborn

    def _named(self) -> list[psutil.Process]:
        """Return the processes that have our directory on their command line: sandboxes, above all."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and any(f"{self.home}/" in word for word in process.cmdline()):
                    found.append(process)
        return found

    def logs(self) -> str:
        """Return what all processes said last."""
        daemons = [self.coordinator, *self.workers]
        return "".join(f"--- {d.path.name}\n{d.log[-6000:]}\n" for d in daemons)

    def until_up(self) -> None:
        """Wait until the coordinator answers."""

        def answers() -> bool:
            assert self.coordinator.code is None, f"the coordinator ended: {self.coordinator.log}"
            with contextlib.suppress(httpx.TransportError):
                return self.http.get("/health").status_code == 200
            return False

        until(answers, "the coordinator's answer")

    def until_healthy(self, n: int) -> None:
        """Wait until exactly so many workers are healthy."""
        until(lambda: self.pool()["healthy_workers"] == n, f"{n} healthy workers")

    def pool(self) -> dict[str, Any]:
        """GET /pool."""
        return self._json(self.http.get("/pool"))

    def post(self, files: dict[str, bytes] | bytes, manifest: object = None, **options: Any) -> httpx.Response:
        """POST /submit. `files`: an archive, or what to pack into one. `manifest`: JSON as text, or what becomes it."""
        archive = files if isinstance(files, bytes) else tar_gz(files)
        parts: list[tuple[str, Any]] = [("files", ("project.tar.gz", archive))]
        if manifest is not None:
            text = manifest if isinstance(manifest, str | bytes) else json.dumps(manifest)
            parts.append(("manifest", (None, text)))
        return self.http.post("/submit", files=parts, **options)

    def submit(self, files: dict[str, bytes] | bytes, manifest: object = None, **options: Any) -> str:
        """Submit a job that is taken, and return its id."""
        return str(self._json(self.post(files, manifest, **options))["job_id"])

    def status(self, job_id: str, wait_s: float = 0.0) -> dict[str, Any]:
        """GET /status; with `wait_s`, at its next change."""
        return self._json(self.http.get(f"/status/{job_id}", params={"wait": wait_s} if wait_s else {}))

    def until_state(self, job_id: str, *states: str) -> dict[str, Any]:
        """Wait until a job is in one of these states and return its status."""
        end = time.monotonic() + PATIENCE_S
        while (status := self.status(job_id, 0.2))["state"] not in states:  # it may be in one already, for long
            assert status["completed_at"] is None, status
            assert time.monotonic() < end, status
        return status

    def wait(self, job_id: str) -> dict[str, Any]:
        """Wait until a job has ended and return its status."""
        return self.until_state(job_id, "completed", "failed", "cancelled")

    def outputs(self, job_id: str) -> dict[str, bytes]:
        """Return all outputs of a job by path."""
        files = self._json(self.http.get(f"/outputs/{job_id}"))["files"]
        return {file["path"]: self.http.get(f"/outputs/{job_id}/{file['path']}").content for file in files}

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return dict(answer.json())
