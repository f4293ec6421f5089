"""What clients meet at a TLS port: certificates that change, plain HTTP, stalled handshakes, old protocols."""

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.authority import Authority
from trusted_pool.protocol.certificates import PoolContexts, anchor, user_context
from trusted_pool.protocol.identity import identity_of
from trusted_pool.serve import Limits, Server
from trusted_pool.serve.pem import load
from trusted_pool.serve.tls import serving_context

pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # old ones are tried on purpose

LONG = 20.0
POOL = Ed25519PrivateKey.generate()
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
Run = Callable[[Coroutine[Any, Any, None]], None]


def now() -> float:
    return time.time()  # noqa: TID251 - OpenSSL checks dates by the machine's clock


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    loop = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def runs(body: Coroutine[Any, Any, None]) -> None:
        async def main() -> None:
            async with asyncio.timeout(LONG):
                await body

        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(main())

    return runs


class App:
    """Answers everything, and counts what came."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.paths.append(scope["scheme"] + scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def serving(app: App, current: Callable[[], ssl.SSLContext], **limits: Any) -> AsyncIterator[int]:
    server = Server(app, host="127.0.0.1", port=0, ssl_context=serving_context(current), limits=Limits(**limits))
    await server.start()
    try:
        yield server.port
    finally:
        await server.stop(0)


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.root))


class Kept:
    """A connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext) -> "Kept":
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost"))

    async def ask(self) -> bytes:
        self.writer.write(GET)
        head = await self._reader.readuntil(b"\r\n\r\n")
        return head + await self._reader.readexactly(2)

    @property
    def tls(self) -> ssl.SSLObject:
        return self.writer.get_extra_info("ssl_object")

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.tls.getpeercert(binary_form=True) or b"")


async def talk(port: int, data: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Write, and read until the server closes."""
    answer = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        try:
            writer.write(data)
            while piece := await reader.read(65536):
                answer += piece
        finally:
            writer.close()
    return answer


def test_a_new_certificate_is_for_new_connections_and_the_old_ones_go_on(run: Run, tmp_path: Path) -> None:
    """Also when the kind of the key changes: a context that was loaded twice would go on to show the RSA one."""

    async def body() -> None:
        authority, app = Authority(tmp_path), App()
        files = authority.issue(rsa=True)
        served = [load(*files)]
        async with serving(app, lambda: served[-1].context) as port:
            prefers_rsa = trusting(authority)
            prefers_rsa.maximum_version = ssl.TLSVersion.TLSv1_2
            prefers_rsa.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256")
            old = await Kept.open(port, prefers_rsa)
            assert await old.ask()
            served.append(load(*authority.issue(into=files)))
            new = await Kept.open(port, prefers_rsa)
            assert (await new.ask()).startswith(b"HTTP/1.1 200 ")
            assert (await old.ask()).startswith(b"HTTP/1.1 200 ")
            assert new.certificate != old.certificate
            assert "EC" in type(new.certificate.public_key()).__name__
            old.writer.close()
            new.writer.close()
            assert app.paths == ["https/"] * 3

    run(body())


def test_the_pools_leaf_is_renewed_while_it_serves(run: Run) -> None:
    async def body() -> None:
        clock = [now() - 16 * 86_400]
        async with serving(App(), PoolContexts(POOL, lambda: clock[0])) as port:
            old = await Kept.open(port, user_context(identity_of(POOL)))
            clock[0] = now()
            new = await Kept.open(port, user_context(identity_of(POOL)))
            assert new.certificate.not_valid_after_utc > old.certificate.not_valid_after_utc
            assert await old.ask()
            assert await new.ask()
            old.writer.close()
            new.writer.close()

    run(body())


HEADS = [
    b"GET / HTTP/1.1\r\nauthorization: Bearer secret\r\n\r\n",
    b"POST /submit HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc",
    b"DELETE / HTTP/1.1\r\n\r\n",
    b"CONNECT x:443 HTTP/1.1\r\n\r\n",
    b"\x00" * 64,
]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head[:6].decode())
def test_plain_http_is_told_that_the_port_speaks_tls(run: Run, head: bytes) -> None:
    async def body() -> None:
        app = App()
        async with serving(app, PoolContexts(POOL, now), handshake_timeout_s=0.3) as port:
            answer = await talk(port, head)
            assert answer.startswith(b"HTTP/1.1 400 ")
            error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
            assert error["code"] == "tls_required"
            assert "https" in error["hint"]
            assert app.paths == []
            kept = await Kept.open(port, user_context(identity_of(POOL)))  # the control, on the same port
            assert (await kept.ask()).startswith(b"HTTP/1.1 200 ")
            kept.writer.close()
            assert app.paths == ["https/"]

    run(body())


def test_tls_at_a_plain_port_is_closed(run: Run) -> None:
    async def body() -> None:
        app = App()
        server = Server(app, host="127.0.0.1", port=0)
        await server.start()
        context = user_context(identity_of(POOL))
        with pytest.raises(ssl.SSLError) as caught:
            await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
        assert caught.value.reason == "WRONG_VERSION_NUMBER"
        assert app.paths == []
        await server.stop(0)

    run(body())


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"])
def test_a_stalled_handshake_is_closed(run: Run, begun: bytes) -> None:
    """Case 63. The control waits as long on a server that is more patient, and is still connected."""

    async def body() -> None:
        async with (
            serving(App(), PoolContexts(POOL, now), handshake_timeout_s=0.3) as port,
            serving(App(), PoolContexts(POOL, now), handshake_timeout_s=LONG) as patient,
        ):
            waiting = asyncio.create_task(talk(patient, begun))
            assert await talk(port, begun) == b""
            assert not waiting.done()
            waiting.cancel()

    run(body())


def pem(tmp_path: Path) -> Callable[[], ssl.SSLContext]:
    made = load(*Authority(tmp_path).issue())
    return lambda: made.context


def careless(newest: ssl.TLSVersion, ciphers: str = "ALL:@SECLEVEL=0") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, newest
    context.set_ciphers(ciphers)
    return context


def test_old_protocols_and_weak_ciphers_are_refused_and_nobody_gets_a_ticket(run: Run, tmp_path: Path) -> None:
    old, middle, newest = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    cbc = "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"

    async def body() -> None:
        async with serving(App(), pem(tmp_path)) as by_files, serving(App(), PoolContexts(POOL, now)) as by_key:
            for port, client, wanted in (
                (by_files, careless(old), None),
                (by_files, careless(middle, cbc), None),
                (by_files, careless(middle), "TLSv1.2"),
                (by_files, careless(newest), "TLSv1.3"),
                (by_key, careless(middle), None),
                (by_key, careless(newest), "TLSv1.3"),
            ):
                if wanted is None:
                    with pytest.raises((ssl.SSLError, ConnectionError)):
                        await Kept.open(port, client)
                    continue
                kept = await Kept.open(port, client)
                assert await kept.ask()
                assert kept.tls.version() == wanted
                assert kept.tls.session is None or not kept.tls.session.has_ticket
                kept.writer.close()

    run(body())


def test_control_an_ordinary_context_gives_tickets(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        plain = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        plain.load_cert_chain(*map(str, Authority(tmp_path).issue()))
        async with serving(App(), lambda: plain) as port:
            kept = await Kept.open(port, careless(ssl.TLSVersion.TLSv1_3))
            assert await kept.ask()
            assert kept.tls.session.has_ticket  # type: ignore[union-attr]
            kept.writer.close()

    run(body())


def test_clients_need_no_certificate_and_the_pool_proves_its_key(run: Run) -> None:
    async def body() -> None:
        async with serving(App(), PoolContexts(POOL, now)) as port:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nothing of ours: any TLS library can pin that way
            context.check_hostname = False
            context.load_verify_locations(cadata=anchor(identity_of(POOL)))
            kept = await Kept.open(port, context)
            assert await kept.ask()
            kept.writer.close()
            with pytest.raises(ssl.SSLCertVerificationError):
                await Kept.open(port, user_context(identity_of(Ed25519PrivateKey.generate())))

    run(body())
