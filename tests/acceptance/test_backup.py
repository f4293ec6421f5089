"""Backup of a coordinator that is busy, restore elsewhere, and what a backup that is not whole gets."""

import hashlib
import json
import shutil
import signal
import tarfile
import threading
from pathlib import Path
from typing import Self

import httpx
import pytest

from support.real_pool import RealPool, free_port, run_tpool, until

#: Prints its name and leaves a file of which every fifth is too large for the database.
PROGRAM = b"""
import hashlib, os, sys
name = sys.argv[1]
os.mkdir("out")
with open("out/it", "wb") as file:
    file.write(hashlib.sha256(name.encode()).digest() * (4000 if name.endswith(("0", "5")) else 1))
"""
WAITING = b"import time, pathlib\ntime.sleep(float(pathlib.Path('s').read_text()))\nprint('done')\n"


def expected(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest() * (4000 if name.endswith(("0", "5")) else 1)


class Load:
    """Threads that submit until they are told to stop; what was acknowledged, by job id."""

    def __init__(self, pool: RealPool) -> None:
        self.acknowledged: dict[str, str] = {}
        self._pool = pool
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(3)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _work(self, number: int) -> None:
        with httpx.Client(base_url=self._pool.url, timeout=60, trust_env=False) as http:
            for count in range(10_000):
                if self._stop.is_set():
                    return
                name = f"t{number}-{count}"
                # A few inputs are too large for the database, too.
                files = [("files", ("main.py", PROGRAM))]
                if count % 7 == 0:
                    files.append(("files", ("pad", name.encode() * 20_000)))
                manifest = json.dumps({"args": [name], "memory_mb": 64})
                answer = http.post("/submit", files=[*files, ("manifest", (None, manifest))])
                assert answer.status_code == 200, answer.text
                self.acknowledged[answer.json()["job_id"]] = name


def move(pool: RealPool, data: Path) -> None:
    """Have the pool's coordinator start on another data directory."""
    command = pool.coordinator.command
    command[command.index("--data") + 1] = str(data)
    pool.coordinator.start()
    pool.until_up()


@pytest.mark.parametrize("name", ["backup.tar", "backup"])
def test_a_busy_coordinator_is_saved_and_put_back(tmp_path: Path, bwrap: str, name: str):
    assert bwrap
    target, data = tmp_path / name, tmp_path / "restored"
    with RealPool(tmp_path / "pool", (2,)) as pool:
        with Load(pool) as load:
            until(lambda: len(load.acknowledged) >= 30 and pool.pool()["jobs"]["completed"] >= 8, "some jobs")
            before = dict(load.acknowledged)
            saved = run_tpool("backup", target, "--data", pool.data)
            assert saved.returncode == 0, saved.stderr
            assert len(load.acknowledged) > len(before), "nothing was submitted meanwhile: that was no load"
        assert saved.stdout.startswith("Saved ")
        assert "private key" in saved.stderr
        assert target.stat().st_mode & 0o077 == 0
        pool.coordinator.stop()
        put_back = run_tpool("restore", target, "--data", data)
        assert put_back.returncode == 0, put_back.stderr
        assert put_back.stdout.startswith("Restored ")
        assert (data / "pool.pem").stat().st_mode & 0o777 == 0o600
        shutil.rmtree(pool.data)  # nothing of the old one is looked at
        move(pool, data)
        known = {job_id: pool.http.get(f"/status/{job_id}").status_code for job_id in before}
        assert set(known.values()) == {200}
        for job_id in before:  # what had not ended runs now
            assert pool.wait(job_id)["state"] == "completed"
        assert {j: pool.outputs(j) for j in before} == {j: {"out/it": expected(n)} for j, n in before.items()}


def test_what_ran_is_reconciled_after_a_restore(tmp_path: Path, bwrap: str):
    assert bwrap
    target, data = tmp_path / "b.tar", tmp_path / "restored"
    pool, port = RealPool(tmp_path / "pool", (4,)), free_port()
    pool.workers[0].command += ["--metrics-port", str(port)]
    with pool:
        goes_on = pool.submit({"main.py": WAITING, "s": b"20"})
        ended = pool.submit({"main.py": WAITING, "s": b"4"})
        for job_id in (goes_on, ended):
            pool.until_state(job_id, "running")
        (worker,) = pool.workers
        worker.send(signal.SIGSTOP)  # it tells of no end until the backup is made
        assert pool.http.post("/pause").status_code == 200
        waited = pool.submit({"main.py": WAITING, "s": b"15"})
        assert run_tpool("backup", target, "--data", pool.data).returncode == 0
        worker.send(signal.SIGCONT)
        assert pool.http.post("/resume").status_code == 200
        pool.until_state(waited, "running")
        unknown = pool.submit({"main.py": WAITING, "s": b"600"})
        pool.until_state(unknown, "running")
        pool.wait(ended)
        until(lambda: "daemon_kept_attempts 3.0" in metrics(port), "the release of what was collected")
        pool.coordinator.stop()
        assert run_tpool("restore", target, "--data", data).returncode == 0
        move(pool, data)
        assert pool.http.post("/resume").status_code == 200  # it was paused when it was saved
        # The restored store says that it runs; the worker collected and forgot it: it runs again.
        again = pool.wait(ended)
        assert [a["state"] for a in again["attempts"]] == ["interrupted", "collected"]
        # What both know goes on, in the same attempt.
        assert pool.wait(goes_on)["state"] == "completed"
        assert [a["number"] for a in pool.status(goes_on)["attempts"]] == [1]
        # The restored store says that it waits, but it runs: it is taken over.
        assert pool.wait(waited)["state"] == "completed"
        assert [a["state"] for a in pool.status(waited)["attempts"]] == ["collected"]
        assert pool.http.get(f"/logs/{waited}/stdout").text == "done\n"
        # What only the worker knows is ended there and not held for ever.
        assert pool.http.get(f"/status/{unknown}").status_code == 404
        assert f"Cancelling job {unknown}" in worker.log
        until(lambda: active(pool) == 0, "free slots")


def metrics(port: int) -> str:
    return httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text


def active(pool: RealPool) -> int:
    return sum(worker["active_jobs"] for worker in pool.pool()["workers"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of three jobs that wait, one with a large file, as `b.tar` and as `b`; the pool it is of."""
    home = tmp_path_factory.mktemp("saved")
    with RealPool(home / "pool", (1,), running=False) as pool:
        for pad in (b"", b"x", b"y" * 100_000):
            pool.http.post("/submit", files=[("files", ("main.py", b"pass")), ("files", ("pad", pad))])
        for name in ("b.tar", "b"):
            made = run_tpool("backup", home / name, "--data", pool.data)
            assert made.returncode == 0, made.stderr
            assert "3 jobs (3 queued) and 1 file" in made.stdout
    return home


def refused(verb: str, *arguments: str | Path) -> str:
    """Run what must fail, and return its one line."""
    said = run_tpool(verb, *arguments)
    assert said.returncode == 125, said
    assert said.stdout == ""
    (line,) = said.stderr.splitlines()
    return line.removeprefix(f"tpool {verb}: ")


def test_a_backup_overwrites_nothing(saved: Path, tmp_path: Path):
    data = saved / "pool" / "coordinator"
    for name in ("b.tar", "b"):
        before = sorted(saved.iterdir())
        assert "overwrites nothing" in refused("backup", saved / name, "--data", data)
        assert sorted(saved.iterdir()) == before
    assert "no coordinator's data" in refused("backup", tmp_path / "x.tar", "--data", tmp_path)
    assert "x.tar cannot be" in refused("backup", tmp_path / "no" / "x.tar", "--data", data)
    assert list(tmp_path.iterdir()) == []


def test_a_backup_changes_nothing_of_a_stopped_coordinator(saved: Path, tmp_path: Path):
    data = saved / "pool" / "coordinator"
    before = (data / "coordinator.db").read_bytes()
    assert run_tpool("backup", tmp_path / "x.tar", "--data", data).returncode == 0
    assert (data / "coordinator.db").read_bytes() == before


def test_a_restore_takes_an_empty_directory_only(saved: Path, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    assert "is not empty" in refused("restore", saved / "b.tar", "--data", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with RealPool(tmp_path / "pool", (1,), running=False) as pool:
        line = refused("restore", saved / "b.tar", "--data", pool.data)
        assert f"in use by process {pool.coordinator.pid}" in line


def change(saved: Path, home: Path, name: str, at: int) -> Path:
    """Return a copy of the backup directory with one byte of one file changed."""
    copy = home / "changed"
    shutil.copytree(saved / "b", copy)
    (path,) = copy.rglob(name)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    return copy


@pytest.mark.parametrize(
    ("name", "words"),
    [("coordinator.db", "the database"), ("????????????????*", "another digest"), ("pool.pem", "key")],
)
def test_a_changed_byte_is_found_and_nothing_is_left(saved: Path, tmp_path: Path, name: str, words: str):
    copy = change(saved, tmp_path, name, 60)
    assert words in refused("restore", copy, "--data", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_damaged_page_is_found_though_the_digest_was_made_to_fit(saved: Path, tmp_path: Path):
    copy = change(saved, tmp_path, "coordinator.db", 0)
    database = copy / "coordinator.db"
    data = bytearray((saved / "b" / "coordinator.db").read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = bytes(range(256)) * 16
    database.write_bytes(data)
    manifest = json.loads((copy / "backup.json").read_text())
    manifest["database_sha256"] = hashlib.sha256(data).hexdigest()
    (copy / "backup.json").write_text(json.dumps(manifest))
    assert "damaged" in refused("restore", copy, "--data", tmp_path / "new")


@pytest.mark.parametrize("name", ["coordinator.db", "pool.pem", "backup.json", "????????????????*"])
def test_a_missing_file_is_found(saved: Path, tmp_path: Path, name: str):
    copy = tmp_path / "copy"
    shutil.copytree(saved / "b", copy)
    (path,) = [p for p in copy.rglob(name) if p.is_file()]
    path.unlink()
    line = refused("restore", copy, "--data", tmp_path / "new")
    assert "no whole backup" in line or "lacks 1 files" in line
    assert not (tmp_path / "new").exists()


def test_a_cut_or_foreign_tar_is_no_backup(saved: Path, tmp_path: Path):
    whole = (saved / "b.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    refused("restore", tmp_path / "cut.tar", "--data", tmp_path / "new")
    with tarfile.open(tmp_path / "foreign.tar", "w") as tar:
        tar.add(__file__, "../../etc/evil")
    assert "belongs to no backup" in refused("restore", tmp_path / "foreign.tar", "--data", tmp_path / "new")
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        link = tarfile.TarInfo("pool.pem")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert "is no file" in refused("restore", tmp_path / "link.tar", "--data", tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.tar", "foreign.tar", "link.tar"]


def test_a_damaged_or_missing_file_is_not_saved_as_if_it_were_whole(saved: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(saved / "pool" / "coordinator", data)
    (blob,) = [p for p in (data / "blobs" / "sha256").rglob("*") if p.is_file()]
    blob.chmod(0o600)
    blob.write_bytes(b"z" * 100_000)
    assert "is damaged" in refused("backup", tmp_path / "x.tar", "--data", data)
    blob.unlink()
    assert "are missing" in refused("backup", tmp_path / "x.tar", "--data", data)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
