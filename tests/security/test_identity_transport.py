"""Who gets through the transport between coordinator and worker, and what a hostile peer can do to either.

Each attack has its control: the same exchange without the flaw goes through.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from trusted_pool.core.job import InputFile
from trusted_pool.core.worker import Worker
from trusted_pool.link.fake_http import application
from trusted_pool.link.fake_worker import FakeWorker
from trusted_pool.link.pinned import Patience, PinnedLink
from trusted_pool.ports.link import LinkError, NotSentError, Order, UnansweredError, WrongIdentityError
from trusted_pool.protocol.certificates import _name, client_context, leaf, pem_path, server_context, server_name
from trusted_pool.protocol.identity import identity_of
from trusted_pool.serve import Limits, Server

SECRET = b"the bytes of a job" * 5000
LISTED, POOL, STRANGER = (Ed25519PrivateKey.generate() for _ in range(3))
LONG = 20.0
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class SystemClock:
    def now(self) -> float:
        return time.time()  # noqa: TID251 - certificates are checked by the machine's clock

    def monotonic(self) -> float:
        return time.monotonic()


CLOCK = SystemClock()


def certificate(signer: Ed25519PrivateKey, of: Ed25519PrivateKey, issuer: str, age_s: float = 0.0) -> bytes:
    """Return a leaf of the key `of`, signed by `signer`, that says `issuer`."""
    honest = x509.load_der_x509_certificate(leaf(signer, CLOCK.now() - age_s))
    builder = x509.CertificateBuilder(extensions=list(honest.extensions))
    builder = builder.subject_name(honest.subject).issuer_name(_name(issuer)).public_key(of.public_key())
    builder = builder.serial_number(7).not_valid_before(honest.not_valid_before_utc)
    return builder.not_valid_after(honest.not_valid_after_utc).sign(signer, None).public_bytes(Encoding.DER)


def impostor_context(key: Ed25519PrivateKey, der: bytes, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Return a server that lets everybody in and shows this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if newest is not None:
        context.maximum_version = newest
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pem_path(pem + ssl.DER_cert_to_PEM_cert(der).encode()) as path:
        context.load_cert_chain(path)
    return context


class Peer:
    """A server that keeps every byte it gets out of its TLS, and answers by `handler`."""

    def __init__(self, handler: Handler | None = None) -> None:
        self.received = b""
        self.connections = 0
        self.port = 0
        self._handler = handler

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            if self._handler is not None:
                await self._handler(reader, writer)
            else:
                while piece := await reader.read(65536):
                    self.received += piece
                    if writer.get_extra_info("ssl_object") is None:
                        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    @contextlib.asynccontextmanager
    async def __call__(self, tls: ssl.SSLContext | None) -> AsyncIterator["Peer"]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()


def link_to(port: int, **patience: float) -> PinnedLink:
    """Return a link to the listed worker, said to be at that port."""
    listed = Worker(worker_id=identity_of(LISTED), endpoint=f"https://127.0.0.1:{port}")
    waits = {"connect_s": 3.0, "call_s": 5.0, "idle_s": 1.0, "accept_s": 1.0, "silence_s": 1.0, **patience}
    return PinnedLink(listed, POOL, 1, CLOCK, Patience(**waits))


async def read_secret(_: InputFile) -> AsyncIterator[bytes]:
    yield SECRET


async def submit(link: PinnedLink) -> Any:
    inputs = (InputFile(name="project.tar.gz", size=len(SECRET), sha256=""),)
    order = Order(job_id="pool-0123456789abcdef", attempt=1, manifest='{"secret":1}', inputs=inputs)
    return await link.submit(order, read_secret)


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(LONG):
            await body()

    asyncio.run(main())


IMPOSTORS = {
    "another key": lambda: impostor_context(STRANGER, leaf(STRANGER, CLOCK.now())),
    "another key that names the listed one as issuer": lambda: impostor_context(
        STRANGER, certificate(STRANGER, STRANGER, identity_of(LISTED))
    ),
    "another key for which the listed one issued a leaf": lambda: impostor_context(
        STRANGER, certificate(LISTED, STRANGER, identity_of(LISTED))
    ),
    "expired leaf of the listed key": lambda: impostor_context(LISTED, leaf(LISTED, CLOCK.now() - 31 * 86_400)),
    "TLS 1.2": lambda: impostor_context(LISTED, leaf(LISTED, CLOCK.now()), ssl.TLSVersion.TLSv1_2),
    "plain HTTP": lambda: None,
}


@pytest.mark.parametrize("impostor", IMPOSTORS)
def test_an_impostor_gets_no_byte_of_a_job(impostor: str) -> None:
    async def body() -> None:
        async with Peer()(IMPOSTORS[impostor]()) as peer:
            link = link_to(peer.port)
            with pytest.raises(NotSentError) as caught:
                await submit(link)
            with pytest.raises(NotSentError):
                await link.health()
            await link.close()
            assert b"secret" not in peer.received
            assert b"the bytes of a job" not in peer.received
            if impostor != "plain HTTP":  # there the handshake's first message is what it receives
                assert peer.received == b""
            if impostor != "TLS 1.2":  # there it is the impostor that gives up, before it proves anything
                assert isinstance(caught.value, WrongIdentityError)

    run(body)


def test_control_the_listed_key_gets_the_job() -> None:
    async def body() -> None:
        async with Peer()(impostor_context(LISTED, leaf(LISTED, CLOCK.now()))) as peer:
            link = link_to(peer.port)
            with pytest.raises(UnansweredError):  # it listens and says nothing
                await submit(link)
            await link.close()
            assert SECRET in peer.received
            assert b'{"secret":1}' in peer.received

    run(body)


class Knocker:
    """A worker that records every request its HTTP side sees."""

    def __init__(self) -> None:
        self.worker = FakeWorker(identity_of(LISTED))
        self.seen: list[str] = []
        self._app = application(self.worker)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope["type"])
        await self._app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def serving(self, **limits: Any) -> AsyncIterator[Server]:
        tls = server_context(LISTED, CLOCK.now)
        server = Server(self, host="127.0.0.1", port=0, ssl_context=tls, limits=Limits(**limits))
        await server.start()
        self.seen.clear()
        try:
            yield server
        finally:
            await server.stop(0)


def careless(newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if newest is not None:
        context.maximum_version = newest
    return context


def careless_with(key: Ed25519PrivateKey, der: bytes) -> ssl.SSLContext:
    context = careless()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pem_path(pem + ssl.DER_cert_to_PEM_cert(der).encode()) as path:
        context.load_cert_chain(path)
    return context


NAME = server_name(identity_of(POOL))
CALLERS: dict[str, Callable[[], tuple[ssl.SSLContext | None, str | None]]] = {
    "plain HTTP": lambda: (None, None),
    "TLS 1.2": lambda: (careless(ssl.TLSVersion.TLSv1_2), NAME),
    "no certificate": lambda: (careless(), NAME),
    "no name": lambda: (client_context(identity_of(LISTED), POOL, CLOCK.now()), ""),
    "garbage name": lambda: (client_context(identity_of(LISTED), POOL, CLOCK.now()), "worker.example.com"),
    "another key than it names": lambda: (client_context(identity_of(LISTED), STRANGER, CLOCK.now()), NAME),
    "forged issuer": lambda: (careless_with(STRANGER, certificate(STRANGER, STRANGER, identity_of(POOL))), NAME),
    "a leaf the pool issued to another key": lambda: (
        careless_with(STRANGER, certificate(POOL, STRANGER, identity_of(POOL))),
        NAME,
    ),
    "expired leaf": lambda: (client_context(identity_of(LISTED), POOL, CLOCK.now() - 31 * 86_400), NAME),
}


async def knock(port: int, tls: ssl.SSLContext | None, name: str | None) -> bytes:
    """Ask for /health; return what came back until the connection ended or the answer was there."""
    head = f"GET /health HTTP/1.1\r\nconnection: close\r\ntrusted-pool-id: {identity_of(POOL)}\r\n\r\n"
    answer = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name)
        try:
            writer.write(head.encode())
            while piece := await reader.read(65536):
                answer += piece
        finally:
            writer.close()
    return answer


@pytest.mark.parametrize("caller", CALLERS)
def test_a_worker_answers_nobody_who_does_not_prove_the_key_it_names(caller: str) -> None:
    async def body() -> None:
        knocker = Knocker()
        async with knocker.serving() as server:
            assert await knock(server.port, *CALLERS[caller]()) == b""
            assert knocker.seen == []
            proven = client_context(identity_of(LISTED), POOL, CLOCK.now())  # the control, on the same server
            assert (await knock(server.port, proven, NAME)).startswith(b"HTTP/1.1 200 ")
            assert knocker.seen == ["http"]

    run(body)


def test_any_pool_that_proves_its_key_is_told_apart_by_the_application() -> None:
    """The header names one pool, the handshake proved another: the application sees both."""

    async def body() -> None:
        knocker = Knocker()
        async with knocker.serving() as server:
            stranger = client_context(identity_of(LISTED), STRANGER, CLOCK.now())
            answer = await knock(server.port, stranger, server_name(identity_of(STRANGER)))
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert b"tpool worker --pool" in answer

    run(body)


def test_a_stalled_handshake_ends_at_the_worker() -> None:
    async def body() -> None:
        knocker = Knocker()
        async with knocker.serving(handshake_timeout_s=0.3) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"\x16\x03\x01")
            assert await reader.read() == b""
            writer.close()
            assert knocker.seen == []
        async with knocker.serving(handshake_timeout_s=60) as server:  # the control: what ends it is the limit
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"\x16\x03\x01")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(), 0.6)
            writer.close()

    run(body)


def test_a_stalled_handshake_ends_at_the_coordinator() -> None:
    async def body() -> None:
        async def mute(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await reader.read()

        async with Peer(mute)(None) as peer:
            link = link_to(peer.port, connect_s=0.3)
            with pytest.raises(NotSentError):
                await submit(link)
            await link.close()

    run(body)


def test_a_slow_head_is_closed_though_the_key_was_proven() -> None:
    async def body() -> None:
        knocker = Knocker()
        async with knocker.serving(header_timeout_s=0.3) as server:
            tls = client_context(identity_of(LISTED), POOL, CLOCK.now())
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=tls, server_hostname=NAME)
            writer.write(b"GET /health HTTP/1.1\r\nx-slow:")
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
            writer.close()
            assert knocker.seen == []

    run(body)


@contextlib.asynccontextmanager
async def listed_worker(handler: Handler) -> AsyncIterator[Peer]:
    """Serve as the listed worker, with answers of the test's choice."""
    async with Peer(handler)(impostor_context(LISTED, leaf(LISTED, CLOCK.now()))) as peer:
        yield peer


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def test_a_line_that_is_closed_asks_nobody_again() -> None:
    """The HTTP client repeats a GET whose kept connection ends; not when it is we who ended it."""
    health = f'{{"status": "healthy", "worker_id": "{identity_of(LISTED)}"}}'.encode()

    async def body() -> None:
        for ours in (True, False):
            asked = asyncio.Event()

            async def once(
                reader: asyncio.StreamReader,
                writer: asyncio.StreamWriter,
                asked: asyncio.Event = asked,
                ours: bool = ours,
            ) -> None:
                await head_of(reader)
                if peer.connections > 1:
                    return
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(health) + health)
                await head_of(reader)
                asked.set()
                if ours:
                    await reader.read()

            async with listed_worker(once) as peer:
                link = link_to(peer.port)
                await link.health()
                call = asyncio.ensure_future(link.health())
                await asked.wait()
                if ours:
                    await link.close()
                with pytest.raises(LinkError):
                    await call
                assert peer.connections == (1 if ours else 2), "the control: it is repeated when the worker hangs up"
                await link.close()

    run(body)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"a" * (1 << 20), "more than"),
        (b"", "silent"),
        (b"nonsense\n", "understood"),
        (b'{"type":"heartbeat"}\n', "hello"),
        (b'{"type":"hello","journal_id":7,"seq":1}\n', "understood"),
    ],
)
def test_an_event_stream_is_capped_timed_and_understood(line: bytes, words: str) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.transport.is_closing():
            writer.write(line)
            await writer.drain()
            await asyncio.sleep(0 if len(line) > 1000 else 0.05)

    async def body() -> None:
        async with listed_worker(speak) as peer:
            link = link_to(peer.port, silence_s=15.0 if line else 0.5)
            with pytest.raises(LinkError, match=words):
                await anext(link.events("", 0))
            await link.close()

    run(body)


def test_an_event_of_a_newer_worker_is_passed_over() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.write(b'{"type":"hello","journal_id":"j","seq":1,"mood":"good"}\n{"type":"levitated"}\n')
        writer.write(b'\n{"type":"heartbeat"}\n')
        await reader.read()

    async def body() -> None:
        async with listed_worker(speak) as peer:
            link = link_to(peer.port)
            events = link.events("", 0)
            assert [type(await anext(events)).__name__ for _ in range(2)] == ["Hello", "Heartbeat"]
            await events.aclose()
            await link.close()

    run(body)


def test_a_worker_that_stops_in_the_middle_does_not_hold_the_coordinator() -> None:
    async def stuck(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        await reader.read()

    async def body() -> None:
        async with listed_worker(stuck) as peer:
            link = link_to(peer.port, call_s=0.5)
            with pytest.raises(UnansweredError):
                await link.health()
            with pytest.raises(UnansweredError):
                await submit(link)
            output = link.output("remote-1", "a")
            assert await anext(output) == b"{"
            with pytest.raises(UnansweredError, match="silent"):
                await anext(output)
            await link.close()

    run(body)


def test_an_output_that_is_cut_short_is_an_error() -> None:
    async def short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await writer.drain()

    async def body() -> None:
        async with listed_worker(short) as peer:
            link = link_to(peer.port)
            with pytest.raises(LinkError):
                _ = [piece async for piece in link.output("remote-1", "a")]
            await link.close()

    run(body)
