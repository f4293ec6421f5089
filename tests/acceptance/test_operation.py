"""What operators live through: a full disk, a damaged database, a directory that cannot be written, a SIGTERM."""

import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.archives import tar_gz
from support.real_pool import RealPool, free_port, run_tpool, until

LEAVES_S = 10.0
FOLLOWERS = 50
SMALL = tar_gz({"main.py": b"print('small')\n"})
LARGE = tar_gz({"main.py": b"print('large')\n", "pad": os.urandom(300_000)})
PAGE = 4096


@contextmanager
def mounted(directory: Path, *arguments: str) -> Iterator[None]:
    """Mount something on a directory, which is made. Root only."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    directory.mkdir(parents=True, exist_ok=True)
    may = subprocess.run(["mount", *arguments, str(directory)], capture_output=True, text=True, check=False)
    if may.returncode != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"cannot mount: {may.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def fill(ballast: Path) -> None:
    """Write until nothing more fits."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, PAGE):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def staged(pool: RealPool) -> list[Path]:
    return list((pool.data / "blobs" / "staging").iterdir())


def error_of(answer: httpx.Response) -> dict[str, Any]:
    return dict(answer.json()["error"])


WRITES_LATE = b"""
import os, time
print("started", flush=True)
time.sleep(4)
with open("big", "wb") as file:
    file.write(os.urandom(200_000))
"""


def test_a_full_disk_refuses_jobs_whole_and_loses_no_result(tmp_path: Path, bwrap: str):
    assert bwrap
    with (
        mounted(tmp_path / "coordinator", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs"),
        RealPool(tmp_path, (2,)) as pool,
    ):
        running = [pool.submit({"main.py": WRITES_LATE}) for _ in range(2)]
        waiting = pool.submit(LARGE)
        for job_id in running:
            pool.until_state(job_id, "running")
        ballast = pool.data / "ballast"
        fill(ballast)

        kept = {*running, waiting}

        def refused() -> bool:
            """The log of the database may have a little room left; whatever is acknowledged meanwhile counts."""
            answer = pool.post(SMALL)
            if answer.status_code == 200:
                kept.add(answer.json()["job_id"])
                return False
            assert answer.status_code == 507, answer.text
            assert error_of(answer)["code"] == "storage_full"
            assert error_of(answer)["retryable"] is True
            return True

        until(refused, "a full disk")
        large = pool.post(LARGE.replace(b"\0", b"\1"))
        assert large.status_code == 507, large.text
        assert staged(pool) == []
        assert pool.http.get("/health").status_code == 200
        assert pool.http.get(f"/logs/{running[0]}").json()["stdout"] == "started\n"  # reads go on
        until(lambda: _waits(pool), "a result that waits for room")
        assert {pool.status(job_id)["state"] for job_id in running} <= {"dispatched", "running"}
        assert pool.pool()["total_jobs"] == len(kept)

        pid = pool.coordinator.pid
        ballast.unlink()
        for job_id in kept:
            assert pool.wait(job_id)["state"] == "completed"
        for job_id in running:
            assert len(pool.outputs(job_id)["big"]) == 200_000
        assert pool.wait(pool.submit(LARGE))["state"] == "completed"
        assert pool.coordinator.pid == pid
        assert "Traceback" not in pool.coordinator.log
        pool.coordinator.kill9()  # what a full disk did to the database would show now
        pool.coordinator.start()
        pool.until_up()
        assert {pool.status(job_id)["state"] for job_id in kept} == {"completed"}
        assert _sound(pool.data / "coordinator.db")


def _waits(pool: RealPool) -> bool:
    return any(words in pool.coordinator.log for words in ("cannot be copied yet", "waits for the store"))


def _sound(database: Path) -> bool:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return list(connection.execute("PRAGMA integrity_check")) == [("ok",)]


def test_a_directory_that_cannot_be_written_any_more_is_said_and_got_over(tmp_path: Path):
    """New files are refused; the database, which is open, goes on."""
    with RealPool(tmp_path, (1,), running=False) as pool:
        before = pool.submit(LARGE)
        blobs = pool.data / "blobs"
        with mounted(blobs, "--bind", str(blobs)):
            subprocess.run(["mount", "-o", "remount,ro,bind", str(blobs)], check=True)
            answer = pool.post(LARGE.replace(b"\0", b"\1"))
            assert answer.status_code == 503, answer.text
            assert error_of(answer)["retryable"] is True
            small = pool.submit(SMALL)
            assert pool.pool()["total_jobs"] == 2
        assert staged(pool) == []
        after = pool.submit(LARGE)
        assert {pool.status(job_id)["state"] for job_id in (before, small, after)} == {"queued"}
        assert pool.pool()["total_jobs"] == 3
        assert "Traceback" not in pool.coordinator.log


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The database of a coordinator that has had some hundred jobs."""
    with RealPool(tmp_path_factory.mktemp("some"), (1,), running=False) as pool:
        for _ in range(300):
            assert pool.post(SMALL).status_code == 200
        pool.coordinator.stop()
        return (pool.data / "coordinator.db").read_bytes()


def garbage_in_the_middle(data: bytes) -> bytes:
    begin = len(data) // 2 // PAGE * PAGE
    return data[:begin] + bytes(range(256)) * (PAGE // 256) + data[begin + PAGE :]


def root_page_gone(data: bytes) -> bytes:
    return data[:PAGE] + bytes(PAGE) + data[2 * PAGE :]


DAMAGE = {
    "truncated": lambda data: data[: len(data) // 2],
    "cut in its header": lambda data: data[:50],
    "not a database": lambda _data: b"# notes\n" * 2000,
    "a page gone": root_page_gone,
    "garbage in the middle": garbage_in_the_middle,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_database_is_reported_and_never_touched(tmp_path: Path, database: bytes, kind: str):
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    damaged = DAMAGE[kind](database)
    (data / "coordinator.db").write_bytes(damaged)
    (tmp_path / "workers.json").write_text("[]")
    said = run_tpool(
        "coordinator", "--port", str(free_port()), "--workers", tmp_path / "workers.json", "--data", data
    )  # fmt: skip
    assert said.returncode == 125, said
    (line,) = said.stderr.splitlines()
    assert "damaged" in line
    assert "put back a backup" in line
    assert (data / "coordinator.db").read_bytes() == damaged
    assert sorted(p.name for p in data.iterdir() if p.name.startswith("coordinator.db-")) == []


class Upload:
    """A submit whose body comes in two halves."""

    def __init__(self, pool: RealPool) -> None:
        body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="p.tar.gz"\r\n\r\n'
        body += tar_gz({"main.py": b"print(1)\n", "pad": os.urandom(1_000_000)}) + b"\r\n--x--\r\n"
        head = f"POST /submit HTTP/1.1\r\nHost: 127.0.0.1:{pool.port}\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        self.half = body[len(body) // 2 :]
        self.socket = socket.create_connection(("127.0.0.1", pool.port), timeout=30)
        self.socket.sendall(head.encode() + body[: len(body) // 2])

    def finish(self) -> bytes:
        """Send the rest and return the whole answer."""
        self.socket.sendall(self.half)
        answer = b""
        while piece := self.socket.recv(65536):
            answer += piece
        return answer


def test_sigterm_among_fifty_followers_finishes_an_upload_and_leaves_soon(tmp_path: Path, bwrap: str):
    assert bwrap
    with RealPool(tmp_path, (1,)) as pool, ExitStack() as stack:
        job = pool.submit({"main.py": b"import time\nprint('here', flush=True)\ntime.sleep(600)\n"})
        pool.until_state(job, "running")
        followers = [_follow(pool, job, stack) for _ in range(FOLLOWERS)]
        upload = Upload(pool)
        stack.enter_context(closing(upload.socket))
        until(lambda: staged(pool) != [], "the first half on disk")
        began = time.monotonic()
        pool.coordinator.send(signal.SIGTERM)
        pool.coordinator.said("Stopping")
        answer = upload.finish()
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert pool.coordinator.wait(LEAVES_S) == 0
        left_s = time.monotonic() - began
        assert left_s < LEAVES_S
        for follower in followers:
            assert follower.recv(1 << 20) is not None
        assert "Traceback" not in pool.coordinator.log
        pool.coordinator.start()
        pool.until_up()
        pool.until_state(job, "running")  # the worker went on with it
        assert pool.pool()["total_jobs"] == 2
        assert staged(pool) == []
        print(f"left after {left_s:.2f} s")  # noqa: T201 - pytest -s shows it


def _follow(pool: RealPool, job: str, stack: ExitStack) -> socket.socket:
    """Begin to follow a job's log; its first line has come."""
    follower = stack.enter_context(closing(socket.create_connection(("127.0.0.1", pool.port), timeout=30)))
    follower.sendall(f"GET /logs/{job}?follow=1 HTTP/1.1\r\nHost: 127.0.0.1:{pool.port}\r\n\r\n".encode())
    seen = b""
    while b"here" not in seen:
        piece = follower.recv(65536)
        assert piece, seen
        seen += piece
    return follower
