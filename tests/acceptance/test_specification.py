"""Everything that a newcomer is told to type works as it stands, from the first key to the last curl call."""

import base64
import importlib.metadata
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.archives import tar_gz
from support.real_pool import RealPool, RealWorker, run_tpool, until

ROOT = Path(__file__).parents[2]
CALLS = tomllib.loads(Path(__file__).with_name("specification_calls.toml").read_text())["call"]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
QUICK = f"""
from pathlib import Path
sum(range(3_000_000))
Path("results").mkdir()
Path("results/output.png").write_bytes({PNG!r})
""".encode()
ENDLESS = b"import time\ntime.sleep(3600)\n"


def _worker_id(value: Any) -> bool:
    return isinstance(value, str) and len(base64.b64decode(value, validate=True)) == 32


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


KINDS: dict[str, Callable[[Any], bool]] = {
    "job id": lambda v: isinstance(v, str) and re.fullmatch(r"pool-[0-9a-f]{12,}", v) is not None,
    "worker id": _worker_id,
    "text": lambda v: isinstance(v, str) and v != "",
    "number": _number,
    "whole number": lambda v: type(v) is int,
    "more than nothing": lambda v: _number(v) and v > 0,
    "time": lambda v: _number(v) and v > 1.7e9,  # seconds since the epoch, in our days
    "null": lambda v: v is None,
}


class Printed:
    """A pool started with the printed lines, and a directory to type in."""

    def __init__(self, pool: RealPool, home: Path, curl: str) -> None:
        self.pool = pool
        self.home = home
        self.curl = curl
        self.jobs = {"unknown": "pool-0123456789abcdef"}
        # The printed addresses lead here; the status code comes behind the body. All else is as printed.
        rc = f'silent\nshow-error\nnoproxy = "*"\nconnect-to = "pool.example.com:9000:127.0.0.1:{pool.port}"\n'
        (home / ".curlrc").write_text(rc + 'write-out = "\\n%{http_code}"\n')

    def call(self, arguments: list[str]) -> tuple[int, bytes]:
        """Type a curl line; return status and body."""
        line = [re.sub(r"\{(\w+)\}", lambda m: self.jobs.get(m[1], m[0]), word) for word in arguments]
        environment = {**os.environ, "CURL_HOME": str(self.home), "HOME": str(self.home)}
        done = subprocess.run(
            [self.curl, *line], cwd=self.home, env=environment, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        body, _, status = done.stdout.rpartition(b"\n")
        return int(status), body


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory, bwrap: str, curl: str) -> Iterator[Printed]:
    """`python coordinator.py --port … --workers workers.json`, one worker at work and one that is switched off."""
    assert bwrap
    home = tmp_path_factory.mktemp("printed")
    (home / "coordinator.py").symlink_to(ROOT / "coordinator.py")
    (home / "project.tar.gz").write_bytes(tar_gz({"main.py": QUICK}))
    manifest = {"entrypoint": "start.py", "interpreter": "python3"}
    (home / "described.tar.gz").write_bytes(tar_gz({"start.py": QUICK, "job.json": json.dumps(manifest).encode()}))
    pool = RealPool(home, (4, 4), program=(sys.executable, "coordinator.py"), options=("--log-format", "plain"))
    pool.coordinator._options["cwd"] = home
    pool.coordinator.command[pool.coordinator.command.index(str(pool.allowlist))] = "workers.json"
    pool.running = False
    pool.workers[0].start()
    with pool:
        pool.until_healthy(1)
        typed = Printed(pool, home, curl)
        for name, call in (("quick", CALLS[0]), ("described", CALLS[1])):
            typed.jobs[name] = json.loads(typed.call(call["curl"])[1])["job_id"]
            assert pool.wait(typed.jobs[name])["state"] == "completed"
        typed.jobs["endless"] = pool.submit({"main.py": ENDLESS})
        pool.until_state(typed.jobs["endless"], "running")
        # More memory than the first worker has, while nobody knows what the second one has.
        typed.jobs["waiting"] = pool.submit({"main.py": ENDLESS}, {"memory_mb": 10**8})
        yield typed


def _at(answer: Any, path: str) -> Any:
    for step in path.split("."):
        answer = answer[int(step)] if isinstance(answer, list) else answer[step]
    return answer


def _check(answer: Any, fields: dict[str, str], jobs: dict[str, str]) -> None:
    for path, expected in fields.items():
        found = _at(answer, path)
        if expected.startswith("= "):
            word = re.sub(r"\{(\w+)\}", lambda m: jobs[m[1]], expected[2:])
            assert (found if isinstance(found, str) else json.dumps(found)) == word, path
        else:
            assert KINDS[expected](found), f"{path} is {found!r}, which is no {expected}"


@pytest.mark.parametrize("call", CALLS[2:], ids=lambda call: call["name"])
def test_the_call_answers_with_its_fields(printed: Printed, call: dict[str, Any]):
    status, body = printed.call(call["curl"])
    assert status == call["status"], body
    if "saved" in call:
        assert (printed.home / call["saved"]["path"]).read_bytes().startswith(bytes.fromhex(call["saved"]["begins"]))
        assert (printed.home / call["saved"]["path"]).read_bytes() == PNG
    else:
        _check(json.loads(body), call["fields"], printed.jobs)


@pytest.mark.parametrize("call", CALLS[:2], ids=lambda call: call["name"])
def test_a_submit_answers_with_its_fields(printed: Printed, call: dict[str, Any]):
    status, body = printed.call(call["curl"])
    answer = json.loads(body)
    assert status == call["status"], body
    _check(answer, call["fields"], printed.jobs)
    assert list(answer) == list(call["fields"]), "and nothing else"
    assert printed.pool.wait(answer["job_id"])["state"] == "completed"


def test_the_jobs_were_what_they_seemed(printed: Printed):
    for name in ("quick", "described"):
        assert printed.pool.outputs(printed.jobs[name]) == {"results/output.png": PNG}


def test_coordinator_py_serves_every_address_and_warns(printed: Printed):
    log = printed.pool.coordinator.log
    assert re.search(r"^WARNING:__main__:.*0\.0\.0\.0.*without authentication", log, re.MULTILINE), log
    with socket.socket(socket.AF_INET) as sock:
        sock.settimeout(10)
        sock.connect(("127.0.0.2", printed.pool.port))  # not the address that tests use


def test_the_log_has_its_lines(printed: Printed):
    log, jobs, (up, down) = printed.pool.coordinator.log, printed.jobs, printed.pool.workers
    job, name = jobs["quick"], re.escape(up.worker_id[:12])
    for line in (
        rf"INFO:__main__:Added trusted worker: {name}\.\.\. at {up.endpoint}",
        rf"INFO:__main__:Queued job {job}",
        rf"INFO:__main__:Dispatched job {job} to {name}\.\.\. \(remote: job-[0-9a-f]+\)",
        rf"WARNING:__main__:Health check failed for {re.escape(down.worker_id[:12])}\.\.\.: .*",
    ):
        assert re.search(f"^{line}$", log, re.MULTILINE), (line, log)
    assert log.count("Health check failed for " + down.worker_id[:12]) == 1, "one line for a change, not for a tick"


def test_the_log_says_that_a_job_waits(tmp_path: Path):
    with RealPool(tmp_path, (1,), running=False) as pool:
        job = pool.submit({"main.py": ENDLESS})
        pool.coordinator.said(f"WARNING:__main__:No available workers for job {job}")


def test_the_log_as_coordinator_py_prints_it(tmp_path: Path):
    program = (sys.executable, str(ROOT / "coordinator.py"))
    with RealPool(tmp_path, (1,), program=program, options=("--log-format", "console"), running=False) as pool:
        job = pool.submit({"main.py": ENDLESS})
        pool.coordinator.said(f"No available workers for job {job}")
        for words in ("Added trusted worker: ", f"Queued job {job}", "Health check failed for "):
            assert words in pool.coordinator.log
        assert "\x1b" not in pool.coordinator.log, "no colours into a file"


@pytest.mark.parametrize("how", [("worker", "--generate-key"), ("keygen",)], ids=" ".join)
def test_a_key_is_made_and_its_id_printed(tmp_path: Path, how: tuple[str, ...]):
    key = tmp_path / "etc" / "worker.pem"
    made = run_tpool(*how, key)
    assert made.returncode == 0, made.stderr
    first, second, end = made.stdout.split("\n")
    assert (first, end) == (f"✅ Saved worker key to: {key}", "")
    assert second.startswith("   Worker ID: ")
    assert _worker_id(second.removeprefix("   Worker ID: "))
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_worker_starts_with_port_and_key(tmp_path: Path, bwrap: str):
    """`tpool worker --port … --worker-key …` alone; only where it keeps things is not left to chance."""
    assert bwrap
    worker = RealWorker(tmp_path, "worker", 1)
    kept = {"--port", "--worker-key", "--data"}
    words = worker.command[3:]
    pairs = zip(words[1::2], words[2::2], strict=False)
    worker.command[4:] = [word for pair in pairs if pair[0] in kept for word in pair]
    if os.geteuid() != 0:
        worker.command.append("--allow-weaker-isolation")
    worker.start()
    try:
        worker.said(f"0.0.0.0:{worker.port}")
    finally:
        worker.stop()
    until(lambda: not worker.left(), "its end")


def test_requirements_are_this_project_and_are_all_here():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert lines == ["-e ."]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert importlib.metadata.version(project["name"]) == project["version"]
    for requirement in project["dependencies"]:
        name, _, least = requirement.partition(">=")
        have = tuple(int(n) for n in re.findall(r"\d+", importlib.metadata.version(name))[:3])
        assert have >= tuple(int(n) for n in least.split(".")), requirement


def test_requirements_can_be_read_by_pip(tmp_path: Path):
    """No index is asked: what builds this project is pinned beside it."""
    if not all(map(importlib.util.find_spec, ("hatchling", "editables"))):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("hatchling is not installed; make test installs it")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--dry-run"]
    pip += ["--no-deps", "--no-index", "--no-build-isolation", "-r", "requirements.txt"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(pip, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "Would install trusted-pool" in done.stdout or "already satisfied" in done.stdout, done.stdout


def test_without_options_the_coordinator_is_on_port_9000():
    done = run_tpool("coordinator", "--help", env={**os.environ, "COLUMNS": "200"})
    assert re.search(r"--port .*9000", done.stdout), done.stdout
