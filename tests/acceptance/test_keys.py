"""Keys and the audit trail as people use them: by `tpool`, against real processes."""

import json
import os
import sqlite3
import subprocess
import threading
from pathlib import Path
from typing import Any

import httpx

from support.real_pool import RealPool, run_tpool
from support.traces import SHORT
from trusted_pool.protocol.apikey import PATTERN

NO_WORKERS = ()


def tpool(pool: RealPool, *words: str | Path, token: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TRUSTED_POOL_ADDR": pool.url, "TRUSTED_POOL_TOKEN": token}
    environment |= {"XDG_STATE_HOME": str(pool.home / "state"), "XDG_CONFIG_HOME": str(pool.home / "config")}
    done = run_tpool(*words, env=environment)
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def made(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """Return a new key and its id."""
    answer = json.loads(done.stdout)
    return answer["token"], answer["key"]["key_id"]


def new_key(pool: RealPool, *words: str, token: str = "") -> tuple[str, str]:
    return made(tpool(pool, "keys", "create", "--json", *words, token=token))


def actions(pool: RealPool, token: str) -> list[str]:
    answer = json.loads(tpool(pool, "audit", "list", "--json", token=token).stdout)
    return [entry["action"] for entry in answer["entries"]]


def test_a_group_begins_to_use_keys(tmp_path: Path) -> None:
    with RealPool(tmp_path, NO_WORKERS) as pool:
        assert "no keys" in tpool(pool, "keys").stdout
        refused = tpool(pool, "keys", "create", "--owner", "bob", code=3)
        assert "the first key must be an admin's" in refused.stderr
        assert "--role admin" in refused.stderr
        done = tpool(pool, "keys", "create", "--owner", "ada", "--role", "admin")
        admin = done.stdout.strip()
        assert "shown this once" in done.stderr
        assert admin not in done.stderr
        refused = tpool(pool, "jobs", code=3)
        assert "asks for an API key" in refused.stderr
        assert "tpool login" in refused.stderr
        bob, bob_id = new_key(pool, "--owner", "bob", "--expires", "30d", "--name", "laptop", token=admin)
        refused = tpool(pool, "keys", token=bob, code=3)
        assert "needs the role admin" in refused.stderr
        listed = tpool(pool, "keys", token=admin).stdout
        assert "laptop" in listed
        for key in (admin, bob):
            assert key not in listed
        assert tpool(pool, "jobs", token=bob).returncode == 0
        tpool(pool, "keys", "revoke", bob_id, token=admin)
        assert "is revoked" in tpool(pool, "jobs", token=bob, code=3).stderr
        assert "check sum" in tpool(pool, "jobs", token=bob[:-2] + "xx", code=3).stderr
        pool.coordinator.kill9()
        pool.coordinator.start()
        pool.until_up()
        assert "is revoked" in tpool(pool, "jobs", token=bob, code=3).stderr, "kept over kill -9"
        assert tpool(pool, "jobs", token=admin).returncode == 0
        told = actions(pool, admin)
        assert told[:3] == ["key.create", "key.create", "key.revoke"]
        assert "login.failed" in told
        everything = (
            b"".join(p.read_bytes() for p in pool.data.rglob("*") if p.is_file()) + pool.coordinator.log.encode()
        )
        for key in (admin, bob):
            assert key.encode() not in everything, "kept nowhere"
            assert key[6:30].encode() not in everything


def test_a_key_is_made_without_a_coordinator_when_all_are_lost(tmp_path: Path) -> None:
    with RealPool(tmp_path, NO_WORKERS) as pool:
        busy = tpool(pool, "keys", "create", "--owner", "ada", "--role", "admin", "--data", pool.data, code=125)
        assert "a coordinator runs" in busy.stderr
        lost, _ = new_key(pool, "--owner", "ada", "--role", "admin")
        pool.coordinator.stop()
        found, _ = new_key(pool, "--owner", "eve", "--role", "admin", "--data", str(pool.data))
        pool.coordinator.start()
        pool.until_up()
        assert tpool(pool, "jobs", token=found).returncode == 0
        answer = json.loads(tpool(pool, "audit", "--json", token=lost).stdout)
        assert [(e["actor"], e["action"]) for e in answer["entries"]] == [
            ("local", "key.create"),
            ("console", "key.create"),
        ]


def test_an_export_is_verified_and_every_damage_is_found(tmp_path: Path) -> None:
    with RealPool(tmp_path, [1]) as pool:
        admin, _ = new_key(pool, "--owner", "ada", "--role", "admin")
        ops, ops_id = new_key(pool, "--owner", "olga", "--role", "operator", token=admin)
        pool.http.headers["Authorization"] = f"Bearer {admin}"
        job_id = pool.submit(SHORT)
        tpool(pool, "workers", "cordon", pool.workers[0].worker_id[:8], token=ops)
        tpool(pool, "pause", token=ops)
        tpool(pool, "resume", token=ops)
        tpool(pool, "cancel", pool.submit({"main.py": b"import time; time.sleep(60)"}), token=ops)
        export = tmp_path / "audit.jsonl"
        tpool(pool, "audit", "export", "-o", export, token=admin)
        entries = [json.loads(line) for line in export.read_text().splitlines()[:-1]]
        told = [(e["actor"], e.get("key_id"), e["action"]) for e in entries if e["actor"] == "olga"]
        assert told == [
            ("olga", ops_id, "worker.cordon"),
            ("olga", ops_id, "pool.pause"),
            ("olga", ops_id, "pool.resume"),
            ("olga", ops_id, "job.cancel"),
        ]
        assert not [e for e in entries if e["subject"] == job_id], "what somebody does to his own job is in its story"
        pool_id = run_tpool("coordinator", "--show-id", "--data", pool.data).stdout.strip()
        assert "whole:" in tpool(pool, "audit", "verify", export, "--pool-id", pool_id).stdout
        lines = export.read_text().splitlines(keepends=True)
        for name, damaged in {
            "changed": [*lines[:2], lines[2].replace("olga", "adam"), *lines[3:]],
            "removed": lines[:2] + lines[3:],
            "swapped": [lines[1], lines[0], *lines[2:]],
            "cut": lines[:-2] + lines[-1:],
            "without its head": lines[:-1],
        }.items():
            file = tmp_path / "damaged.jsonl"
            file.write_text("".join(damaged))
            assert damaged != lines, name
            assert "tpool audit verify:" in tpool(pool, "audit", "verify", file, code=1).stderr, name
        other = run_tpool("coordinator", "--show-id", "--data", tmp_path / "other").stdout.strip()
        assert "not by the pool" in tpool(pool, "audit", "verify", export, "--pool-id", other, code=1).stderr
        pool.coordinator.stop()
        with sqlite3.connect(pool.data / "coordinator.db") as database:
            ((newest,),) = database.execute("SELECT max(seq) FROM audit").fetchall()
            database.execute("DELETE FROM audit WHERE seq = ?", (newest,))
        database.close()
        pool.coordinator.start()
        pool.coordinator.said("The audit trail is not what it was")
        pool.until_up()
        tpool(pool, "audit", "export", "-o", export, token=admin)
        assert "was removed" in tpool(pool, "audit", "verify", export, code=1).stderr


def test_a_revoked_key_stops_a_log_that_is_being_followed(tmp_path: Path) -> None:
    talks = {"main.py": b"import time\nfor n in range(600):\n    print('line', n, flush=True)\n    time.sleep(0.1)\n"}
    with RealPool(tmp_path, [1]) as pool:
        admin, _ = new_key(pool, "--owner", "ada", "--role", "admin")
        pool.http.headers["Authorization"] = f"Bearer {admin}"
        job_id = pool.submit(talks)
        pool.until_state(job_id, "running")
        viewer, key_id = new_key(pool, "--owner", "ada", "--role", "viewer", token=admin)
        heard, seen = threading.Event(), []

        def follow() -> None:
            headers = {"Authorization": f"Bearer {viewer}"}
            url = f"{pool.url}/logs/{job_id}?follow=true"
            try:
                with httpx.stream("GET", url, headers=headers, timeout=30, trust_env=False) as answer:
                    for line in answer.iter_lines():
                        seen.append(line)
                        if "line 1" in line:
                            heard.set()
            except httpx.TransportError as error:
                seen.append(type(error).__name__)

        reader = threading.Thread(target=follow)
        reader.start()
        assert heard.wait(20)
        tpool(pool, "keys", "revoke", key_id, token=admin)
        reader.join(20)
        assert not reader.is_alive(), "its line is closed, though the job goes on"
        assert pool.status(job_id)["state"] == "running"
        assert not any("line 599" in line for line in seen)
        assert "Traceback" not in pool.coordinator.log
        tpool(pool, "cancel", job_id, token=admin)
        pool.wait(job_id)


WRONG = [
    (("keys", "create"), "--owner"),
    (("keys", "create", "--owner", "a b", "--role", "admin"), "cannot be an owner"),
    (("keys", "create", "--owner", "console", "--role", "admin"), "cannot be an owner"),
    (("keys", "create", "--owner", "ada", "--role", "king"), "king"),
    (("keys", "create", "--owner", "ada", "--role", "admin", "--expires", "soon"), "no duration"),
    (("keys", "revoke", "key-0"), "no key"),
    (("keys", "make"), "type: tpool --help"),
    (("audit", "verify", "nowhere.jsonl"), "nowhere.jsonl"),
]


def test_wrong_use_is_said_in_one_line(tmp_path: Path) -> None:
    with RealPool(tmp_path, NO_WORKERS) as pool:
        for words, says in WRONG:
            done = run_tpool(*words, env={**os.environ, "TRUSTED_POOL_ADDR": pool.url})
            assert done.returncode != 0, words
            assert says in done.stderr, words
            assert done.stderr.count("\n") == 1, words
        assert "no keys" in tpool(pool, "keys").stdout, "nothing was made by it"


def test_a_scanner_of_repositories_finds_a_key(tmp_path: Path) -> None:
    with RealPool(tmp_path, NO_WORKERS) as pool:
        key, _ = new_key(pool, "--owner", "ada", "--role", "admin")
        (tmp_path / "leaked.py").write_text(f'TOKEN = "{key}"  # oops\n')
        found = subprocess.run(
            ["grep", "-oE", PATTERN, str(tmp_path / "leaked.py")], capture_output=True, text=True, check=True
        )
        assert found.stdout.strip() == key


def test_curl_is_told_what_to_do(tmp_path: Path) -> None:
    with RealPool(tmp_path, NO_WORKERS) as pool:
        key, _ = new_key(pool, "--owner", "ada", "--role", "admin")
        answer: Any = httpx.get(f"{pool.url}/pool", trust_env=False)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        good = httpx.get(f"{pool.url}/pool", headers={"Authorization": f"bearer {key}"}, trust_env=False)
        assert good.status_code == 200
        for path in ("/health", "/", "/ready", "/openapi.json", "/manifest.schema.json"):
            assert httpx.get(pool.url + path, trust_env=False).status_code == 200, path
