"""`tpool` and the README against a real pool: a coordinator and two workers in processes of their own."""

import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TPOOL = Path(sys.executable).with_name("tpool")
README = (ROOT / "README.md").read_text()


def load_demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("trusted_pool_demo", ROOT / "scripts/demo.py")
    assert spec is not None
    assert spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    return demo


class Pool:
    """A running pool, and `tpool` for it."""

    def __init__(self, here: Path, demo: ModuleType, running: list[Any]) -> None:
        self.here = here
        self.demo = demo
        self.running = running
        self.address: str = demo.start_pool(here, running)
        self.env = {**os.environ, "TRUSTED_POOL_ADDR": self.address, "XDG_STATE_HOME": str(here / "state")}

    def tpool(self, *args: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run([TPOOL, *args], cwd=cwd, env=self.env, capture_output=True, check=False, timeout=90)
        assert done.returncode == code, (done.stdout[-3000:], done.stderr[-3000:])
        assert b"Traceback" not in done.stderr
        return done

    def restart_coordinator(self) -> None:
        """Kill it as a power cut would, and start it again."""
        coordinator = self.running.pop()
        coordinator.process.kill()
        coordinator.process.wait(30)
        self.running.append(self.demo.Daemon(self.here, "coordinator", coordinator.command))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    if shutil.which("bwrap") is None:
        assert "CI" not in os.environ, "bubblewrap is missing"
        pytest.skip("bubblewrap is not installed")
    demo = load_demo()
    running: list[Any] = []
    try:
        yield Pool(tmp_path_factory.mktemp("pool"), demo, running)
    finally:
        for daemon in reversed(running):
            daemon.stop()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_run_sends_follows_and_fetches(pool: Pool, tmp_path: Path) -> None:
    done = pool.tpool("run", ROOT / "examples/bash-wordcount", "-o", "out", "--", "3", cwd=tmp_path)
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "37 different words; the 3 most frequent:"
    assert len(lines) == 4, "the argument came through"
    assert len((tmp_path / "out/counts.txt").read_text().splitlines()) == 37
    assert b": completed" in done.stderr


def test_every_example_runs(pool: Pool, tmp_path: Path) -> None:
    offered = json.loads(pool.tpool("pool", "--json", cwd=tmp_path).stdout)["pool"]["workers"][0]["capacity"]
    for example in sorted((ROOT / "examples").iterdir()):
        if not (example / "job.json").is_file():
            continue
        if json.loads((example / "job.json").read_text())["interpreter"] not in offered["interpreters"]:
            continue
        before = sorted(p for p in example.rglob("*"))
        done = pool.tpool("run", example, "-o", example.name, "--json", cwd=tmp_path)
        answer = json.loads(done.stdout)
        assert answer["job"]["state"] == "completed"
        assert answer["files"], example.name
        assert all((tmp_path / f["file"]).stat().st_size == f["size"] for f in answer["files"])
        assert sorted(p for p in example.rglob("*")) == before, "nothing is written into the example"


def test_exit_codes_of_real_ends(pool: Pool, tmp_path: Path) -> None:
    fails = write(tmp_path / "fails.py", "import sys; print('x'); sys.exit(7)")
    pool.tpool("run", fails, cwd=tmp_path, code=1)
    pool.tpool("run", fails, "--propagate-exit", cwd=tmp_path, code=7)
    hangs = write(tmp_path / "hangs.py", "import time; time.sleep(60)")
    done = pool.tpool("run", hangs, "--timeout", "500ms", cwd=tmp_path, code=124)
    assert b"timeout" in done.stderr
    done = pool.tpool("run", hangs, "--memory", "900T", cwd=tmp_path, code=3)
    assert b"memory" in done.stderr
    done = pool.tpool("run", hangs, "-m", "memroy_mb=3", cwd=tmp_path, code=3)
    assert b"did you mean 'memory_mb'" in done.stderr
    write(tmp_path / "p/readme.txt", "")
    done = pool.tpool("run", "p", cwd=tmp_path, code=3)
    assert b"no default entrypoint" in done.stderr


def test_a_log_is_byte_for_byte_and_each_stream_on_its_own(pool: Pool, tmp_path: Path) -> None:
    program = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 2000); sys.stderr.buffer.write(b'\\xfe\\n')"
    job_id = pool.tpool("submit", write(tmp_path / "b.py", program), cwd=tmp_path).stdout.decode().strip()
    pool.tpool("wait", job_id[5:13], cwd=tmp_path)
    done = pool.tpool("logs", "last", cwd=tmp_path)
    assert done.stdout == bytes(range(256)) * 2000
    assert done.stderr == b"\xfe\n"
    assert pool.tpool("logs", "--stream", "stderr", cwd=tmp_path).stdout == b""


def test_a_live_log_shows_the_first_line_while_the_program_waits_and_cancel_ends_it(pool: Pool, tmp_path: Path) -> None:
    program = write(tmp_path / "w.py", "import time; print('waiting', flush=True); time.sleep(120)")
    running = subprocess.Popen(
        [TPOOL, "run", program], cwd=tmp_path, env=pool.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"waiting\n"
    pool.tpool("cancel", "last", cwd=tmp_path)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert b"cancelled" in err
    listed = json.loads(pool.tpool("jobs", "--state", "cancelled", "--json", "-n", "1", cwd=tmp_path).stdout)
    assert listed["version"] == 1
    assert listed["jobs"][0]["state"] == "cancelled"


def test_outputs_are_listed_and_fetched_one_by_one_and_as_an_archive(pool: Pool, tmp_path: Path) -> None:
    text = (
        "from pathlib import Path; Path('a').write_text('A'); Path('d').mkdir(); Path('d/ü b').write_bytes(b'\\0' * 9)"
    )
    pool.tpool("submit", write(tmp_path / "o.py", text), cwd=tmp_path)
    pool.tpool("wait", cwd=tmp_path)
    assert b"d/\xc3\xbc b" in pool.tpool("outputs", cwd=tmp_path).stdout
    assert pool.tpool("download", "last", "d/ü b", "-o", "-", cwd=tmp_path).stdout == b"\0" * 9
    pool.tpool("download", "last", "a", "-o", "one", cwd=tmp_path)
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["a"]
    pool.tpool("download", "last", "--archive", "all.tgz", cwd=tmp_path)
    with tarfile.open(tmp_path / "all.tgz") as tar:
        assert sorted(tar.getnames()) == ["a", "d/ü b"]
    done = pool.tpool("download", "last", "nothing", cwd=tmp_path, code=3)
    assert b"no output 'nothing'" in done.stderr


def read_some(stream: IO[bytes], lines: int) -> bytes:
    return b"".join(stream.readline() for _ in range(lines))


def test_run_sits_out_a_killed_coordinator_and_shows_the_log_once(pool: Pool, tmp_path: Path) -> None:
    loop = "for i in range(60):\n    print('line', i, flush=True)\n    time.sleep(0.1)\n"
    text = f"import time\n{loop}open('f', 'w').write('done')"
    program = write(tmp_path / "slow.py", text)
    running = subprocess.Popen(
        [TPOOL, "run", program, "-o", "out"], cwd=tmp_path, env=pool.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout is not None
    first = read_some(running.stdout, 5)
    pool.restart_coordinator()
    rest, err = running.communicate(timeout=90)
    assert running.returncode == 0, err
    assert first + rest == b"".join(b"line %d\n" % i for i in range(60))
    assert (tmp_path / "out/f").read_text() == "done"


def test_a_pool_that_went_away_is_one_line(tmp_path: Path) -> None:
    env = {**os.environ, "TRUSTED_POOL_ADDR": "http://127.0.0.1:1"}
    done = subprocess.run([TPOOL, "pool"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1


# -- the README --


def test_the_readmes_python_runs_as_printed(pool: Pool, tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run(
        [sys.executable, "-c", code[1]], cwd=tmp_path, env=pool.env, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("completed [")
    assert (tmp_path / "pictures/results/output.png").is_file()


def test_the_readmes_curl_calls_run_as_printed(pool: Pool, tmp_path: Path) -> None:
    section = README.partition("### With curl")[2].partition("###")[0]
    script = section.replace("\\\n", " ").replace("http://127.0.0.1:9000", pool.address)
    calls = [line.strip() for line in script.splitlines() if line.strip().startswith("curl ")]
    assert len(calls) == 4
    program = b"import os; os.mkdir('results'); open('results/output.png', 'wb').write(b'png')"
    with tarfile.open(tmp_path / "project.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("main.py")
        info.size = len(program)
        tar.addfile(info, io.BytesIO(program))

    def call(line: str) -> str:
        shell = line.replace("curl ", "curl -sS --fail-with-body ", 1)
        done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout

    submitted = json.loads(call(calls[0]))
    assert submitted["status"] == "queued"
    job_id = submitted["job_id"]
    pool.tpool("wait", job_id, cwd=tmp_path)
    status = json.loads(call(calls[1].replace("JOB", job_id)))
    assert status["pool_status"] == "completed"
    call(calls[2].replace("JOB", job_id))
    assert (tmp_path / "output.png").read_bytes() == b"png"
    assert json.loads(call(calls[3]))["healthy_workers"] >= 1


def test_every_command_of_the_readme_exists() -> None:
    for verb in set(re.findall(r"(?:^    |`)tpool ([a-z]+)", README, re.MULTILINE)):
        done = subprocess.run([TPOOL, verb, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, verb
    for target in set(re.findall(r"make ([a-z-]+)`?$", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def test_the_specifications_way_to_start_serves_and_warns(tmp_path: Path) -> None:
    write(tmp_path / "workers.json", "[]")
    port = load_demo().free_ports(1)[0]
    command = [sys.executable, ROOT / "coordinator.py", "--port", str(port), "--workers", "workers.json"]
    log = (tmp_path / "log").open("wb")
    with log:
        server = subprocess.Popen([*command, "--data", "data"], cwd=tmp_path, stdout=log, stderr=log)
    try:
        demo = load_demo()
        deadline = demo.time.monotonic() + 60
        while demo.ask(f"http://127.0.0.1:{port}/pool") is None:
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert demo.time.monotonic() < deadline
            demo.time.sleep(0.05)  # a foreign process is waited for
        assert "without authentication" in (tmp_path / "log").read_text()
        again = subprocess.run(
            [*command, "--data", "data2"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
        assert again.returncode != 0
        assert "Traceback" not in again.stderr
        assert str(port) in again.stderr.splitlines()[-1], "a taken port is said"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
