"""One owner's flood and another's single jobs, over HTTP against real processes: who is refused, and who comes when.

What is shown are orders and counts. How long it takes is measured by `bench/fairness.py`.
"""

import contextlib
import itertools
import json
import os
import socket
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from support.archives import tar_gz
from support.flood import flood
from support.real_pool import PATIENCE_S, RealPool, until
from trusted_pool.cli.main import run

FLOOD, UPLOADS = 24, 6
QUEUED, TRANSFERS = 30, 3
MAIN = tar_gz({"main.py": b"print(1)\n"})
LARGE = 6 * 2**20
#: What ends the time in which a job is dispatched or running.
LEAVES = ("Collected", "WorkerFull", "NotSent", "Refused", "Interrupted", "ResultsLost", "WorkerLost")


class Owner:
    """Somebody with a key."""

    def __init__(self, pool: RealPool, name: str, token: str) -> None:
        self.name, self.token = name, token
        self.http = self.client(pool)

    def client(self, pool: RealPool) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=pool.url, timeout=PATIENCE_S, trust_env=False, headers=headers)

    def submit(self, http: httpx.Client | None = None, data: bytes = MAIN) -> httpx.Response:
        return (http or self.http).post("/submit", files={"files": ("project.tar.gz", data)})

    def usage(self) -> dict[str, Any]:
        return dict(self.http.get("/usage").json()["owners"][0])


class Flood:
    """Submits and uploads without end, each over a line of its own; counts what they are answered."""

    def __init__(self, pool: RealPool, owner: Owner) -> None:
        self.answers: Counter[str] = Counter()
        self._pool, self._owner = pool, owner
        self._over = threading.Event()
        self._lock = threading.Lock()
        body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.bin"\r\n\r\n' + os.urandom(LARGE)
        body += b'\r\n--x\r\nContent-Disposition: form-data; name="files"; filename="main.py"\r\n\r\npass\r\n--x--\r\n'
        self._upload = body
        self._threads = [threading.Thread(target=self._run, args=(n < UPLOADS,)) for n in range(FLOOD)]

    def _run(self, uploads: bool) -> None:
        with self._owner.client(self._pool) as http:
            while not self._over.is_set():
                with contextlib.suppress(httpx.TransportError):
                    if uploads:
                        headers = {"Content-Type": "multipart/form-data; boundary=x"}
                        answer = http.post("/submit", content=self._upload, headers=headers)
                    else:
                        answer = self._owner.submit(http)
                    kind = "upload" if uploads else "submit"
                    code = "ok" if answer.is_success else answer.json()["error"]["code"]
                    assert answer.is_success or "retry-after" in answer.headers or answer.status_code == 413
                    with self._lock:
                        self.answers[f"{kind} {code}"] += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    @property
    def total(self) -> int:
        return sum(self.answers.values())


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, bwrap: str) -> Iterator[RealPool]:
    assert bwrap
    limits = [f"queued={QUEUED}", f"transfers={TRANSFERS}", "running=2"]
    options = ["--check-interval", "1s", *(word for limit in limits for word in ("--limit", limit))]
    with RealPool(tmp_path_factory.mktemp("owners"), (3,), options=options) as pool:
        yield pool


@pytest.fixture(scope="module")
def owners(pool: RealPool) -> dict[str, Owner]:
    """An admin, ada who floods, and bob."""
    made = pool.http.post("/keys", json={"owner": "root", "role": "admin"}).json()
    root = Owner(pool, "root", made["token"])
    found = {"root": root}
    for name in ("ada", "bob"):
        made = root.http.post("/keys", json={"owner": name, "role": "submitter"}).json()
        found[name] = Owner(pool, name, made["token"])
    return found


def story(pool: RealPool) -> list[tuple[str, str, str]]:
    """Return all that happened to jobs, in the order of the commits: owner, job, kind."""
    with contextlib.closing(sqlite3.connect(f"file:{pool.data}/coordinator.db?mode=ro", uri=True)) as store:
        return store.execute(
            "SELECT j.owner, e.job_id, e.kind FROM events e JOIN jobs j ON j.job_id = e.job_id ORDER BY e.seq"
        ).fetchall()


def test_a_flood_is_refused_and_a_neighbour_is_not(pool: RealPool, owners: dict[str, Owner]):
    ada, bob = owners["ada"], owners["bob"]
    with Flood(pool, ada) as flood:
        until(
            lambda: flood.answers["submit too_many_queued"] and flood.answers["upload too_many_transfers"], "refusals"
        )
        mine = []
        for n in range(3):
            before = flood.total
            answer = bob.submit(data=tar_gz({"main.py": b"print(2)\n", "n": b"%d" % n}))
            assert answer.status_code == 200, answer.text
            mine.append(answer.json()["job_id"])
            state = until(lambda job=mine[-1]: _ended(bob, job), "bob's job")  # type: ignore[misc]
            assert state == "completed"
            until(lambda before=before: flood.total > before, "the flood goes on")  # type: ignore[misc]
        before = flood.total
        upload = bob.submit(data=tar_gz({"main.py": b"print(3)\n", "large": os.urandom(LARGE)}))
        assert upload.status_code == 200, "while the flood had its transfers"
        until(lambda: flood.total > before + FLOOD, "the flood goes on after bob's upload")
        usage = ada.usage()
        assert usage["queued"] <= QUEUED
        assert usage["running"] <= 2
        assert usage["transfers"] <= TRANSFERS
    assert flood.answers["submit ok"] >= QUEUED
    assert set(flood.answers) <= {
        "submit ok",
        "submit too_many_queued",
        "upload ok",
        "upload too_many_queued",
        "upload too_many_transfers",
    }
    told = story(pool)
    for job_id in mine:
        events = [(owner, kind) for owner, job, kind in told if job == job_id or (owner == "ada" and kind == "Placed")]
        begin, placed = events.index(("bob", "Submitted")), events.index(("bob", "Placed"))
        assert placed - begin - 1 <= 3, "of ada's jobs, no more are placed before bob's than there are slots"
    running, most = Counter[str](), 0
    for owner, _, kind in told:
        running[owner] += 1 if kind == "Placed" else -1 if kind in LEAVES else 0
        most = max(most, running["ada"])
    assert most == 2, "ada's running limit"


def _ended(owner: Owner, job_id: str) -> str | None:
    status = owner.http.get(f"/status/{job_id}", params={"wait": 1}).json()
    return status["state"] if status["completed_at"] else None


LINES = 200


def test_a_neighbours_submit_does_not_stand_behind_all_lines_of_a_flood(tmp_path: Path):
    """No limit is met here: all of ada's submits are taken. Bob's go before those of hers that wait."""
    with RealPool(tmp_path, (1,), running=False) as pool:
        root = Owner(pool, "root", pool.http.post("/keys", json={"owner": "root", "role": "admin"}).json()["token"])
        ada, bob = (
            Owner(pool, name, root.http.post("/keys", json={"owner": name, "role": "submitter"}).json()["token"])
            for name in ("ada", "bob")
        )
        with flood(pool.port, ada.token, LINES):
            until(lambda: ada.usage()["queued"] > 2 * LINES, "the flood")
            for _ in range(20):
                assert bob.submit().status_code == 200
        with contextlib.closing(sqlite3.connect(f"file:{pool.data}/coordinator.db?mode=ro", uri=True)) as store:
            kept = [owner for (owner,) in store.execute("SELECT owner FROM jobs ORDER BY rowid")]
    at = [place for place, owner in enumerate(kept) if owner == "bob"]
    between = sorted(later - earlier - 1 for earlier, later in itertools.pairwise(at))
    assert between[len(between) // 2] < LINES / 2, between


def test_what_there_is_and_may_be_by_the_command_line(
    pool: RealPool, owners: dict[str, Owner], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("TRUSTED_POOL_ADDR", pool.url)

    def tpool(who: str, *words: str, code: int = 0) -> tuple[str, str]:
        monkeypatch.setenv("TRUSTED_POOL_TOKEN", owners[who].token)
        assert run(words) == code
        said = capsys.readouterr()
        return said.out, said.err

    def say(who: str, *words: str) -> Any:
        return json.loads(tpool(who, *words, "--json")[0])

    (mine,) = say("ada", "usage")["owners"]
    assert (mine["owner"], mine["limits"]["queued"]) == ("ada", QUEUED)
    assert mine["bytes"] > LARGE
    table = tpool("ada", "usage")[0].splitlines()
    assert table[0].split()[:4] == ["OWNER", "QUEUED", "RUNNING", "BYTES"]
    assert f"of {QUEUED}" in table[1]
    tpool("ada", "usage", "--all", code=3)
    tpool("ada", "limits", "set", "ada", "queued=none", code=3)
    assert [one["owner"] for one in say("root", "usage", "--all")["owners"]] == ["ada", "bob"]
    changed = say("root", "limits", "set", "bob", "queued=1", "bytes=5GB", "submits-per-minute=600")["usage"]
    assert changed["limits"] == mine["limits"] | {"queued": 1, "bytes": 5 * 10**9, "submits_per_minute": 600}
    listed = tpool("root", "limits")[0].splitlines()
    assert [line.split()[0] for line in listed] == ["OWNER", "(everybody)", "bob"]
    assert "5.0 GB" in listed[2]
    assert "did you mean queued" in tpool("root", "limits", "set", "bob", "queue=1", code=2)[1]
    back = say("root", "limits", "set", "bob", "queued=usual", "bytes=usual", "submits-per-minute=usual")
    assert back["usage"]["limits"] == mine["limits"]
    assert len(say("root", "limits")["owners"]) == 0
    told = say("root", "audit")["entries"]
    assert [(e["actor"], e["subject"]) for e in told if e["action"] == "limits.set"] == [("root", "bob")] * 2


def test_a_coordinator_says_which_limit_it_does_not_understand(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "workers.json").write_text("[]")
    words = ("--data", tmp_path / "data", "--workers", tmp_path / "workers.json", "--limit", "queue=5")
    assert run(["coordinator", *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert "did you mean queued" in said
    assert len(said.splitlines()) == 1, said


def test_connections_of_one_address_are_capped(tmp_path: Path):
    with RealPool(tmp_path, (), options=("--limit", "connections=5")) as pool, contextlib.ExitStack() as lines:
        pool.http.close()

        def ask(source: str) -> bytes:
            line = socket.create_connection(("127.0.0.1", pool.port), timeout=PATIENCE_S, source_address=(source, 0))
            lines.enter_context(line)
            line.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return line.recv(65536)

        until(lambda: ask("127.0.0.3").startswith(b"HTTP/1.1 200 "), "an answer")
        said = [ask("127.0.0.2") for _ in range(8)]
        assert [line.split(b" ")[1] for line in said] == [b"200"] * 5 + [b"429"] * 3
        assert b"too_many_connections" in said[-1]
        assert b"retry-after: 1\r\n" in said[-1]
        assert ask("127.0.0.4").startswith(b"HTTP/1.1 200 "), "another address has its own"
