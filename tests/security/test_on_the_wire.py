"""Between coordinator and worker: what can be read on the way, and who cannot put himself in between."""

import contextlib
import gzip
import io
import json
import signal
import socket
import ssl
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support.capture import Capture
from support.networks import alone, need_namespaces
from support.proxy import Proxy
from support.real_pool import RealPool, RealWorker, until
from support.sandrun_worker import SandrunWorker
from support.traces import journal_of, runs_ended, spent, until_released, worker_of
from trusted_pool.protocol.certificates import leaf
from trusted_pool.protocol.identity import identity_of, load_key_file

#: What a job holds, in parts, so that what it prints and leaves is not what it was sent.
IN_MANIFEST, IN_FILE = b"canary-of-the-manifest-1c93", b"canary-of-the-input-file-77ab"
IN_LOG, IN_ERROR, IN_OUTPUT = b"canary-of-the-log-5521ef", b"canary-of-stderr-90aa31", b"canary-of-the-output-d00d42"
CANARIES = (IN_MANIFEST, IN_FILE, IN_LOG, IN_ERROR, IN_OUTPUT)
PROGRAM = b"""
import sys
def whole(*parts): return "".join(reversed(parts))
print(whole("the-log-5521ef", "canary-of-"))
print(whole("stderr-90aa31", "canary-of-"), file=sys.stderr)
open("out.txt", "w").write(whole("the-output-d00d42", "canary-of-"))
"""
MANIFEST = {"entrypoint": "main.py", "interpreter": "python3", "args": [IN_MANIFEST.decode()], "outputs": ["out.txt"]}


def archive() -> bytes:
    """Return a .tar.gz that is not pressed: what is in it can be read in it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in (("main.py", PROGRAM), ("data.txt", IN_FILE)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(out.getvalue(), 0)


def run_one(pool: RealPool) -> str:
    job_id = pool.submit(archive(), MANIFEST)
    status = pool.wait(job_id)
    assert status["state"] == "completed", status
    assert pool.outputs(job_id) == {"out.txt": IN_OUTPUT}
    logs = pool.http.get(f"/logs/{job_id}").json()
    assert (logs["stdout"], logs["stderr"]) == (f"{IN_LOG.decode()}\n", f"{IN_ERROR.decode()}\n")
    return job_id


@pytest.fixture
def own_network() -> Iterator[None]:
    need_namespaces()
    with alone():
        yield


@pytest.mark.root
@pytest.mark.usefixtures("own_network")
def test_no_byte_of_a_job_can_be_read_on_the_way_to_its_worker(tmp_path: Path):
    assert all(canary not in PROGRAM for canary in CANARIES)
    assert IN_FILE in archive()
    pool = RealPool(tmp_path, (1,))
    (worker,) = pool.workers
    with contextlib.ExitStack() as stack:
        with Capture(worker.port) as capture:
            stack.enter_context(pool)
            run_one(pool)
            until_released(pool)
        said = capture.streams()
        assert sum(map(len, said)) > len(archive()) + 2000, "it was there"
        assert all(stream.startswith(b"\x16\x03") for stream in said), "and all of it was TLS"
        for secret in (*CANARIES, b"HTTP/1.1", b"/submit?", worker.worker_id.encode()):
            assert capture.parts_of(secret) == []

        claimed_id = identity_of(Ed25519PrivateKey.generate())
        claimed = stack.enter_context(SandrunWorker(tmp_path / "claimed", claimed_id, gap_s=0.1))
        with Capture(claimed.port) as capture:  # the control: the same job, the same capture, no TLS
            pool.allow(claimed.entry)
            pool.coordinator.send(signal.SIGHUP)
            pool.coordinator.said(f"Worker {claimed_id[:12]}... is healthy")
            run_one(pool)
        said = capture.streams()
        for secret in (*CANARIES, b"HTTP/1.1", claimed_id.encode()):
            assert any(secret in stream for stream in said), secret


def serving(key: Ed25519PrivateKey) -> ssl.SSLContext:
    """Return a server that lets everybody in, with an honest leaf of this key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        now = time.time()  # noqa: TID251 - certificates go by the real time
        file.write(ssl.DER_cert_to_PEM_cert(leaf(key, now)).encode())
        file.flush()
        context.load_cert_chain(file.name)
    return context


def healthy_answer(worker_id: str) -> bytes:
    body = json.dumps({"status": "healthy", "worker_id": worker_id}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def say_to(port: int, said: bytes) -> bytes:
    """Send recorded bytes to a port; return what comes back."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
        try:
            line.sendall(said)
            while piece := line.recv(65536):
                answer += piece
        except ConnectionError:
            pass
    return answer


def moved(pool: RealPool, *entries: tuple[RealWorker, int]) -> None:
    """Have each worker listed at such a port."""
    pool.allow(*({**worker.entry, "endpoint": f"http://127.0.0.1:{port}"} for worker, port in entries))
    pool.coordinator.send(signal.SIGHUP)


def test_nobody_gets_in_between(tmp_path: Path):
    """A man in the middle, a session played again, a worker under another's address."""
    with RealPool(tmp_path, (1, 1)) as pool:
        first, second = pool.workers
        with Proxy(target=first.port) as wire:  # it only passes on, and keeps a record
            moved(pool, (first, wire.port))
            pool.until_healthy(1)
            job_id = run_one(pool)
            until_released(pool)
            recorded = [bytes(said) for said in wire.heard]
            assert sum(map(len, recorded)) > len(archive())
            assert not any(canary in said for said in (*recorded, *map(bytes, wire.told)) for canary in CANARIES)
        for said in recorded:
            assert b"HTTP" not in say_to(first.port, said)
        assert runs_ended(pool) == {job_id: 1}
        assert journal_of(pool, first) == []

        thief = load_key_file(first.key)
        for key, stolen in ((Ed25519PrivateKey.generate(), False), (thief, True)):
            with Proxy(tls=serving(key), answer=healthy_answer(first.worker_id)) as middle:
                moved(pool, (first, middle.port))
                waits = pool.submit(archive(), MANIFEST)
                if stolen:  # the control: with the worker's own key it does get the job
                    until(lambda: IN_FILE in middle.all_heard(), "the job at the thief")
                    assert IN_MANIFEST in middle.all_heard()
                else:
                    until(lambda: "not the listed worker" in worker_of(pool, first)["words"], "a refusal that is said")
                    assert middle.all_heard() == b""
                    assert spent(pool.status(waits)) == 0
                pool.http.post(f"/cancel/{waits}")

        ran = len(first.log.splitlines()), len(second.log.splitlines())
        moved(pool, (first, second.port), (second, first.port))
        waits = pool.submit(archive(), MANIFEST)
        for worker in pool.workers:
            until(lambda: "not the listed worker" in worker_of(pool, worker)["words"], "said")  # noqa: B023 - awaited
        assert spent(pool.status(waits)) == 0
        assert (len(first.log.splitlines()), len(second.log.splitlines())) == ran
        assert journal_of(pool, first) == journal_of(pool, second) == []
        moved(pool, (first, first.port), (second, second.port))
        assert pool.wait(waits)["state"] == "completed", "the control: each at its own address"


def test_control_a_recorded_session_of_a_claimed_worker_can_be_played_again(tmp_path: Path):
    claimed_id = identity_of(Ed25519PrivateKey.generate())
    pool = RealPool(tmp_path / "pool", workers=(), running=False)
    with SandrunWorker(tmp_path / "claimed", claimed_id, gap_s=0.1) as claimed, Proxy(target=claimed.port) as wire:
        pool.allow({**claimed.entry, "endpoint": f"http://127.0.0.1:{wire.port}"})
        with pool:
            pool.until_healthy(1)
            run_one(pool)
            (sent,) = [bytes(said) for said in wire.heard if said.startswith(b"POST /submit")]
            assert b"HTTP/1.1 200" in say_to(claimed.port, sent)
            assert len(claimed.submits) == 2
