"""How a coordinator starts, stops, and reads its allowlist again; and who gets nothing when it waits for a worker."""

import json
import signal
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from support.archives import tar_gz
from support.real_pool import RealPool, RealWorker, free_port, run_tpool, until
from trusted_pool.protocol.certificates import leaf
from trusted_pool.protocol.identity import identity_of

LEAVES_S = 10.0
SLEEPER = {"main.py": b"import time\ntime.sleep(3600)\n"}
ID = identity_of(Ed25519PrivateKey.generate())
OTHER = identity_of(Ed25519PrivateKey.generate())


def test_two_coordinators_never_share_a_data_directory(tmp_path: Path):
    with RealPool(tmp_path, (1,), running=False) as pool:
        job = pool.submit(SLEEPER)
        second = run_tpool("coordinator", "--port", str(free_port()), "--workers", pool.allowlist, "--data", pool.data)
        assert second.returncode == 125
        assert second.stderr.count("\n") == 1, second.stderr
        assert f"in use by process {pool.coordinator.pid}" in second.stderr
        assert pool.status(job)["state"] == "queued"
        pool.coordinator.kill9()  # a lock that outlives its holder would lock out the next one
        pool.coordinator.start()
        pool.until_up()
        assert pool.status(job)["state"] == "queued"


class Upload:
    """A submit whose body comes in two halves."""

    def __init__(self, pool: RealPool) -> None:
        body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="p.tar.gz"\r\n\r\n'
        body += tar_gz(SLEEPER) + b"\r\n--x--\r\n"
        head = f"POST /submit HTTP/1.1\r\nHost: 127.0.0.1:{pool.port}\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: multipart/form-data; boundary=x\r\nExpect: 100-continue\r\n\r\n"
        self.rest = body[100:]
        self.socket = socket.create_connection(("127.0.0.1", pool.port), timeout=30)
        self.socket.sendall(head.encode())
        assert self.socket.recv(1000).startswith(b"HTTP/1.1 100")  # somebody has begun to read
        self.socket.sendall(body[:100])

    def finish(self) -> str:
        """Send the rest; return the job's id."""
        self.socket.sendall(self.rest)
        answer = b""
        while piece := self.socket.recv(65536):
            answer += piece
            if b'"queued"}' in answer:
                break
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), answer
        return str(json.loads(body)["job_id"])


def test_sigterm_finishes_what_is_being_answered(tmp_path: Path):
    with RealPool(tmp_path, (1,), running=False) as pool:
        upload = Upload(pool)
        with closing(upload.socket):
            pool.coordinator.send(signal.SIGTERM)
            pool.coordinator.said("Stopping")
            until(lambda: not _listens(pool.port), "no new connections")
            job = upload.finish()
        assert pool.coordinator.wait(LEAVES_S) == 0
        assert "Traceback" not in pool.coordinator.log
        pool.coordinator.start()
        pool.until_up()
        assert pool.status(job)["state"] == "queued"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_sigterm_waits_for_nobody_for_ever(tmp_path: Path):
    """An upload that stops in the middle, one who waits for a change, one who follows a log."""
    with RealPool(tmp_path, (1,), running=False) as pool:
        job = pool.submit(SLEEPER)
        upload = Upload(pool)
        follower = socket.create_connection(("127.0.0.1", pool.port), timeout=30)
        waiter = socket.create_connection(("127.0.0.1", pool.port), timeout=30)
        with closing(upload.socket), closing(follower), closing(waiter):
            host = f"Host: 127.0.0.1:{pool.port}\r\n\r\n"
            follower.sendall(f"GET /logs/{job}?follow=1 HTTP/1.1\r\n{host}".encode())
            assert b"200" in follower.recv(1000)
            waiter.sendall(f"GET /status/{job}?wait=60 HTTP/1.1\r\n{host}".encode())
            began = time.monotonic()
            pool.coordinator.send(signal.SIGTERM)
            assert pool.coordinator.wait(LEAVES_S + 5) == 0
            assert time.monotonic() - began < LEAVES_S
        assert "Traceback" not in pool.coordinator.log
        assert list((pool.data / "blobs/staging").iterdir()) == []


def test_sighup_reads_the_allowlist_again(tmp_path: Path, bwrap: str):
    assert bwrap
    with RealPool(tmp_path, (1, 1)) as pool:
        first, second = pool.workers
        pool.allow(first.entry)
        pool.coordinator.send(signal.SIGHUP)
        pool.coordinator.said(f"Removed worker: {second.worker_id[:12]}")
        assert [w["worker_id"] for w in pool.pool()["workers"]] == [first.worker_id]
        job = pool.submit({"main.py": b"import time\ntime.sleep(1)\nopen('done', 'w').write('yes')\n"})
        assert pool.until_state(job, "running")["worker_id"] == first.worker_id

        pool.allow(second.entry)
        pool.coordinator.send(signal.SIGHUP)
        pool.coordinator.said(f"Removed worker: {first.worker_id[:12]}")
        until(lambda: [w["is_healthy"] for w in pool.pool()["workers"]] == [True], "the second worker's health")
        assert [w["worker_id"] for w in pool.pool()["workers"]] == [second.worker_id]
        ended = pool.wait(job)
        assert (ended["state"], ended["worker_id"]) == ("completed", second.worker_id), "what ran there goes elsewhere"
        assert [a["worker_id"] for a in ended["attempts"]] == [first.worker_id, second.worker_id]
        assert pool.outputs(job) == {"done": b"yes"}

        pool.allow(second.entry, {**first.entry, "max_concurrent_jobs": 0})
        pool.coordinator.send(signal.SIGHUP)
        line = pool.coordinator.said("workers.json: entry 2: max_concurrent_jobs must be")
        assert "the allowlist stays as it was" in line
        assert [w["worker_id"] for w in pool.pool()["workers"]] == [second.worker_id]
        pool.allowlist.unlink()
        pool.coordinator.send(signal.SIGHUP)
        pool.coordinator.said("cannot be read")
        assert pool.wait(pool.submit({"main.py": b"print(2)"}))["state"] == "completed"


GOOD = {"worker_id": ID, "endpoint": "http://127.0.0.1:8443", "max_concurrent_jobs": 4}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["not valid JSON"]),
        ("{}", ["must be a JSON list"]),
        ([1], ["entry 1", "worker_id and endpoint"]),
        ([GOOD, {**GOOD, "worker_id": "AAAA"}], ["entry 2", "worker_id", "--generate-key"]),
        ([{**GOOD, "worker_id": "A" * 43 + "="}], ["entry 1", "worker_id"]),  # the small-order point
        ([{**GOOD, "worker_id": ID[:-1]}], ["entry 1", "worker_id"]),
        ([GOOD, {**GOOD, "endpoint": "http://127.0.0.1:8444"}], ["entry 2", "worker_id", "entry 1 again"]),
        ([GOOD, {**GOOD, "worker_id": OTHER}], ["entry 2", "endpoint", "entry 1 again"]),
        ([{"worker_id": ID}], ["entry 1", "endpoint"]),
        ([{**GOOD, "endpoint": "file:///etc/passwd"}], ["entry 1", "endpoint", "http://"]),
        ([{**GOOD, "endpoint": "http://me:secret@127.0.0.1"}], ["entry 1", "endpoint", "password"]),
        ([{**GOOD, "endpoint": "http://127.0.0.1:99999"}], ["entry 1", "endpoint"]),
        ([{**GOOD, "max_concurrent_jobs": True}], ["entry 1", "max_concurrent_jobs"]),
        ([{**GOOD, "max_concurent_jobs": 4}], ["entry 1", "did you mean 'max_concurrent_jobs'"]),
        ([{**GOOD, "labels": {"a": 1}}], ["entry 1", "labels"]),
    ],
)
def test_a_mistake_in_the_allowlist_is_one_line(tmp_path: Path, text: Any, words: list[str]):
    path = tmp_path / "workers.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    done = run_tpool("coordinator", "--port", str(free_port()), "--workers", path, "--data", tmp_path / "data")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    for word in ("workers.json", *words):
        assert word in done.stderr


def test_another_address_than_loopback_has_to_be_meant(tmp_path: Path):
    arguments = ["--port", str(free_port()), "--workers", str(tmp_path / "w.json"), "--data", str(tmp_path / "data")]
    (tmp_path / "w.json").write_text("[]")
    for said, missing in (
        ([], "--anonymous --insecure-http"),
        (["--anonymous"], "--insecure-http"),
        (["--insecure-http"], "--anonymous"),
    ):
        done = run_tpool("coordinator", "--host", "0.0.0.0", *said, *arguments)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.rstrip().endswith(f"add: {missing}"), done.stderr
    with RealPool(
        tmp_path / "meant", (1,), options=("--host", "0.0.0.0", "--anonymous", "--insecure-http"), running=False
    ) as pool:
        pool.coordinator.said("without authentication")


class Impostor:
    """A server at a worker's endpoint that lets everybody in and keeps every byte that it gets."""

    def __init__(self, port: int, context: ssl.SSLContext | None, worker_id: str) -> None:
        self.received: list[bytes] = []
        self.connections = 0
        self._context = context
        health = json.dumps({"status": "healthy", "worker_id": worker_id}).encode()
        self._answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(health)
        self._answer += health
        self._listener = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                try:
                    self._hear(connection)
                except OSError:
                    continue  # who comes does not like our certificate
                finally:
                    self.connections += 1

    def _hear(self, connection: socket.socket) -> None:
        stream = self._context.wrap_socket(connection, server_side=True) if self._context else connection
        with stream:
            while piece := stream.recv(65536):
                self.received.append(piece)
                stream.sendall(self._answer)

    @contextmanager
    def __call__(self) -> Iterator["Impostor"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._thread.join()

    def heard(self) -> bytes:
        """Return all that it got."""
        return b"".join(self.received)


def own_certificate(key: Ed25519PrivateKey, says: str) -> ssl.SSLContext:
    """Return a server with this key whose certificate says to come from `says`, and that asks no client for one."""
    honest = x509.load_der_x509_certificate(leaf(key, time.time()))  # noqa: TID251 - certificates go by the real time
    builder = x509.CertificateBuilder(
        issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, says)]),
        subject_name=honest.subject,
        public_key=key.public_key(),
        serial_number=honest.serial_number,
        not_valid_before=honest.not_valid_before_utc,
        not_valid_after=honest.not_valid_after_utc,
        extensions=list(honest.extensions),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.write(builder.sign(key, None).public_bytes(Encoding.PEM))
        file.flush()
        context.load_cert_chain(file.name)
    return context


@pytest.mark.parametrize("kind", ["another key", "another key in the worker's name", "no TLS"])
def test_an_impostor_at_a_listed_endpoint_gets_no_byte_of_a_job(tmp_path: Path, bwrap: str, kind: str):
    assert bwrap
    with RealPool(tmp_path, (1,), running=False) as pool:
        (worker,) = pool.workers
        key = Ed25519PrivateKey.generate()
        says = identity_of(key) if kind == "another key" else worker.worker_id
        context = None if kind == "no TLS" else own_certificate(key, says)
        with Impostor(worker.port, context, worker.worker_id)() as impostor:
            name = "known to nobody else"
            jobs = [pool.submit({"main.py": b"print(1)"}, {"name": name}) for _ in range(3)]
            until(lambda: impostor.connections >= 3, "three calls at the impostor")
            assert pool.pool()["healthy_workers"] == 0
            for job in jobs:
                status = pool.status(job)
                assert (status["state"], status["attempts"]) == ("queued", [])
            heard = impostor.heard()
            if context is None:
                assert heard.startswith(b"\x16\x03"), "the greeting of TLS"
                for word in (b"HTTP", b"/health", b"/submit", name.encode(), b"main.py", *map(str.encode, jobs)):
                    assert word not in heard
            else:
                assert heard == b""
            _control_what_is_sent_to_it_is_kept(impostor, worker, tls=context is not None)
        worker.start()
        for job in jobs:
            status = pool.wait(job)
            assert (status["state"], status["worker_id"]) == ("completed", worker.worker_id)


def _control_what_is_sent_to_it_is_kept(impostor: Impostor, worker: RealWorker, *, tls: bool) -> None:
    """A client that checks nothing takes it for the worker."""
    scheme = "https" if tls else "http"
    with httpx.Client(verify=False, trust_env=False, timeout=10) as trusting:  # noqa: S501 - the control
        answer = trusting.get(f"{scheme}://127.0.0.1:{worker.port}/health", headers={"X-Job": "the secret"})
    assert answer.json()["worker_id"] == worker.worker_id
    assert b"the secret" in impostor.heard()


def test_a_port_that_is_taken_is_one_line(tmp_path: Path):
    (tmp_path / "workers.json").write_text("[]")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = ["--port", port, "--workers", tmp_path / "workers.json", "--data", tmp_path / "data"]
        done = run_tpool("coordinator", *arguments)
    assert done.returncode == 125
    assert done.stderr == f"tpool coordinator: port {port} is taken; choose another with --port\n"
