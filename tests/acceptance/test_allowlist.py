"""The allowlist as its operator changes it: by `tpool` and by hand; with real processes."""

import contextlib
import json
import os
import pty
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.real_pool import TPOOL, RealPool, run_tpool, until
from support.traces import LASTS, SHORT, tpool
from trusted_pool.protocol.identity import identity_of, to_path

pytestmark = pytest.mark.usefixtures("bwrap")

SMALL = {"memory_mb": 64}
ID = identity_of(Ed25519PrivateKey.generate())


def listed(pool: RealPool) -> set[str]:
    return {w["worker_id"] for w in pool.pool()["workers"]}


def trail(pool: RealPool) -> list[tuple[str, str, str]]:
    """Return what the audit trail says of the allowlist."""
    entries = pool.http.get("/audit").json()["entries"]
    return [(e["actor"], e["action"], e["subject"]) for e in entries if e["action"].startswith("allowlist.")]


def refused(pool: RealPool, *words: str, code: int = 3) -> str:
    """Run a verb of `tpool workers` that is refused, and return its one line."""
    done = run_tpool("workers", *words, "--addr", pool.url)
    assert (done.returncode, done.stdout) == (code, ""), (words, done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.timeout(150)
def test_workers_come_and_go_by_command_and_the_file_stays_its_operators(tmp_path: Path) -> None:
    with RealPool(tmp_path / "pool", (1, 1)) as pool:
        first, second = pool.workers
        text = f'[\n    {{"endpoint": "{first.endpoint}",  "worker_id": "{first.worker_id}"}}\n]\n'
        pool.allowlist.write_text(text)
        pool.allowlist.chmod(0o640)
        until(lambda: listed(pool) == {first.worker_id}, "the change by hand, without a signal", 20.0)

        words = ["add", second.worker_id, second.endpoint, "--slots", "1", "--label", "room=3"]
        done = run_tpool("workers", *words, "--addr", pool.url)
        assert done.returncode == 0, done.stderr
        assert f"{second.worker_id[:12]}… is listed at {second.endpoint}" in done.stdout
        status = pool.wait(pool.submit(SHORT, {**SMALL, "constraints": {"room": "3"}}))
        assert (status["state"], status["worker_id"]) == ("completed", second.worker_id)
        written = pool.allowlist.read_text()
        assert written.startswith(text.rstrip("\n]")), "what stood there stands there as it was"
        assert json.loads(written)[1] == {**second.entry, "labels": {"room": "3"}}
        assert stat.S_IMODE(pool.allowlist.stat().st_mode) == 0o640

        assert "listed already" in refused(pool, *words)
        assert f"tpool workers remove {second.worker_id}" in refused(pool, "add", ID, second.endpoint)
        assert "tpool workers list" in refused(pool, "remove", "nobody", code=125)
        with unwritable(pool.allowlist):
            line = refused(pool, "remove", second.worker_id)
        assert "cannot be changed" in line
        assert "by hand" in line
        assert pool.allowlist.read_text() == written
        assert listed(pool) == {first.worker_id, second.worker_id}

        answer = tpool(pool, "workers", "remove", second.worker_id[:8])["removed"]
        assert (answer["worker_id"], answer["endpoint"]) == (second.worker_id, second.endpoint)
        assert pool.allowlist.read_text() == text
        assert listed(pool) == {first.worker_id}
        done = run_tpool("workers", "reload", "--addr", pool.url)
        assert done.stdout == "1 worker listed; nothing changed\n"
        assert trail(pool) == [
            ("console", "allowlist.reload", ""),
            ("local", "allowlist.add", second.worker_id),
            ("local", "allowlist.remove", second.worker_id),
            ("local", "allowlist.undo", ""),
            ("local", "allowlist.remove", second.worker_id),
            ("local", "allowlist.reload", ""),
        ]
        a_broken_file_changes_nothing(pool)
        assert sorted(p.name for p in pool.home.glob(".workers*")) == []


def a_broken_file_changes_nothing(pool: RealPool) -> None:
    worker, good = pool.workers[0], pool.allowlist.read_text()
    pool.allow(worker.entry, {"worker_id": ID, "endpoint": "https://127.0.0.1:1", "max_concurrent_jobs": "4"})
    broken = pool.allowlist.read_text()
    line = pool.coordinator.said("workers.json: entry 2: max_concurrent_jobs must be")
    assert "the allowlist stays as it was" in line
    line = refused(pool, "add", ID, "https://127.0.0.1:1")
    assert "entry 2: max_concurrent_jobs" in line
    assert "correct workers.json" in line
    for path in (f"/workers/{to_path(worker.worker_id)}/remove", "/workers/reload"):
        answer = pool.http.post(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "allowlist_unusable")
    assert pool.allowlist.read_text() == broken
    assert pool.wait(pool.submit(SHORT, SMALL))["state"] == "completed"
    pool.allowlist.write_text(good)
    pool.coordinator.said("can be read again")
    assert pool.coordinator.log.count("stays as it was") == 1


@contextlib.contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """Let nobody, not even root, change what is in the file's directory."""
    if os.geteuid() != 0:
        path.parent.chmod(0o500)
        yield
        path.parent.chmod(0o700)
        return
    done = subprocess.run(["chattr", "+i", path], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this file system knows no immutable files: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


@pytest.mark.timeout(120)
def test_who_was_taken_off_while_nobody_served_is_lost_and_on_a_terminal_it_is_asked_before(tmp_path: Path) -> None:
    with RealPool(tmp_path, (1, 1)) as pool:
        job_id = pool.submit(LASTS, {**SMALL, "args": ["60", "60"]})
        status = pool.until_state(job_id, "running")
        gone, stays = sorted(pool.workers, key=lambda w: w.worker_id != status["worker_id"])
        pool.coordinator.send(signal.SIGTERM)
        pool.coordinator.wait()
        pool.allow(stays.entry)
        pool.coordinator.start()
        pool.until_up()
        until(lambda: len(pool.status(job_id)["attempts"]) == 2, "another attempt")
        status = pool.until_state(job_id, "running")
        assert [a["worker_id"] for a in status["attempts"]] == [gone.worker_id, stays.worker_id]
        assert trail(pool) == [("console", "allowlist.reload", "")]

        def remove(answer: bytes, *more: str) -> tuple[int, str]:
            theirs, ours = pty.openpty()
            with os.fdopen(theirs, "r+b", buffering=0) as terminal:
                os.write(terminal.fileno(), answer)
                command = [*TPOOL, "workers", "remove", stays.worker_id[:10], "--addr", pool.url, *more]
                done = subprocess.run(command, stdin=ours, capture_output=True, text=True, timeout=60, check=False)
                os.close(ours)
            return done.returncode, done.stdout + done.stderr

        code, said = remove(b"n\n")
        assert code == 130
        assert "1 job at" in said
        assert f"tpool workers drain {stays.worker_id}" in said
        assert "nothing was changed" in said
        assert listed(pool) == {stays.worker_id}
        code, said = remove(b"", "--yes")
        assert code == 0
        assert "Remove it now" not in said
        assert "1 job was running there: 1 goes to another worker" in said
        assert listed(pool) == set()
