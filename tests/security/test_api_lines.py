"""Cases 61, 62, 64 and 67: requests that come slowly, are too large, or say two things about their length.

Against real coordinators. Where a limit can be lifted, the control is one that has lifted it: there the same attack
holds its line, or gets in. Where it cannot, the control shows what a reader without the check takes the bytes for.
"""

import asyncio
import http.server
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from support.archives import tar_gz
from support.kept import nothing_kept
from support.real_pool import RealPool
from trusted_pool.protocol import form

FORM = "multipart/form-data; boundary=x"
WHOLE = (
    b'--x\r\nContent-Disposition: form-data; name="files"; filename="p.tar.gz"\r\n\r\n'
    + tar_gz({"main.py": b"print(1)\n"})
    + b"\r\n--x--\r\n"
)
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPool]:
    """A coordinator that waits a second."""
    options = ("--limit", "head-seconds=1", "--limit", "body-seconds=1")
    with RealPool(tmp_path_factory.mktemp("hasty"), (1,), options=options, running=False) as pool:
        yield pool


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPool]:
    """The control: one that waits for ever."""
    options = ("--limit", "head-seconds=none", "--limit", "body-seconds=none")
    with RealPool(tmp_path_factory.mktemp("patient"), (1,), options=options, running=False) as pool:
        yield pool


class Attack:
    """One line on which something comes slowly."""

    def __init__(self, pool: RealPool, begin: bytes) -> None:
        self.sock = socket.create_connection(("127.0.0.1", pool.port), timeout=PATIENCE_S)
        self.sock.sendall(begin)

    def ended(self, drip: bytes = b"") -> bytes:
        """Send a byte now and then until the line ends; return what was said."""
        said = b""
        drops = iter(drip)
        self.sock.settimeout(0.2)
        for _ in range(int(PATIENCE_S / 0.2)):
            try:
                if (drop := next(drops, None)) is not None:
                    self.sock.sendall(bytes((drop,)))
                piece = self.sock.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                return said
            if not piece:
                return said
            said += piece
        raise AssertionError(f"the line is still open: {said!r}")

    def finish(self, rest: bytes) -> int:
        """Send what is missing and return the status of the answer."""
        self.sock.settimeout(PATIENCE_S)
        self.sock.sendall(rest)
        return int(self.sock.recv(65536).split(b" ", 2)[1])


HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: "
SLOW_HEADS = {"nothing comes": (b"", b""), "half a head": (HEAD, b""), "a byte now and then": (HEAD, b"y" * 1000)}


@pytest.mark.parametrize("name", SLOW_HEADS)
def test_61_a_slow_head_is_closed(hasty: RealPool, patient: RealPool, name: str):
    begin, drip = SLOW_HEADS[name]
    held = Attack(patient, begin)
    said = Attack(hasty, begin).ended(drip)
    if begin:
        assert said.startswith(b"HTTP/1.1 408 ")
        assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_slow"
        assert b"retry-after: 1\r\n" in said
    else:
        assert said == b"", "nobody asked anything"
    assert held.finish((b"" if begin else HEAD) + b"y\r\n\r\n") == 200, "the control still has its line"
    assert hasty.http.get("/health").status_code == 200


SLOW_BODIES = {
    "a submit": (f"POST /submit HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n", WHOLE),
    "a dry run": (f"POST /submit?dry_run=1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n", WHOLE),
    "JSON": ("POST /limits/eve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n", b'{"queued": 1000}'),
}


@pytest.mark.parametrize("name", SLOW_BODIES)
def test_62_a_slow_body_is_answered_408(hasty: RealPool, patient: RealPool, name: str):
    head, body = SLOW_BODIES[name]
    begin = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:5]
    held = Attack(patient, begin)
    with nothing_kept(hasty):
        said = Attack(hasty, begin).ended()
    assert said.startswith(b"HTTP/1.1 408 ")
    head_said, _, rest = said.partition(b"\r\n\r\n")
    assert json.loads(rest)["error"]["code"] == "too_slow"
    assert b"retry-after: 1" in head_said.lower()
    assert b"connection: close" in head_said.lower()
    assert held.finish(body[5:]) == 200, "the control still waited for it"


def head_of(pool: RealPool, length: str) -> bytes:
    """Announce a submit and return the beginning of the answer."""
    with socket.create_connection(("127.0.0.1", pool.port), timeout=PATIENCE_S) as sock:
        sock.sendall(
            f"POST /submit HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nExpect: 100-continue\r\n"
            f"Content-Length: {length}\r\n\r\n".encode()
        )
        return sock.recv(1000)


def test_64_a_body_that_is_announced_too_large_is_refused_before_it_comes(patient: RealPool):
    most = form.FormLimits().max_bytes
    with nothing_kept(patient):
        assert head_of(patient, str(most + 1)).startswith(b"HTTP/1.1 413 ")
        # Half of the disk is what an owner may fill, whatever else a form may hold.
        assert head_of(patient, str(min(most, 10**9))).startswith(b"HTTP/1.1 100 "), "the control: it is waited for"


def test_64_too_many_parts_are_refused(patient: RealPool):
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="f%d.py"\r\n\r\n\r\n'
    body = b"".join(part % number for number in range(15_000)) + b"--x--\r\n"
    with nothing_kept(patient):
        answer = patient.http.post("/submit", content=body, headers={"Content-Type": FORM})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")

    async def count(limits: form.FormLimits) -> int:
        async def whole() -> AsyncIterator[bytes]:
            yield body

        return len([part async for part in form.parts(FORM, whole(), limits)])

    assert asyncio.run(count(form.FormLimits(max_parts=20_000))) == 15_000, "the control: all are read"


@pytest.mark.parametrize("path", ["/limits/ada", "/jobs/cancel", "/keys"])
def test_64_a_large_body_of_json_is_refused(patient: RealPool, path: str):
    for announced in (True, False):
        body = b'{"x": "' + b"y" * 2_000_000 + b'"}'
        content = body if announced else iter([body[:1_500_000], body[1_500_000:]])
        answer = patient.http.post(path, content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    small = patient.http.post(path, content=b'{"x": "y"}', headers={"Content-Type": "application/json"})
    assert small.status_code == 400, "the control: a small one is read"


GET = b"GET /pool HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /limits/ada HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
BODY = b'{"queued": 1000}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
HEADS: list[tuple[str, bytes, tuple[int, ...]]] = [
    ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00", (400,)),
    ("a huge header", GET + b"X: " + b"y" * 200_000 + b"\r\n\r\n", (431,)),
    ("many headers", GET + b"X: y\r\n" * 50_000 + b"\r\n", (431,)),
    ("a huge path", b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", (400, 431)),
    ("67 two lengths", POST + LENGTH + b"Content-Length: 2\r\n\r\n" + BODY, (400,)),
    ("67 one length twice", POST + LENGTH * 2 + b"\r\n" + BODY, (400,)),
    ("67 two lengths in one header", POST + b"Content-Length: 16, 16\r\n\r\n" + BODY, (400,)),
    ("67 both lengths", POST + LENGTH + CHUNKED + b"\r\n10\r\n" + BODY + b"\r\n0\r\n\r\n", (400,)),
    ("67 both lengths, the other way round", POST + CHUNKED + LENGTH + b"\r\n10\r\n" + BODY + b"\r\n0\r\n\r\n", (400,)),
    ("67 chunked and something else", POST + b"Transfer-Encoding: chunked, x\r\n" + LENGTH + b"\r\n" + BODY, (400,)),
    ("a negative length", POST + b"Content-Length: -1\r\n\r\n", (400,)),
    ("a length that is none", POST + b"Content-Length: 0x10\r\n\r\n" + BODY, (400,)),
    ("a bad chunk", POST + CHUNKED + b"\r\nzz\r\n", (0, 400)),  # 0: closed, since an answer may be under way
]


@pytest.mark.parametrize(("raw", "statuses"), [h[1:] for h in HEADS], ids=[h[0] for h in HEADS])
def test_heads(patient: RealPool, raw: bytes, statuses: tuple[int, ...]):
    with nothing_kept(patient):
        assert exchange(patient.port, raw) in statuses
    assert "ada" not in patient.http.get("/limits").json()["owners"]


def test_67_the_control_one_length_is_understood_and_a_careless_reader_takes_two(patient: RealPool):
    assert exchange(patient.port, POST + LENGTH + b"\r\n" + BODY, over=False) == 200
    assert patient.http.get("/limits").json()["owners"]["ada"] == {"queued": 1000}
    assert (
        exchange(patient.port, POST + CHUNKED + b"\r\nf\r\n" + b'{"queued":null}' + b"\r\n0\r\n\r\n", over=False) == 200
    )

    class Careless(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Careless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        for name, raw, _ in HEADS:
            if name in ("67 two lengths", "67 one length twice", "67 both lengths"):
                assert exchange(port, raw, over=False) == 200, name
        server.shutdown()


def exchange(port: int, raw: bytes, *, over: bool = True) -> int:
    """Send bytes and return the status of the answer; 0 when there is none. `over`: say that this was all."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock:
        try:
            sock.sendall(raw)
            if over:
                sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError, OSError):
            answer = b""  # it has heard enough; what it says of that may still arrive
        try:
            while b"\r\n" not in answer and (piece := sock.recv(65536)):
                answer += piece
        except ConnectionResetError:
            return int(answer.split(b" ", 2)[1]) if answer else 0
    return int(answer.split(b" ", 2)[1]) if answer else 0
