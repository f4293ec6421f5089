"""The port of a real worker: who is not let in (cases 63, 75), and who is let in no more (case 78)."""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.far_pool import FarPool
from support.real_pool import RealWorker, run_tpool, until
from trusted_pool.core.words import AttemptState
from trusted_pool.ports.link import FencedError, LinkError, RefusedError
from trusted_pool.protocol.certificates import server_name
from trusted_pool.protocol.identity import create_key_file

HANDSHAKE_S = 10.0  #: what a worker waits for
SLEEPS = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"
QUICK = "print('done')\n"


class Port:
    """A worker with a list of pools, and somebody who began a handshake when it started and never went on."""

    def __init__(self, home: Path) -> None:
        self.list = home / "pools"
        self.worker = RealWorker(home, "worker", 4, "--pools", str(self.list))
        self.stalled_since = 0.0

    def start(self) -> None:
        self.list.write_text("# nobody yet\n")
        self.worker.start()
        self.worker.said("serves https")
        self.stalled = socket.create_connection(("127.0.0.1", self.worker.port), timeout=60)
        self.stalled.sendall(b"\x16\x03\x01")
        self.stalled_since = time.monotonic()

    def pool(self, epoch: int = 1, key: Any = None) -> FarPool:
        return FarPool(self.worker.worker_id, self.worker.port, key, epoch)

    def lists(self, *pools: FarPool) -> None:
        """Write the list anew and wait until the worker has read it."""
        with self.reads_again():
            self.list.write_text("".join(f"{pool.pool_id}\n" for pool in pools))

    @contextlib.contextmanager
    def reads_again(self) -> Iterator[None]:
        """Wait until the worker has read what is changed inside."""
        before = self.worker.log.count("Read ")
        yield
        until(lambda: self.worker.log.count("Read ") > before, "the list read again")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    port = Port(tmp_path_factory.mktemp("port"))
    try:
        port.start()
        yield port
    finally:
        port.worker.stop()
    assert port.worker.left() == []


def play(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(limited())


def careless(**changes: object) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name, value in changes.items():
        setattr(context, name, value)
    return context


def knock(port: int, context: ssl.SSLContext | None, name: str) -> bytes:
    """Ask for /health and return what came back."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
        try:
            stream = plain if context is None else context.wrap_socket(plain, server_hostname=name)
            stream.sendall(b"GET /health HTTP/1.1\r\nhost: w\r\nconnection: close\r\n\r\n")
            while piece := stream.recv(65536):
                answer += piece
        except (ssl.SSLError, ConnectionError):
            pass
    return answer


@pytest.mark.parametrize("caller", ["plain http", "TLS 1.2", "no client certificate"])
def test_75_who_proves_nothing_hears_nothing(port: Port, caller: str):
    pool = port.pool()
    port.lists(pool)
    context = {
        "plain http": None,
        "TLS 1.2": careless(maximum_version=ssl.TLSVersion.TLSv1_2),
        "no client certificate": careless(),
    }[caller]
    assert knock(port.worker.port, context, server_name(pool.pool_id)) == b""

    async def control() -> None:
        assert (await pool.link.health()).worker_id == port.worker.worker_id
        await pool.link.close()

    play(control)


def test_78_a_pool_that_is_taken_off_the_list_is_cut_off_at_once(port: Port):
    out, stays = port.pool(), port.pool()
    port.lists(out, stays)

    async def main() -> None:
        kept, theirs = await out.connect(), await stays.connect()
        assert (await kept.ask("/health"))[0] == (await theirs.ask("/health"))[0] == 200
        runs = await out.submit("pool-78", SLEEPS)
        goes_on = await stays.submit("pool-79", SLEEPS)
        streams = [asyncio.ensure_future(_drain(pool.link.events("", 0))) for pool in (out, stays)]
        logs = [
            asyncio.ensure_future(_drain(pool.link.log(job.job_id, 0, follow=True)))
            for pool, job in ((out, runs), (stays, goes_on))
        ]
        for pool, job in ((out, runs), (stays, goes_on)):
            await _says_up(pool, job.job_id)

        began = time.monotonic()
        await asyncio.to_thread(port.lists, stays)
        for open_answer in (streams[0], logs[0]):
            with pytest.raises(LinkError):
                await open_answer
        assert time.monotonic() - began < 5, "about a second after the change"
        status, answer = await kept.ask("/health")
        assert (status, answer["error"]["code"]) == (403, "forbidden")
        assert await kept.ended(), "and the connection is not kept for more"
        for call in (out.link.health(), out.link.attempts(), out.link.cancel(runs.job_id), out.submit("p-1", QUICK)):
            with pytest.raises(RefusedError) as caught:
                await call
            assert caught.value.status == 403
        what_to_type = str(caught.value).partition("type: ")[2]
        assert what_to_type == f"printf '\\n%s\\n' {out.pool_id} >> {port.list}"
        await asyncio.to_thread(port.worker.said, f"({runs.job_id}) interrupted")

        assert not any(open_answer.done() for open_answer in (streams[1], logs[1])), "the control: another pool's"
        assert (await theirs.ask("/health"))[0] == 200
        assert {r.state for r in (await stays.link.attempts()).attempts} == {AttemptState.RUNNING}

        with port.reads_again():
            await asyncio.to_thread(subprocess.run, ["sh", "-c", what_to_type], check=True)
        (report,) = (await out.link.attempts()).attempts
        assert report.state is AttemptState.INTERRUPTED
        assert "off its list" in report.words
        assert (await out.submit("pool-80", QUICK)).job_id

        port.list.write_text("nonsense\n")
        os.kill(port.worker.pid, signal.SIGHUP)
        line = await asyncio.to_thread(port.worker.said, "line 1: 'nonsense' is no pool id")
        assert line.endswith("the pools stay as they were")
        assert (await theirs.ask("/health"))[0] == 200
        await stays.link.cancel(goes_on.job_id)
        for kept_open in (kept, theirs):
            kept_open.close()
        for open_answer in (streams[1], logs[1]):
            open_answer.cancel()
        await asyncio.wait([streams[1], logs[1]])
        for pool in (out, stays):
            await pool.link.close()

    play(main)


async def _drain(pieces: Any) -> None:
    async for _ in pieces:
        pass


async def _says_up(pool: FarPool, remote_id: str) -> None:
    async for piece in pool.link.log(remote_id, 0, follow=True):
        if b"up" in piece:
            return


def test_a_newer_epoch_ends_the_streams_of_the_older_and_refuses_it(port: Port):
    old = port.pool(epoch=7)
    new = port.pool(epoch=8, key=old.key)
    port.lists(old)

    async def main() -> None:
        kept = await old.connect()
        runs = await old.submit("pool-1", SLEEPS)
        await _says_up(old, runs.job_id)
        stream = asyncio.ensure_future(_drain(old.link.events("", 0)))
        log = asyncio.ensure_future(_drain(old.link.log(runs.job_id, 0, follow=True)))
        assert (await kept.ask("/health", epoch=7))[0] == 200
        assert not stream.done()
        await new.link.health()  # the first word of the other coordinator
        for open_answer in (stream, log):
            with pytest.raises(LinkError):
                await open_answer
        status, answer = await kept.ask(f"/cancel/{runs.job_id}", "POST", epoch=7)
        assert (status, answer["error"]["code"]) == (409, "stale_epoch")
        for call in (
            old.link.health(),
            old.link.attempts(),
            old.link.cancel(runs.job_id),
            old.link.release(runs.job_id),
            old.link.outputs(runs.job_id),
            old.submit("pool-2", QUICK),
        ):
            with pytest.raises(FencedError, match="stop one of the two"):
                await call
        (report,) = (await new.link.attempts()).attempts
        assert (report.job_id, report.state) == ("pool-1", AttemptState.RUNNING)
        assert await kept.ended()
        kept.close()
        fresh = await new.connect()
        assert (await fresh.ask(f"/cancel/{runs.job_id}", "POST", epoch=8))[0] == 200, "the control"
        fresh.close()
        for pool in (old, new):
            await pool.link.close()

    play(main)


def test_63_a_handshake_that_stalls_is_ended(port: Port):
    """It was begun when the worker started; everybody else was answered meanwhile."""
    port.stalled.settimeout(HANDSHAKE_S + 20)
    assert port.stalled.recv(100) == b""
    assert time.monotonic() - port.stalled_since > HANDSHAKE_S / 2, "a slow line has a moment"


def test_a_mistake_in_the_list_is_one_line_before_anything_starts(tmp_path: Path):
    key, pools = tmp_path / "worker.pem", tmp_path / "pools"
    create_key_file(key)
    pools.write_text("A" * 43 + "=\n")  # the small-order point
    common = ("worker", "--worker-key", key, "--port", "0", "--host", "127.0.0.1", "--data", tmp_path / "data")
    for options, words in (
        (("--pools", pools), f"{pools}: line 1: "),
        (("--pools", tmp_path / "none"), "--pools"),
    ):
        done = run_tpool(*common, *options)
        assert done.returncode == 2, (options, done.stderr)
        assert done.stderr.count("\n") == 1, done.stderr
        assert words in done.stderr, done.stderr
