"""One owner against another's flood: the latency of a submit, the time of an upload and of a download.

Two owners with keys, over HTTP. What is measured is the second one's, alone and while the first floods from a process
of its own; the ratio of the two is what the flood costs a neighbour.

Usage: python bench/fairness.py [LIMITS…], each as NAME=VALUE.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import sqlite3
import statistics
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import uvloop

from daemons import HERE, Pool, archive, process, wait_for
from load import BOUNDARY

SUBMITS = 200
LARGE = 64 * 2**20
CONNECTIONS = 256
TRANSFERS = 50
ROUNDS = 3
MANIFEST = '{"entrypoint":"main.py","interpreter":"python3"}'
#: What a flood may cost a neighbour: times the time alone.
TIMES = {"submit": 10.0, "upload": 4.0, "download": 4.0}
#: Of a flood's submits, so many may be kept between two of a neighbour that sends one after the other.
BETWEEN = 64


def form(data: bytes, name: str = "project.tar.gz") -> bytes:
    """Write the body of a submit; what is no archive has a program beside it."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n'
    body = (part % name).encode() + data + b"\r\n"
    if name.endswith(".bin"):
        body += (part % "main.py").encode() + b"pass\r\n"
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="manifest"\r\n\r\n{MANIFEST}\r\n--{BOUNDARY}--\r\n'
    return body + head.encode()


def request(port: int, token: str, method: str, path: str, body: bytes = b"") -> bytes:
    """Write a whole request."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Line:
    """A kept connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, raw: bytes) -> tuple[int, int]:
        """Send a request; return the status and the bytes of its answer."""
        if self._ends is None:
            self._ends = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        reader, writer = self._ends
        writer.write(raw)
        head = await reader.readuntil(b"\r\n\r\n")
        at = head.lower().index(b"content-length:")
        left = length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        while left and (piece := await reader.read(min(left, 2**20))):
            left -= len(piece)
        return int(head.split(b" ", 2)[1]), length


async def flood(port: int, token: str, what: str, path: str, connections: int) -> None:
    """Ask for the same again and again over many connections, until ended. Says each second what was done."""
    raw = {
        "submit": lambda: request(port, token, "POST", "/submit", form(archive(pad_to=1024))),
        "upload": lambda: request(port, token, "POST", "/submit", form(os.urandom(LARGE // 4), "a.bin")),
        "download": lambda: request(port, token, "GET", path),
    }[what]()
    done: Counter[int] = Counter()

    async def one() -> None:
        line = Line(port)
        while True:
            try:
                status, _ = await line.ask(raw)
                done[status] += 1
                await asyncio.sleep(0 if status == 200 else 0.2)
            except (OSError, ValueError, asyncio.IncompleteReadError):
                line = Line(port)
                await asyncio.sleep(0.1)

    async def tell() -> None:
        while True:
            await asyncio.sleep(1)
            sys.stderr.write(f"{dict(done)}\n")

    await asyncio.gather(tell(), *(one() for _ in range(connections)))


def call(port: int, path: str, token: str = "", body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask once, with JSON."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data, headers=headers)
    with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310 - our own address
        return dict(json.load(answer))


async def submits(port: int, token: str) -> float:
    """Return the median latency of a submit, ms."""
    line, raw, spent = Line(port), request(port, token, "POST", "/submit", form(archive(pad_to=1024))), []
    for _ in range(SUBMITS):
        begin = time.perf_counter()
        status, _ = await line.ask(raw)
        assert status == 200, status
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent) * 1000


async def upload(port: int, token: str) -> float:
    """Return the time of an upload, ms."""
    raw = request(port, token, "POST", "/submit", form(os.urandom(LARGE), "data.bin"))
    begin = time.perf_counter()
    status, _ = await Line(port).ask(raw)
    assert status == 200, status
    return (time.perf_counter() - begin) * 1000


async def download(port: int, token: str, path: str) -> float:
    """Return the time of a download, ms."""
    begin = time.perf_counter()
    status, length = await Line(port).ask(request(port, token, "GET", path))
    assert (status, length) == (200, LARGE)
    return (time.perf_counter() - begin) * 1000


@contextlib.contextmanager
def flooding(port: int, token: str, what: str, path: str, connections: int) -> Iterator[None]:
    """Have another process flood the pool."""
    argv = [sys.executable, str(HERE / "fairness.py"), "--flood", str(port), token, what, path, str(connections)]
    with process(*argv):
        time.sleep(2.0)
        yield


def run(limits: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Measure all."""
    rows = []
    with Pool([4], options=[word for limit in limits for word in ("--limit", limit)]) as pool:
        port = pool.port
        admin = str(call(port, "/keys", body={"owner": "admin", "role": "admin"})["token"])
        ada, bob = (str(call(port, "/keys", admin, {"owner": owner})["token"]) for owner in ("ada", "bob"))
        paths = {token: _output(port, token) for token in (ada, bob)}
        call(port, "/pause", admin, {})
        kinds: dict[str, Callable[[], Awaitable[float]]] = {
            "submit": lambda: submits(port, bob),
            "upload": lambda: upload(port, bob),
            "download": lambda: download(port, bob, paths[bob]),
        }
        for what, measure in kinds.items():
            alone, crowded = [], []
            connections = CONNECTIONS if what == "submit" else TRANSFERS
            for _ in range(ROUNDS):
                alone.append(asyncio.run(_settled(measure)))
                with flooding(port, ada, what, paths[ada], connections):
                    crowded.append(asyncio.run(_settled(measure)))
            a, b = statistics.median(crowded), statistics.median(alone)
            words = f"{what}, ms, while another owner floods with {connections} connections; baseline: alone"
            rows.append(_row(words, round(a, 2), round(b, 2), f"<= {TIMES[what]:g}"))
        rows.append(_between(pool))
    return rows


def _row(what: str, ours: float, baseline: float, mark: str) -> dict[str, Any]:
    return {"what": what, "ours": ours, "baseline": baseline, "ratio": round(ours / baseline, 2), "mark": mark}


def _between(pool: Pool) -> dict[str, Any]:
    """Count what was kept of the flood between two submits of the neighbour. It depends on no speed of the machine."""
    with contextlib.closing(sqlite3.connect(f"file:{pool.root}/coordinator/coordinator.db?mode=ro", uri=True)) as store:
        owners = [owner for (owner,) in store.execute("SELECT owner FROM jobs ORDER BY rowid")]
    at = [place for place, owner in enumerate(owners) if owner == "bob"]
    between = [later - earlier - 1 for earlier, later in itertools.pairwise(at)]
    crowded = statistics.median(n for n in between if n)
    words = f"submits of the flood between two of a neighbour; baseline: its {CONNECTIONS} connections"
    return _row(words, crowded, CONNECTIONS, f"<= {BETWEEN / CONNECTIONS:g}")


async def _settled(measure: Callable[[], Awaitable[float]]) -> float:
    await measure()
    return await measure()


def _output(port: int, token: str) -> str:
    """Have a job leave a large file; return the path of it."""
    source = f"import os\nopen('large.bin','wb').write(os.urandom({LARGE}))\n"
    body = form(archive(source))
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/submit", data=body)
    asked.add_header("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
    asked.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310 - our own address
        job_id = json.load(answer)["job_id"]
    wait_for(lambda: call(port, f"/status/{job_id}?wait=1", token)["state"] == "completed", 120)
    return f"/outputs/{job_id}/large.bin"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flood", nargs=5)
    parser.add_argument("limits", nargs="*")
    arguments = parser.parse_args()
    if arguments.flood:
        at, key, kind, where, count = arguments.flood
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(flood(int(at), key, kind, where, int(count)))
    for row in run(tuple(arguments.limits)):
        sys.stdout.write(f"{row['what']:<90} {row['ours']:>9} {row['baseline']:>9}  x{row['ratio']:<6} {row['mark']}\n")
