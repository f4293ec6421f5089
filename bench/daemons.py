"""Starting and ending the processes that are measured."""

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

TPOOL = [sys.executable, "-m", "trusted_pool.cli"]
HERE = Path(__file__).parent


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def archive(source: str = "pass\n", pad_to: int = 0) -> bytes:
    """Return a .tar.gz with one main.py, filled up with incompressible bytes to about `pad_to`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        files = {"main.py": source.encode()}
        if pad_to:
            files["data.bin"] = os.urandom(max(0, pad_to - 250))
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def get(port: int, path: str) -> dict[str, object]:
    """GET a JSON answer."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return dict(json.load(answer))


def wait_for(condition: object, seconds: float = 30.0) -> None:
    """Wait until a callable is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if condition():  # type: ignore[operator]
                return
        time.sleep(0.05)
    raise TimeoutError("what was waited for did not come")


@contextlib.contextmanager
def process(*argv: str, log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program; end it on leaving."""
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(log.open("ab")) if log else subprocess.DEVNULL
        child = subprocess.Popen(argv, stdout=sink, stderr=sink, start_new_session=True)
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


class Pool:
    """A coordinator with workers, on free ports, in a directory that goes away."""

    def __init__(self, slots: list[int], *, running: bool = True, options: Sequence[str] = ()) -> None:
        self.slots = slots
        self.options = options
        self.running = running

    def __enter__(self) -> Self:
        self.stack = contextlib.ExitStack()
        self.root = Path(tempfile.mkdtemp(prefix="tpool-bench-"))
        self.stack.callback(shutil.rmtree, self.root, ignore_errors=True)
        self.port = free_port()
        entries = []
        for number, slots in enumerate(self.slots):
            key, port = self.root / f"w{number}.pem", free_port()
            said = subprocess.run([*TPOOL, "keygen", str(key)], check=True, capture_output=True, text=True).stdout
            worker_id = said.strip().rsplit(" ", 1)[1]
            entries.append({"worker_id": worker_id, "endpoint": f"http://127.0.0.1:{port}"})
            if self.running:
                argv = [*TPOOL, "worker", "--port", str(port), "--host", "127.0.0.1", "--worker-key", str(key)]
                argv += ["--data", str(self.root / f"worker{number}"), "--max-concurrent-jobs", str(slots)]
                if os.geteuid() != 0:
                    argv.append("--allow-weaker-isolation")
                self.stack.enter_context(process(*argv, log=self.root / f"worker{number}.log"))
        (self.root / "workers.json").write_text(json.dumps(entries))
        argv = [*TPOOL, "coordinator", "--port", str(self.port), "--workers", str(self.root / "workers.json")]
        argv += ["--data", str(self.root / "coordinator"), "--check-interval", "1s", "--log-format", "plain"]
        argv += self.options
        self.stack.enter_context(process(*argv, log=self.root / "coordinator.log"))
        try:
            healthy = len(self.slots) if self.running else 0
            wait_for(lambda: get(self.port, "/pool")["healthy_workers"] == healthy)
        except BaseException:
            for log in self.root.glob("*.log"):
                sys.stderr.write(f"--- {log.name}\n{log.read_text()[-3000:]}\n")
            self.stack.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stack.close()
