"""`make demo`: it shows a pool at work, and whatever ends it, nothing of it goes on running."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "scripts/demo.py"
PATIENCE_S = 90.0


@pytest.fixture(autouse=True)
def needs_a_sandbox() -> None:
    if shutil.which("bwrap") is None:
        assert "CI" not in os.environ, "bubblewrap is missing"
        pytest.skip("bubblewrap is not installed")


def eventually(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)  # a foreign process is waited for


def processes_about(here: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline", "pid"]):
        words = " ".join(process.info["cmdline"] or [])
        if str(here) in words and process.pid != os.getpid():
            found.append(words)
    return found


class OnTerminal:
    """The demo, started on a terminal."""

    def __init__(self, here: Path) -> None:
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, DEMO, here], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.shown = ""

    def read_until(self, words: str) -> None:
        while words not in self.shown:
            try:
                piece = os.read(self.ours, 65536)
            except OSError:
                piece = b""
            assert piece, f"it ended before {words!r}:\n{self.shown}"
            self.shown += piece.decode(errors="replace").replace("\r\n", "\n")


@pytest.mark.timeout(180)
def test_without_a_terminal_it_shows_everything_and_ends(tmp_path: Path) -> None:
    here = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, DEMO, here], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=170
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert (here / "outputs/results/output.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert "100 %" in done.stdout, "the log, live"
    assert "2 of 2 workers healthy, 1 job, 0 queued" in done.stdout
    assert "completed" in done.stderr
    assert processes_about(here) == []
    said = "--allow-weaker-isolation" in done.stdout
    levels = set(re.findall(r"healthy +\d/\d +(\d) ", done.stdout))
    assert levels <= ({"1"} if said else {"2", "3"}), "the weaker level is said, and only where it is needed"
    assert levels


@pytest.mark.timeout(180)
def test_on_a_terminal_it_stays_until_ctrl_c_and_leaves_no_process(tmp_path: Path) -> None:
    here = tmp_path / "demo"
    demo = OnTerminal(here)
    demo.read_until("tpool jobs")
    address = re.search(r"TRUSTED_POOL_ADDR=(\S+)", demo.shown)
    assert address is not None
    tpool = Path(sys.executable).with_name("tpool")
    again = subprocess.run(
        [tpool, "pool", "--addr", address[1]], capture_output=True, text=True, check=True, timeout=60
    )
    assert "2 of 2 workers healthy" in again.stdout
    assert len(processes_about(here)) >= 4
    os.write(demo.ours, b"\x03")
    os.killpg(demo.process.pid, signal.SIGINT)  # the terminal is nobody's controlling one here
    demo.read_until("nothing of it is running any more")
    assert demo.process.wait(PATIENCE_S) == 0
    assert processes_about(here) == []


@pytest.mark.timeout(180)
def test_killed_it_takes_its_processes_along(tmp_path: Path) -> None:
    here = tmp_path / "demo"
    demo = OnTerminal(here)
    demo.read_until("stays up until Ctrl-C")
    demo.process.kill()
    demo.process.wait(PATIENCE_S)
    eventually(lambda: processes_about(here) == [], "processes of a killed demo go on")
