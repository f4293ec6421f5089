"""What wrong use of the command, and a machine that will not do, get: one line that says what to type, an exit code."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.archives import tar_gz
from support.real_pool import PATIENCE_S, TPOOL, RealPool, free_port, run_tpool

BARE = ("coordinator", "--workers", "{w}", "--data", "{d}", "--port", "{p}")
USES: list[tuple[Sequence[str], int, str]] = [
    ((), 2, ""),
    (("sumbit",), 2, "tpool submit"),
    (("--port", "1"), 2, "after the verb"),
    (("status",), 2, "tpool jobs"),
    (("submit", "{d}/none"), 2, "none"),
    (("coordinator", "--port", "many"), 2, "--port"),
    (("coordinator", "--port", "99999"), 2, "--port"),
    (("coordinator", "--prot", "1"), 2, "--port"),
    ((*BARE, "--check-interval", "soon"), 2, "30s"),
    ((*BARE, "--on-worker-loss", "weep"), 2, "retry"),
    ((*BARE, "--host", "no.such.host.invalid"), 2, "--anonymous"),
    (("coordinator", "--workers", "{d}/none.json", "--data", "{d}"), 2, "--workers"),
    (("worker",), 2, "--worker-key"),
    (("keygen",), 2, "PATH"),
    (("pool", "--addr", "nonsense://x"), 2, "http"),
    (("pool", "--addr", "http://127.0.0.1:{p}"), 125, "http://127.0.0.1:{p}"),
]


@pytest.mark.parametrize(("words", "code", "said"), USES, ids=[" ".join(u[0]) or "nothing" for u in USES])
def test_wrong_use_of_the_command(tmp_path: Path, words: Sequence[str], code: int, said: str):
    places = {"{w}": str(tmp_path / "workers.json"), "{d}": str(tmp_path / "data"), "{p}": str(free_port())}
    (tmp_path / "workers.json").write_text("[]")

    def placed(text: str) -> str:
        for mark, place in places.items():
            text = text.replace(mark, place)
        return text

    done = run_tpool(*map(placed, words), cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path)})
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    if words:
        assert done.stderr.count("\n") == 1, done.stderr
        assert placed(said) in done.stderr, done.stderr
    else:
        assert "tpool VERB" in done.stdout + done.stderr


def one_line(command: Sequence[str | Path], code: int, *words: str) -> None:
    """Show that a command ends with this code and one line that holds these words."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def coordinator(data: Path) -> list[str | Path]:
    """Return the command line of a coordinator that keeps its things there."""
    allowlist = data.parent / "workers.json"
    allowlist.write_text("[]")
    return [*TPOOL, "coordinator", "--port", str(free_port()), "--workers", allowlist, "--data", data]


@pytest.mark.parametrize("exists", [True, False])
def test_a_data_directory_that_cannot_be_written(tmp_path: Path, exists: bool):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    command = coordinator(tmp_path / "data")
    command[-1] = data = closed if exists else closed / "data"
    if os.geteuid() == 0:  # modes do not stop root, unless it has given up that privilege
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    why = "not writable" if exists else "Permission denied"
    one_line(command, 125, f"{data} cannot be used: {why}; choose another with --data")


def test_a_data_directory_on_a_read_only_disk(tmp_path: Path, bwrap: str):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = coordinator(tmp_path / "data")
    command[-1] = disk / "data"
    one_line([bwrap, "--dev-bind", "/", "/", "--ro-bind", disk, disk, *command], 125, "Read-only", "--data")


def test_bubblewrap_missing(tmp_path: Path, bwrap: str):
    key = tmp_path / "worker.pem"
    assert run_tpool("keygen", key).returncode == 0
    command = [*TPOOL, "worker", "--port", str(free_port()), "--host", "127.0.0.1", "--worker-key", key]
    command += ["--data", tmp_path / "data", "--allow-weaker-isolation"]
    real = str(Path(shutil.which("bwrap", path="/usr/bin:/usr/local/bin:/bin") or bwrap).resolve())
    hide = [bwrap, "--dev-bind", "/", "/", "--ro-bind", "/dev/null", real]  # no program there any more
    one_line([*hide, *command], 125, "bubblewrap", "apt-get install bubblewrap")


def test_a_worker_that_is_down_is_said_in_the_answers(tmp_path: Path):
    with RealPool(tmp_path, (1,), running=False) as pool:
        job = pool.submit(tar_gz({"main.py": b"print(1)"}))
        (worker,) = pool.pool()["workers"]
        assert worker["is_healthy"] is False
        assert "cannot connect" in worker["words"]
        (verdict,) = pool.status(job)["waiting_for"]
        assert verdict["worker_id"] == pool.workers[0].worker_id
        assert verdict["obstacles"], "it says why not"
        assert "Traceback" not in pool.coordinator.log
