"""The command line against a stand-in: exit codes, words, machine output, terminals."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from trusted_pool.cli.main import run
from trusted_pool.cli.verbs import ALL, SERVER_VERBS
from trusted_pool.protocol.answers import PoolAnswer, WorkerAnswer

JOB = "pool-0123456789abcdef"
SSE = {"Content-Type": "text/event-stream"}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pool_server: Any) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TRUSTED_POOL_ADDR", pool_server.address)
    for name in ("TRUSTED_POOL_OUTPUT", "TRUSTED_POOL_TOKEN", "NO_COLOR", "TRUSTED_POOL_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def said(capfd: pytest.CaptureFixture[str]) -> tuple[str, str]:
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    return out, err


def attempt(**outcome: Any) -> dict[str, Any]:
    return {"number": 1, "worker_id": "w" * 44, "state": "collected", "dispatched_at": 1.0, "outcome": outcome}


def sse(*events: tuple[str, dict[str, Any]]) -> bytes:
    lines = [f"id: 1:{n}\nevent: {name}\ndata: {json.dumps(data)}\n\n" for n, (name, data) in enumerate(events, 1)]
    return "".join(lines).encode()


def line(text: str) -> dict[str, Any]:
    return {"at": 1.0, "text": text}


def serve_job(pool_server: Any, kit: Any, status: dict[str, Any], *events: tuple[str, dict[str, Any]]) -> None:
    end = ("end", {"state": status["state"], "reason": status["reason"], "detail": ""})
    pool_server.routes |= {
        "/submit": [kit.Answer({"job_id": JOB, "status": "queued"})],
        f"/status/{JOB}": [kit.Answer(status)],
        f"/logs/{JOB}": [kit.Answer(sse(*events, end), headers=SSE)],
        f"/outputs/{JOB}": [kit.Answer({"job_id": JOB, "files": []})],
    }


# -- wrong use: one line, exit 2 --


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["statsu"], "did you mean: tpool status"),
        (["xyzzy"], "tpool --help"),
        (["job", "lgos"], "did you mean: tpool job logs"),
        (["job", "worker"], "no verb 'worker'"),
        (["--json"], "options come after the verb"),
        (["status", "--foo"], "tpool status --help"),
        (["submit"], "missing argument 'SOURCE'"),
        (["submit", "nowhere"], "nowhere does not exist"),
        (["submit", ".", "-m", "cpus"], "-m KEY=VALUE"),
        (["submit", ".", "--memory", "lots"], "512M or 2G"),
        (["submit", ".", "--manifest", "{]"], "not valid JSON"),
        (["submit", ".", "--manifest", "no.json"], "cannot read the manifest no.json"),
        (["submit", "."], "no files to send"),
        (["jobs", "--state", "lost"], "no state 'lost'"),
        (["wait", "last"], "nothing was submitted from here"),
        (["wait", JOB, "--timeout", "soon"], "is no duration"),
        (["status", "../x"], "no job id"),
        (["pool", "--addr", "ftp://x"], "no address of a pool"),
        (["download", JOB, "-o", "-"], "takes one output"),
    ],
)
def test_wrong_use_is_one_line_that_says_what_to_type(
    argv: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(argv) == 2
    out, err = said(capfd)
    assert out == ""
    assert err.count("\n") == 1
    assert words in err


def test_nothing_said_gets_the_help_and_names_every_verb(capfd: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert run(["--help"]) == 0
    out, _ = said(capfd)
    assert all(re.search(rf"^  {verb} ", out, re.MULTILINE) for verb in ALL if verb != "list")


@pytest.mark.parametrize("verb", [verb for verb in ALL if verb not in SERVER_VERBS])
def test_every_verb_has_help(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--help"]) == 0
    assert f"tpool {verb}" in said(capfd)[0]


def test_the_help_starts_without_what_verbs_need() -> None:
    code = "import sys; from trusted_pool.cli.main import run; run(['--help'])"
    code += "; print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("typer", "rich", "httpx", "msgspec", "asyncio", "litestar"):
        assert f"'{heavy}'" not in done.stderr


def test_a_verb_of_a_client_does_not_load_the_server() -> None:
    code = "import sys, trusted_pool.cli.run; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("litestar", "sqlalchemy", "uvicorn", "aiohttp", "trusted_pool.compose"):
        assert f"'{heavy}'" not in done.stdout


# -- the pool is away or says no --


def test_a_pool_that_is_down_is_one_line_and_125(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUSTED_POOL_ADDR", "http://127.0.0.1:1")
    Path("main.py").write_text("")
    # Not `logs -f`: following sits an outage out, see the client's tests.
    for argv in (["pool"], ["submit", "."], ["run", "main.py"], ["status", JOB], ["logs", JOB], ["download", JOB]):
        assert run(argv) == 125
        out, err = said(capfd)
        assert out == ""
        assert err.count("\n") == 1
        assert (
            "cannot reach the pool at http://127.0.0.1:1: Connection refused; start one with: tpool coordinator" in err
        )


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [(422, "unplaceable", 3), (400, "bad_manifest", 3), (413, "too_large", 3), (403, "x", 3), (500, "internal", 125)],
)
def test_refusals_have_their_codes(  # noqa: PLR0917 - pytest passes by name
    status: int,
    code: str,
    expected: int,
    pool_server: Any,
    kit: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:
    Path("main.py").write_text("")
    pool_server.routes["/submit"] = [kit.error(status, code, "it says no", hint="do this")]
    assert run(["submit", "."]) == expected
    assert said(capfd) == ("", "tpool submit: it says no; do this\n")
    assert run(["submit", ".", "--json"]) == expected
    answer = json.loads(said(capfd)[0])
    assert answer["version"] == 1
    assert (answer["error"]["code"], answer["error"]["hint"]) == (code, "do this")


# -- submit --


def sent_manifest(pool_server: Any) -> dict[str, Any] | None:
    found = re.search(rb'name="manifest"\r\n\r\n(.*?)\r\n--', pool_server.asked[-1].body, re.DOTALL)
    return json.loads(found[1]) if found else None


def test_submit_prints_the_id_and_last_means_it(pool_server: Any, kit: Any, capfd: pytest.CaptureFixture[str]) -> None:
    Path("main.py").write_text("")
    serve_job(pool_server, kit, kit.status_of(JOB))
    assert run(["submit", "."]) == 0
    assert said(capfd)[0] == f"{JOB}\n"
    assert re.fullmatch(r"tpool-[0-9a-f]{32}", pool_server.asked[0].headers["idempotency-key"])
    assert sent_manifest(pool_server) is None, "the pool reads job.json, or takes its defaults"
    assert run(["status", "last"]) == 0
    assert JOB in said(capfd)[0]


def test_options_win_over_the_manifest_and_that_over_nothing(pool_server: Any, kit: Any) -> None:
    Path("main.py").write_text("")
    Path("job.json").write_text('{"name": "old", "cpus": 2, "retry": {"max_attempts": 1}, "env": {"A": "1"}}')
    serve_job(pool_server, kit, kit.status_of(JOB))
    options = ["--memory", "1.5G", "--timeout", "5m", "--name", "new", "-m", "retry.on_worker_loss=fail", "-e", "B=x=y"]
    assert run(["submit", ".", *options, "-m", 'outputs=["a"]', "--", "--deep", "-x"]) == 0
    assert sent_manifest(pool_server) == {
        "name": "new",
        "cpus": 2,
        "retry": {"max_attempts": 1, "on_worker_loss": "fail"},
        "env": {"A": "1", "B": "x=y"},
        "memory_mb": 1536,
        "timeout": "5m",
        "outputs": ["a"],
        "args": ["--deep", "-x"],
    }
    assert run(["submit", ".", "--manifest", '{"entrypoint": "main.py"}']) == 0
    assert sent_manifest(pool_server) == {"entrypoint": "main.py"}, "--manifest replaces job.json"


def test_a_program_is_sent_as_it_is_and_is_its_own_entrypoint(pool_server: Any, kit: Any) -> None:
    Path("tool.py").write_text("print('content')")
    serve_job(pool_server, kit, kit.status_of(JOB))
    assert run(["submit", "tool.py", "3", "--name", "n"]) == 0
    assert sent_manifest(pool_server) == {"entrypoint": "tool.py", "name": "n", "args": ["3"]}
    assert b'filename="tool.py"' in pool_server.asked[0].body
    assert b"print('content')" in pool_server.asked[0].body


# -- run --


def test_run_shows_the_log_fetches_and_says_how_it_ended(
    pool_server: Any, kit: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("main.py").write_text("")
    status = kit.status_of(JOB, attempts=[attempt(exit_code=0)], worker_id="w" * 44)
    serve_job(pool_server, kit, status, ("stdout", line("out\n")), ("stderr", line("err\n")), ("mark", line("cut")))
    digest = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    entry = {"path": "r/f", "size": 3, "sha256": digest, "type": "x/y", "executable": True}
    pool_server.routes[f"/outputs/{JOB}"] = [kit.Answer({"job_id": JOB, "files": [entry]})]
    pool_server.routes[f"/outputs/{JOB}/r/f"] = [kit.Answer(b"foo")]
    assert run(["run", "main.py"]) == 0
    out, err = said(capfd)
    assert out == "out\n", "what the job prints to stdout, and nothing else"
    assert "err\n" in err
    assert "[worker] cut" in err
    assert f"{JOB}: completed" in err
    target = Path("tpool-outputs") / JOB / "r/f"
    assert target.read_text() == "foo"
    assert target.stat().st_mode & 0o100
    assert run(["run", "main.py", "-o", "there", "--json"]) == 0
    answer = json.loads(said(capfd)[0])
    assert answer["version"] == 1
    assert (answer["job"]["state"], answer["files"][0]["file"]) == ("completed", "there/r/f")


@pytest.mark.parametrize(
    ("fields", "options", "expected"),
    [
        ({"reason": "exit_code", "fault": "user", "attempts": [attempt(reason="exit_code", exit_code=7)]}, [], 1),
        (
            {"reason": "exit_code", "fault": "user", "attempts": [attempt(reason="exit_code", exit_code=7)]},
            ["--propagate-exit"],
            7,
        ),
        (
            {"reason": "signal", "fault": "user", "attempts": [attempt(reason="signal", signal=11)]},
            ["--propagate-exit"],
            139,
        ),
        ({"reason": "out_of_memory", "fault": "limit"}, ["--propagate-exit"], 1),
        ({"reason": "timeout", "fault": "limit"}, [], 124),
        ({"reason": "worker_lost", "fault": "worker"}, [], 125),
        ({"reason": "rejected", "fault": "worker"}, [], 3),
        ({"reason": "unplaceable", "fault": "operator"}, [], 3),
        ({"reason": "expired", "fault": "operator"}, [], 125),
    ],
)
def test_the_exit_code_says_how_the_job_ended(  # noqa: PLR0917 - pytest passes by name
    fields: dict[str, Any],
    options: list[str],
    expected: int,
    pool_server: Any,
    kit: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:
    serve_job(pool_server, kit, kit.status_of(JOB, "failed", detail="because", **fields))
    assert run(["wait", JOB, *options]) == expected
    assert "because" in said(capfd)[0]
    Path("main.py").write_text("")
    assert run(["run", "main.py", *options]) == expected


def test_a_cancelled_job_is_no_success(pool_server: Any, kit: Any) -> None:
    serve_job(pool_server, kit, kit.status_of(JOB, "cancelled", reason="cancelled", fault="user"))
    assert run(["wait", JOB]) == 1


def test_waiting_too_long_is_124(pool_server: Any, kit: Any, capfd: pytest.CaptureFixture[str]) -> None:
    serve_job(pool_server, kit, kit.status_of(JOB, "running"))
    assert run(["wait", JOB, "--timeout", "20ms"]) == 124
    assert "it goes on" in said(capfd)[1]


def test_detach_submits_only(pool_server: Any, kit: Any, capfd: pytest.CaptureFixture[str]) -> None:
    Path("main.py").write_text("")
    serve_job(pool_server, kit, kit.status_of(JOB))
    assert run(["run", "--detach", "main.py"]) == 0
    assert said(capfd)[0] == f"{JOB}\n"
    assert pool_server.paths() == ["/submit"]


def test_ctrl_c_leaves_the_job_and_says_how_to_come_back(pool_server: Any, kit: Any) -> None:
    Path("main.py").write_text("")
    serve_job(pool_server, kit, kit.status_of(JOB, "running"))
    head = sse(("stdout", line("started\n")))
    pool_server.routes[f"/logs/{JOB}"] = [kit.Answer(head, headers=SSE, length=10_000), kit.Answer(cut=0)]
    program = subprocess.Popen(
        [sys.executable, "-m", "trusted_pool.cli", "run", "main.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout is not None
    assert program.stdout.readline() == b"started\n"
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=20)
    assert program.returncode == 130
    assert f"tpool logs -f {JOB}".encode() in err
    assert f"tpool cancel {JOB}".encode() in err
    assert b"Traceback" not in err
    assert not any(path.startswith("/cancel") for path in pool_server.paths())


# -- naming jobs --


def test_the_beginning_of_an_id_is_enough_when_it_is_one_jobs(
    pool_server: Any, kit: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    ids = ["pool-0123456789abcdef", "pool-01aaaaaaaaaaaaaa", "pool-ffffffffffffffff"]
    fields = {"state": "completed", "reason": None, "name": "", "owner": "o", "worker_id": None, "attempt": 1}
    jobs = [{"job_id": i, "submitted_at": 1.0, "completed_at": 2.0, **fields} for i in ids]
    pages = {None: {"jobs": jobs[:2], "next": "c1"}, "c1": {"jobs": jobs[2:], "next": None}}
    pool_server.routes["/jobs"] = lambda asked: kit.Answer(pages[asked.query.get("after")])
    for job_id in ids:
        pool_server.routes[f"/status/{job_id}"] = [kit.Answer(kit.status_of(job_id))]
    assert run(["status", "ff"]) == 0
    assert ids[2] in said(capfd)[0]
    assert run(["status", "POOL-012"]) == 0
    assert ids[0] in said(capfd)[0]
    assert run(["status", "01"]) == 2
    assert "type more of it" in said(capfd)[1]
    assert run(["status", "02"]) == 3
    assert "no job's id begins with '02'" in said(capfd)[1]


# -- terminals --


def on_a_terminal(*argv: str, **environment: str) -> tuple[int, str]:
    """Run it with its stdout and stderr on a terminal; return its code and what the terminal got."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120", **environment}
    program = subprocess.Popen(
        [sys.executable, "-m", "trusted_pool.cli", *argv], stdout=theirs, stderr=theirs, stdin=theirs, env=env
    )
    os.close(theirs)
    got, deadline = b"", time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        got += piece
    os.close(ours)
    return program.wait(10), got.decode().replace("\r\n", "\n")


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[1;31mred\x1b[0m \x9b31m \u202e \x00 \x1b[31"


def test_a_jobs_control_sequences_do_not_reach_a_terminal(pool_server: Any, kit: Any) -> None:
    serve_job(pool_server, kit, kit.status_of(JOB), ("stdout", line(HOSTILE)), ("stdout", line("mgreen\n")))
    code, shown = on_a_terminal("logs", "-f", JOB)
    assert code == 0
    assert shown == "\\x1b]0;owned\\x07\\x1b[2J\x1b[1;31mred\x1b[0m \\x9b31m \\u202e \\x00 \x1b[31mgreen\n\x1b[0m"
    _, shown = on_a_terminal("logs", "-f", JOB, NO_COLOR="1")
    assert "\x1b" not in shown
    assert "red" in shown
    _, shown = on_a_terminal("logs", "-f", "--raw", JOB)
    assert HOSTILE.encode("utf-8", "replace").decode() in shown


def test_where_it_is_no_terminal_a_log_is_byte_for_byte(
    pool_server: Any, kit: Any, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    data = bytes(range(256)) * 300
    pool_server.routes[f"/logs/{JOB}/stdout"] = [kit.Answer(data, headers={"Content-Type": "text/plain"})]
    pool_server.routes[f"/logs/{JOB}/stderr"] = [kit.Answer(b"\xff\n", headers={"Content-Type": "text/plain"})]
    assert run(["logs", JOB]) == 0
    assert capfdbinary.readouterr() == (data, b"\xff\n")


def worker(kit: Any, **fields: Any) -> dict[str, Any]:
    known = {
        "worker_id": "A" * 43 + "=",
        "endpoint": "https://w1:8443",
        "is_healthy": True,
        "active_jobs": 1,
        "max_concurrent_jobs": 4,
        "last_health_check": 1.0,
        "health": "healthy",
        "duty": "active",
        "identity": "proven",
        "capacity": {},
        **fields,
    }
    found: dict[str, Any] = kit.whole(WorkerAnswer, known)
    return found


def test_tables_are_drawn_on_a_terminal_and_plain_elsewhere(
    pool_server: Any, kit: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    workers = [worker(kit), worker(kit, health="lost", identity="claimed", words="silent [bold]since\n\x1b[2Jthen")]
    workers[1]["endpoint"] = "x\x9b2J\u202e"
    pool = {"total_workers": 2, "healthy_workers": 1, "total_jobs": 1, "queued_jobs": 0, "workers": workers}
    pool_server.routes["/pool"] = [kit.Answer(kit.whole(PoolAnswer, pool))]
    assert run(["pool"]) == 0
    out, _ = said(capfd)
    assert out.splitlines()[:2] == [
        "1 of 2 workers healthy, 1 job, 0 queued",
        "WORKER                    ENDPOINT         HEALTH   JOBS  ISOLATION  MEMORY  INTERPRETERS  CHECKED",
    ]
    assert "silent [bold]since \\x1b[2Jthen" in out
    assert " x\\x9b2J\\u202e " in out
    code, shown = on_a_terminal("pool")
    assert code == 0
    assert "\x1b[32mhealthy" in shown
    assert "\x1b[2J" not in shown
    _, shown = on_a_terminal("pool", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3\dm", shown)


@pytest.mark.parametrize("argv", [["--help"], ["pool", "--help"], ["logs", JOB], ["jobs"], ["jobs", "--json"]])
def test_a_reader_that_went_away_is_no_traceback(argv: list[str], pool_server: Any, kit: Any) -> None:
    pool_server.routes[f"/logs/{JOB}/stdout"] = [kit.Answer(b"x\n" * 2_000_000)]
    pool_server.routes["/jobs"] = [kit.Answer({"jobs": [], "next": None})]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "trusted_pool.cli", *argv], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
