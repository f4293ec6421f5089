"""The 200 of a submit leaves after the disk has everything: read from the system calls of the real coordinator."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from support.archives import tar_gz
from support.real_pool import TPOOL, RealPool

CALLS = "write,writev,pwrite64,pwritev,sendto,sendmsg,fsync,fdatasync,rename,renameat,renameat2"
_LINE = re.compile(r"(?P<thread>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<name>\w+)\()(?P<rest>.*)\Z", re.DOTALL)
_UNFINISHED = " <unfinished ...>"
#: A coordinator that does all it does, but waits for no disk: what the tests below must notice.
FORGETFUL = """
import os, sys
from trusted_pool.store import opening
connect = opening.connect
def forgetful(*args, **options):
    connection = connect(*args, **options)
    connection.execute("PRAGMA synchronous = OFF")
    return connection
opening.connect = forgetful
os.fsync = lambda fd: None
from trusted_pool.cli.main import run
sys.exit(run(["coordinator", *sys.argv[1:]]))
"""
SMALL = tar_gz({"main.py": b"print('small')\n"})
LARGE = tar_gz({"main.py": b"print('large')\n", "data.bin": os.urandom(300_000)})


class Call(NamedTuple):
    """One system call: when it began and when it returned, as numbers of lines of the trace."""

    name: str
    words: str
    began: int
    ended: int


def calls_of(trace: str) -> list[Call]:
    """Read what `strace -f` wrote."""
    calls: list[Call] = []
    open_calls: dict[str, tuple[str, str, int]] = {}
    for number, line in enumerate(trace.splitlines()):
        match = _LINE.match(line)
        if match is None:
            continue  # a signal, an exit
        rest = match["rest"]
        if match["resumed"]:
            name, words, began = open_calls.pop(match["thread"])
            calls.append(Call(name, words + rest, began, number))
        elif rest.endswith(_UNFINISHED):
            open_calls[match["thread"]] = (match["name"], rest.removesuffix(_UNFINISHED), number)
        else:
            calls.append(Call(match["name"], rest, number, number))
    return calls


def durable_before_the_answer(home: Path, strace: str, archive: bytes, program: Sequence[str]) -> list[str]:
    """Submit an archive to a traced coordinator; return what its system calls do wrong, in words."""
    trace = home / "trace"
    # -D: the process that is started stays the coordinator; -yy: descriptors by path, sockets by both addresses.
    wrap = [strace, "-D", "-f", "-qq", "-yy", "-s", "10000", "-e", f"trace={CALLS}", "-o", str(trace)]
    with RealPool(home / "pool", (1,), program=[*wrap, *program], running=False) as pool:
        with httpx.Client(base_url=pool.url, trust_env=False, timeout=60) as alone:  # a connection for this one answer
            files = {"files": ("p.tar.gz", archive), "manifest": (None, "{}")}
            answer = alone.post("/submit", files=files)
            assert answer.status_code == 200, answer.text
        job_id = answer.json()["job_id"]
        pool.coordinator.stop()
    return faults(calls_of(trace.read_text(errors="replace")), job_id, large=len(archive) > 64 * 1024)


def faults(calls: list[Call], job_id: str, *, large: bool) -> list[str]:
    """Return in words what is missing before the answer with this job id."""
    body = next(c for c in calls if "<TCP" in c.words and job_id in c.words)
    connection = re.search(r"<TCP[^>]*->[^>]*>", body.words)
    assert connection is not None
    answer = min(c.began for c in calls if connection[0] in c.words and "HTTP/1.1 200" in c.words)
    log = [c for c in calls if "coordinator.db-wal>" in c.words]
    written = [c for c in log if job_id in c.words and c.name not in ("fsync", "fdatasync")]
    assert written, "the job is in no write to the log of the database: this test looks in the wrong place"
    missing = []
    # The transaction goes on behind the page with the job; its last page says that it is whole.
    first = min(c.began for c in written)
    last = max((c.ended for c in log if c.name.startswith("pw") and first <= c.began < answer), default=None)
    if last is None:
        return ["the answer left before the job was written at all"]
    if not any(c.name in ("fsync", "fdatasync") and c.began > last and c.ended < answer for c in log):
        missing.append("no sync of the database's log between the write and the answer")
    if large:
        missing += _blob_faults(calls, first)
    return missing


def _blob_faults(calls: list[Call], committed: int) -> list[str]:
    """Return what is missing of: bytes written, file synced, renamed, directory synced, all before the commit."""
    (rename,) = [c for c in calls if c.name.startswith("rename") and "/staging/" in c.words]
    paths = re.findall(r'"([^"]+)"', rename.words)
    source, target = paths[0], paths[-1]
    written = [c for c in calls if c.name == "write" and f"<{source}>" in c.words]
    assert written, "the bytes were written elsewhere: this test looks in the wrong place"
    whole = max(c.ended for c in written)
    missing = []
    if not any(
        c.name == "fsync" and f"<{source}>" in c.words and whole < c.began <= c.ended < rename.began for c in calls
    ):
        missing.append("no fsync of the file between its bytes and its name")
    directory = str(Path(target).parent)
    if not any(
        c.name == "fsync" and f"<{directory}>" in c.words and rename.ended < c.began <= c.ended < committed
        for c in calls
    ):
        missing.append("no fsync of the directory between the name and the commit")
    return missing


@pytest.mark.parametrize("archive", [SMALL, LARGE], ids=["small", "large"])
def test_the_answer_leaves_after_everything_is_synced(tmp_path: Path, strace: str, archive: bytes):
    assert durable_before_the_answer(tmp_path, strace, archive, (*TPOOL, "coordinator")) == []


def test_the_control_a_coordinator_that_waits_for_no_disk_is_noticed(tmp_path: Path, strace: str):
    found = durable_before_the_answer(tmp_path, strace, LARGE, (sys.executable, "-c", FORGETFUL))
    assert found == [
        "no sync of the database's log between the write and the answer",
        "no fsync of the file between its bytes and its name",
        "no fsync of the directory between the name and the commit",
    ]
