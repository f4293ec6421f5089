"""Manifests, archives and behaviours by chance: a worker never dies or fails, and every job ends with a reason."""

import asyncio
import contextlib
import gzip
import io
import json
import os
import random  # noqa: TID251 - seeded, and the seed is printed
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
import zstandard

from support.archives import tar_gz
from support.arena import ATTACKERS, Arena
from trusted_pool.compose.system import SystemClock
from trusted_pool.protocol.certificates import client_context, server_name
from trusted_pool.protocol.identity import identity_of, load_key_file
from trusted_pool.protocol.messages import ATTEMPT_HEADER, EPOCH_HEADER, JOB_HEADER, POOL_HEADER

SEED = int(os.environ.get("FUZZ_SEED", "0")) or int.from_bytes(os.urandom(4), "big")
JOBS, LONG_JOBS = 120, 3000
CALLS, LONG_CALLS = 150, 5000

#: What a program may do next; put together by chance.
STEPS = (
    "print('x' * {n})",
    "print(chr({n}), file=sys.stderr)",
    "sys.stdout.buffer.write(os.urandom({n}))",
    "open('out-{n}', 'w').write('y' * {n})",
    "os.makedirs('d{n}/e/f', exist_ok=True)",
    "os.symlink('/etc/passwd', 'link-{n}')",
    "os.link('main.py', 'hard-{n}')",
    "os.mkfifo('pipe-{n}')",
    "open('a\\nb{n}', 'w')",
    "open(b'\\xff{n}', 'w')",
    "os.chmod('.', {n} % 8 * 64)",
    "os.unlink('main.py')",
    "[os.unlink(f) for f in os.listdir('.') if os.path.isfile(f)]",
    "data = bytearray({n} * 10000)",
    "os.fork()",
    "os.fork() or os._exit({n} % 256)",
    "os.fork() or time.sleep(5)",
    "time.sleep({n} / 10000)",
    "os.close({n} % 3)",
    "os.kill(os.getpid(), {n} % 64)",
    "os.kill(1, {n} % 64)",
    "os._exit({n} % 256)",
    "sys.exit('words {n}')",
    "raise RecursionError({n})",
    "os.setsid()",
    "os.truncate('main.py', {n} * 1000)",
    "os.execv('/bin/sh', ['sh', '-c', 'exit {n}'])",
    "open('/proc/self/oom_score_adj', 'w').write('{n}')",
    "os.rename('main.py', 'renamed-{n}')",
    "signal.signal(15, signal.SIG_IGN)",
    "os.sched_setaffinity(0, [{n} % 2])",
    "os.nice({n} % 20)",
    "resource.setrlimit(resource.RLIMIT_NOFILE, ({n} % 64, {n} % 64))",
    "import threading; [threading.Thread(target=time.sleep, args=(0.05,)).start() for _ in range({n} % 100)]",
)
ODD_NAMES = (
    "../x",
    "/abs",
    "a/../../b",
    "a\nb",
    "a\\b",
    "con",
    ".",
    "..",
    "a//b",
    "-rf",
    "a" * 300,
    "ü" * 90,
    "\u202e",
)
INTERPRETERS = ("python3", "python", "sh", "bash", "perl", "ruby", "node", "exec", "Rscript")
PATHS = ("/status/", "/logs/", "/outputs/", "/download/", "/cancel/", "/release/", "/events", "/x")
TAILS = ("job-0", "..%2f..", "%00", "job-0/a/b", "", "?after=-1", "?after=x", "\u00fc")


def program(dice: random.Random) -> bytes:
    steps = [dice.choice(STEPS).format(n=dice.randrange(2000)) for _ in range(dice.randrange(6))]
    lines = ["import os, resource, signal, sys, time"]
    for step in steps:
        lines += ["try:", f"    {step}", "except Exception as error:", "    print(type(error).__name__)"]
    return "\n".join(lines).encode()


def manifest(dice: random.Random) -> Any:
    """A manifest with some fields, most of them as they should be."""
    fields: dict[str, Any] = {"timeout": dice.choice([0.5, 1, "700ms", 2])}
    right: dict[str, Callable[[], Any]] = {
        "entrypoint": lambda: dice.choice(["main.py", "./main.py", "missing.py", "src/tool"]),
        "interpreter": lambda: dice.choice(INTERPRETERS),
        "args": lambda: [dice.choice(["-x", "", "a b", "ü", "\x1b[2J", "x" * 3000]) for _ in range(dice.randrange(4))],
        "env": lambda: {dice.choice(["PATH", "A", "LD_PRELOAD", "PYTHONPATH", "TRUSTED_POOL_JOB_ID"]): "x\ny"},
        "outputs": lambda: [dice.choice(["*", "**", "out-*", "nothing", "link-*", "d/", "[", "a\\"]) for _ in range(3)],
        "memory_mb": lambda: dice.choice([1, 16, 64, 128, 10**6]),
        "disk_mb": lambda: dice.choice([1, 8, 64]),
        "cpu_seconds": lambda: dice.choice([0.01, 0.2, 5]),
        "cpus": lambda: dice.choice([0.01, 0.5, 1, 2, 64]),
        "labels": lambda: {"a": "b"},
        "name": lambda: dice.choice(["", "a name", "ü" * 50]),
        "priority": lambda: dice.randrange(-1000, 1001),
        "isolation": lambda: dice.randrange(4),
        "binds": lambda: [dice.choice(["dataset", "tools", "nothing"])],
        "gpu": lambda: dice.choice([True, False, {"count": 1}, {"min_vram_gb": 4}, {"device_id": 5}]),
        "retry": lambda: {"max_attempts": dice.randrange(1, 3)},
    }
    for name in dice.sample(list(right), dice.randrange(5)):
        fields[name] = right[name]()
    if dice.random() < 0.15:
        wrong = [None, -1, 1e308, [], {}, "", "x" * 5000, True, [[]], {"a": {"b": []}}, "\x00", "\ud800"]
        fields[dice.choice([*right, "unknown", "keep"])] = dice.choice(wrong)
    return fields


def archive(dice: random.Random) -> tuple[str, bytes]:
    """Files in some format, most of them whole."""
    files = {"main.py": program(dice), "src/tool": b"#!/bin/sh\nexit 3\n"}
    for _ in range(dice.randrange(4)):
        odd = dice.random() < 0.1
        files[dice.choice(ODD_NAMES) if odd else f"data/{dice.randrange(100)}"] = dice.randbytes(dice.randrange(3000))
    kind = dice.choice(["tar.gz", "tar.gz", "tar", "zip", "tar.zst", "py"])
    if kind == "py":
        name, data = "main.py", files["main.py"]
    elif kind == "zip":
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
            for path, content in files.items():
                packed.writestr(path.encode("utf-8", "replace").decode(), content)
        name, data = "p.zip", out.getvalue()
    else:
        data = gzip.decompress(tar_gz(files))
        if dice.random() < 0.1:
            data = strange_member(dice) + data
        name = f"p.{kind}"
        data = {"tar.gz": gzip.compress, "tar": bytes, "tar.zst": zstandard.compress}[kind](data)
    if dice.random() < 0.2:
        data = spoiled(dice, data)
    return name, data


def strange_member(dice: random.Random) -> bytes:
    member = tarfile.TarInfo(dice.choice(["device", "link", "main.py"]))
    member.type = dice.choice([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
    member.linkname = dice.choice(["/etc/passwd", "../..", "main.py"])
    return member.tobuf(tarfile.PAX_FORMAT)


def spoiled(dice: random.Random, data: bytes) -> bytes:
    """The same bytes, cut, changed in some places, or with more behind them."""
    match dice.randrange(4):
        case 0:
            return data[: dice.randrange(len(data))]
        case 1:
            return data + dice.randbytes(dice.randrange(1, 2000))
        case 2:
            return dice.randbytes(dice.randrange(1, 2000))
        case _:
            changed = bytearray(data)
            for _ in range(dice.randrange(1, 8)):
                changed[dice.randrange(len(changed))] = dice.randrange(256)
            return bytes(changed)


class Health:
    """The worker as it was: it must be the same process afterwards, that has not complained."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._pid, self._begun = arena.worker.pid, psutil.Process(arena.worker.pid).create_time()
        self._said = len(arena.worker.log)

    def still(self) -> None:
        process = psutil.Process(self._arena.worker.pid)
        assert (process.pid, process.create_time(), process.is_running()) == (self._pid, self._begun, True)
        said = self._arena.worker.log[self._said :]
        assert "Traceback" not in said, said[-3000:]
        assert "ERROR" not in said, said[-3000:]
        assert self._arena.run("print('well')").stdout == "well\n"


def play(arena: Arena, count: int) -> None:
    health = Health(arena)

    def one(number: int) -> str:
        dice = random.Random(f"{SEED}/{number}")  # noqa: S311 - no secret
        name, data = archive(dice)
        asked = json.dumps(manifest(dice))
        answer = arena.pool.http.post("/submit", files=[("files", (name, data)), ("manifest", (None, asked))])
        told = f"FUZZ_SEED={SEED}, number {number}: {asked} {answer.status_code} {answer.text[:300]}"
        assert answer.status_code < 500, told
        if answer.status_code != 200:
            error = answer.json()["error"]
            assert error["code"], told
            assert error["message"], told
            return "refused"
        job_id = answer.json()["job_id"]
        status = arena.end(job_id).status
        if status["state"] == "failed":
            assert (status["reason"], status["fault"], status["detail"]) > ("", "", ""), (told, status)
            assert status["fault"] in ("user", "limit"), (told, status)
        else:
            assert (status["state"], status["reason"]) == ("completed", None), (told, status)
        assert not any("50" in attempt.get("words", "") for attempt in status["attempts"]), (told, status)
        return str(status["state"])

    with ThreadPoolExecutor(ATTACKERS) as threads:
        came = list(threads.map(one, range(count)))
    health.still()
    # Neither everything is refused nor everything runs: both ways were gone.
    assert min(came.count(word) for word in ("refused", "completed", "failed")) > count / 50, came


async def ask(worker: httpx.AsyncClient, dice: random.Random, headers: dict[str, str], named: Any) -> httpx.Response:
    """Make one call, by chance right or wrong."""
    if dice.random() < 0.6:
        name, data = archive(dice)
        raw = json.dumps(manifest(dice)).encode()
        raw = spoiled(dice, raw) if dice.random() < 0.2 else raw
        parts: list[tuple[str, Any]] = [("manifest", (None, raw)), ("files", (name, data))]
        return await worker.post("/submit", headers=headers, files=parts, extensions=named)
    if dice.random() < 0.3:
        form = dice.choice(["multipart/form-data; boundary=x", "multipart/form-data", "text/x"])
        body = dice.randbytes(dice.randrange(500))
        return await worker.post("/submit", headers=headers | {"content-type": form}, content=body, extensions=named)
    path = dice.choice(PATHS) + dice.choice(TAILS)
    if path.startswith("/events") and "=" not in path:
        path = "/attempts"  # the other is a stream without an end
    method = "POST" if path.startswith(("/cancel", "/release")) else dice.choice(["GET", "PUT", "HEAD"])
    return await worker.request(method, path, headers=headers, extensions=named)


async def call(arena: Arena, count: int) -> None:
    """Ask the worker itself, as the pool that it trusts."""
    key = load_key_file(arena.pool.data / "pool.pem")
    context = client_context(arena.worker.worker_id, key, SystemClock().now())
    base = f"https://127.0.0.1:{arena.worker.port}"
    named = {"sni_hostname": server_name(identity_of(key))}
    with contextlib.closing(sqlite3.connect(f"file:{arena.pool.data}/coordinator.db?mode=ro", uri=True)) as store:
        ((epoch,),) = store.execute("SELECT value FROM meta WHERE name = 'epoch'")
    dice = random.Random(SEED)  # noqa: S311 - no secret
    seen: set[int] = set()
    async with httpx.AsyncClient(base_url=base, verify=context, trust_env=False, timeout=60) as worker:
        for number in range(count):
            headers = {POOL_HEADER: identity_of(key), EPOCH_HEADER: epoch, ATTEMPT_HEADER: "1"}
            headers[JOB_HEADER] = f"pool-fuzz-{number}"
            for header in list(headers):
                if dice.random() < 0.1:
                    # A larger epoch would be another coordinator's, and this one out.
                    large = ["9" * 40] if header != EPOCH_HEADER else []
                    headers[header] = dice.choice(["", "-1", "1e3", "x" * 500, "..", "0x1", *large])
            answer = await ask(worker, dice, headers, named)
            told = f"FUZZ_SEED={SEED}, call {number}: {answer.request.method} {answer.request.url} {answer.text[:300]}"
            assert answer.status_code < 500, told
            seen.add(answer.status_code)
    assert {200, 400, 404} <= seen, seen


@pytest.mark.timeout(300)
def test_jobs_by_chance(arena: Arena):
    play(arena, JOBS)


@pytest.mark.timeout(300)
def test_calls_by_chance(arena: Arena):
    health = Health(arena)
    asyncio.run(call(arena, CALLS))
    health.still()


@pytest.mark.long
def test_many_jobs_by_chance(arena: Arena):
    play(arena, LONG_JOBS)


@pytest.mark.long
def test_many_calls_by_chance(arena: Arena):
    health = Health(arena)
    asyncio.run(call(arena, LONG_CALLS))
    health.still()
