"""Whom the client tells anything: pinned keys, authorities, plain HTTP. Impostors get no byte of a request."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support.authority import Authority
from trusted_pool.cli.main import run
from trusted_pool.client import AsyncPoolClient, ClientError, PoolClient, Settings, UnreachableError, UntrustedError
from trusted_pool.protocol import certificates
from trusted_pool.protocol.certificates import leaf, pem_path
from trusted_pool.protocol.identity import identity_of, to_path

POOL, STRANGER = (Ed25519PrivateKey.generate() for _ in range(2))
TOKEN = "tpool_the-secret-of-somebody"  # noqa: S105 - nobody's
DAY = timedelta(days=1)
BODY = b'{"status":"ok","service":"s","version":"1","pool_id":"p"}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


def now() -> float:
    return time.time()  # noqa: TID251 - certificates are checked by the machine's clock


class Server:
    """Lets everybody in, keeps every byte that it gets, and gives the same answer to each request.

    `context`: None serves without TLS. `answer`: what is sent, byte for byte, when a request's head has come.
    """

    def __init__(self, context: ssl.SSLContext | None, answer: bytes = ANSWER) -> None:
        self.received = b""
        self.connections = 0
        self.broken: Callable[[socket.socket], None] | None = None
        self._context = context
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                self._hear(connection)

    def _hear(self, connection: socket.socket) -> None:
        wrap = self._context.wrap_socket if self._context else None
        with connection.dup() as beneath, wrap(connection, server_side=True) if wrap else connection as stream:
            heard = b""
            while piece := stream.recv(65536):
                self.received += piece
                heard += piece
                if b"\r\n\r\n" in heard or self._context is None:
                    stream.sendall(self._answer)
                    heard = b""
                    if self.broken is not None:
                        self.broken(beneath)


def context_of(key: Ed25519PrivateKey, der: bytes, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if newest is not None:
        context.maximum_version = newest
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pem_path(pem + ssl.DER_cert_to_PEM_cert(der).encode()) as path:
        context.load_cert_chain(path)
    return context


def signed(signer: Ed25519PrivateKey, of: Ed25519PrivateKey, issuer: str) -> bytes:
    """Return a leaf of the key `of`, signed by `signer`, that says `issuer`."""
    honest = x509.load_der_x509_certificate(leaf(signer, now()))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)])
    builder = x509.CertificateBuilder(extensions=list(honest.extensions)).subject_name(honest.subject)
    builder = builder.issuer_name(name).public_key(of.public_key()).serial_number(7)
    builder = builder.not_valid_before(honest.not_valid_before_utc).not_valid_after(honest.not_valid_after_utc)
    return builder.sign(signer, None).public_bytes(Encoding.DER)


def ask_sync(settings: Settings) -> None:
    with PoolClient(settings, timeout_s=5) as pool:
        pool.health()


def ask_async(settings: Settings) -> None:
    async def main() -> None:
        async with AsyncPoolClient(settings, timeout_s=5) as pool:
            await pool.health()

    asyncio.run(main())


@pytest.fixture(params=[ask_sync, ask_async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Callable[[Settings], None]:
    return request.param  # type: ignore[no-any-return]


def pinned(port: int) -> Settings:
    return Settings(address=f"https+pin://{to_path(identity_of(POOL))}@127.0.0.1:{port}", token=TOKEN)


IMPOSTORS: dict[str, tuple[Callable[[], ssl.SSLContext], str]] = {
    "its own key": (lambda: context_of(STRANGER, leaf(STRANGER, now())), "did not prove the pool's key"),
    "its own key under the pool's name": (
        lambda: context_of(STRANGER, signed(STRANGER, STRANGER, identity_of(POOL))),
        "did not prove the pool's key",
    ),
    "another key for which the pool issued a leaf": (
        lambda: context_of(STRANGER, signed(POOL, STRANGER, identity_of(POOL))),
        "did not prove the pool's key",
    ),
    "a leaf of the pool that has expired": (
        lambda: context_of(POOL, leaf(POOL, now() - 31 * 86_400)),
        "has expired; compare the clocks",
    ),
    "a leaf of the pool of tomorrow": (
        lambda: context_of(POOL, leaf(POOL, now() + 3 * 86_400)),
        "is not valid yet; compare the clocks",
    ),
    "TLS 1.2": (lambda: context_of(POOL, leaf(POOL, now()), ssl.TLSVersion.TLSv1_2), "does not speak TLS 1.3"),
}


@pytest.mark.parametrize("impostor", IMPOSTORS)
def test_an_impostor_gets_no_byte_of_a_request(ask: Callable[[Settings], None], impostor: str) -> None:
    make, words = IMPOSTORS[impostor]
    with Server(make()) as server:
        with pytest.raises(UntrustedError) as caught:
            ask(pinned(server.port))
        assert words in f"{caught.value.message}; {caught.value.hint}"
        assert not caught.value.retryable
    assert server.connections == 1
    assert server.received == b""


def test_control_the_pool_gets_the_request_with_the_key(ask: Callable[[Settings], None]) -> None:
    with Server(context_of(POOL, leaf(POOL, now()))) as server:
        ask(pinned(server.port))
    assert f"Bearer {TOKEN}".encode() in server.received


def test_control_without_our_own_check_a_leaf_for_another_key_gets_the_key(
    ask: Callable[[Settings], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates._Proven, "do_handshake", ssl.SSLObject.do_handshake)
    with Server(IMPOSTORS["another key for which the pool issued a leaf"][0]()) as server:
        ask(pinned(server.port))
    assert TOKEN.encode() in server.received


def test_a_pinned_address_never_falls_back_to_plain_http(ask: Callable[[Settings], None]) -> None:
    with Server(None) as server:
        with pytest.raises(UntrustedError, match="answers without TLS") as caught:
            ask(pinned(server.port))
        assert "http://" not in caught.value.hint
    assert TOKEN.encode() not in server.received


def test_waiting_for_a_job_at_an_impostors_ends_at_once() -> None:
    with Server(context_of(STRANGER, leaf(STRANGER, now()))) as server:
        with PoolClient(pinned(server.port)) as pool, pytest.raises(UntrustedError):
            pool.wait("pool-0123456789abcdef", patience_s=600)
        assert server.connections == 1


# -- certificates of authorities --


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def served(files: tuple[Path, Path], newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, files))
    if newest is not None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = newest
    return context


Made = tuple[ssl.SSLContext | None, bytes]
TROUBLES: dict[str, tuple[Callable[[Authority], Made], str, str, str]] = {
    "expired": (
        lambda ca: (served(ca.issue(begins=-3 * DAY, ends=-DAY)), ANSWER),
        "https://localhost",
        "has expired",
        "its operator renews it",
    ),
    "not yet": (
        lambda ca: (served(ca.issue(begins=DAY)), ANSWER),
        "https://localhost",
        "is not valid yet",
        "compare the clocks",
    ),
    "of another authority": (
        lambda ca: (served(Authority(ca.home / "other").issue()), ANSWER),
        "https://localhost",
        "no authority that is trusted here",
        "ca.pem (TRUSTED_POOL_CACERT) does not hold",
    ),
    "for another name": (
        lambda ca: (served(ca.issue(names=["pool.example.com"])), ANSWER),
        "https://localhost",
        "is another's: Hostname mismatch",
        "a name that the certificate has",
    ),
    "for another address": (
        lambda ca: (served(ca.issue(names=["pool.example.com"])), ANSWER),
        "https://127.0.0.1",
        "is another's: IP address mismatch",
        "a name that the certificate has",
    ),
    "without TLS": (
        lambda _: (None, b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"),
        "https://localhost",
        "answers without TLS",
        "or write its address with http://",
    ),
    "too old": (
        lambda ca: (served(ca.issue(), ssl.TLSVersion.TLSv1_1), ANSWER),
        "https://localhost",
        "does not speak TLS 1.2",
        "proxy",
    ),
}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_pool_that_is_not_trusted_is_one_line_that_says_what_to_do(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], trouble: str
) -> None:
    make, address, words, hint = TROUBLES[trouble]
    monkeypatch.setenv("TRUSTED_POOL_TOKEN", TOKEN)
    monkeypatch.setenv("TRUSTED_POOL_CACERT", str(authority.root))
    with Server(*make(authority)) as server:
        assert run(["pool", "--addr", f"{address}:{server.port}"]) == 125
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert words in err
    assert hint in err
    assert TOKEN.encode() not in server.received


def test_an_authority_that_was_not_named_is_asked_for(authority: Authority, ask: Callable[[Settings], None]) -> None:
    with Server(served(authority.issue())) as server:
        with pytest.raises(UntrustedError) as caught:
            ask(Settings(address=f"https://localhost:{server.port}"))
        assert "TRUSTED_POOL_CACERT=" in caught.value.hint
        assert "https+pin://" in caught.value.hint
        ask(Settings(address=f"https://localhost:{server.port}", cacert=str(authority.root), token=TOKEN))
    assert TOKEN.encode() in server.received


def test_a_tls_server_behind_http_is_a_hint(authority: Authority, ask: Callable[[Settings], None]) -> None:
    with Server(served(authority.issue())) as server, pytest.raises(UnreachableError) as caught:
        ask(Settings(address=f"http://localhost:{server.port}"))
    assert "if the pool serves TLS, its address begins with https" in caught.value.hint


def test_an_answer_that_is_altered_on_the_way_is_a_broken_line(ask: Callable[[Settings], None]) -> None:
    cut = ANSWER.replace(b"content-length: %d" % len(BODY), b"content-length: 500")
    with Server(context_of(POOL, leaf(POOL, now())), cut) as server:
        server.broken = lambda connection: connection.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))
        with pytest.raises(UnreachableError, match="broke") as caught:
            ask(pinned(server.port))
    assert isinstance(caught.value.__cause__, ssl.SSLError)


# -- API keys and plain HTTP --


@pytest.fixture
def plain() -> Iterator[Server]:
    with Server(None) as server:
        yield server


def test_an_api_key_goes_to_no_other_machine_over_plain_http(plain: Server, ask: Callable[[Settings], None]) -> None:
    abroad = f"http://0.0.0.0:{plain.port}"  # which Linux takes for this machine, and the client for any
    with pytest.raises(ClientError) as caught:
        ask(Settings(address=abroad, token=TOKEN))
    assert caught.value.code == "insecure_http"
    assert "TRUSTED_POOL_INSECURE_HTTP=1" in caught.value.hint
    assert plain.connections == 0
    ask(Settings(address=abroad))  # without a key there is nothing to keep
    assert TOKEN.encode() not in plain.received
    ask(Settings(address=abroad, token=TOKEN, insecure_http=True))
    assert TOKEN.encode() in plain.received


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "pool.localhost", "[::1]"])
def test_this_machine_is_no_other(host: str) -> None:
    with PoolClient(Settings(address=f"http://{host}:9000", token=TOKEN)):
        pass


@pytest.mark.parametrize(
    "host", ["192.168.0.1", "pool.example.com", "localhost.example.com", "127.0.0.1.example.com", "[::2]", "10.0.0.1"]
)
def test_other_machines_are(host: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRUSTED_POOL_TOKEN", TOKEN)
    assert run(["pool", "--addr", f"http://{host}:9000"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "tpool coordinator --tls-pinned" in err
    assert TOKEN not in err


@pytest.mark.parametrize("token", ["two words", "tpool_ü", "a\nb", "a\x00b", "\x7f"])
def test_a_key_that_is_none_is_not_sent_and_not_shown(plain: Server, token: str) -> None:
    with pytest.raises(ClientError) as caught:
        PoolClient(Settings(address=f"http://127.0.0.1:{plain.port}", token=token))
    assert caught.value.code == "bad_token"
    assert token not in str(caught.value)
    assert plain.connections == 0


def test_settings_do_not_show_the_key() -> None:
    assert TOKEN not in repr(Settings(token=TOKEN))
    assert TOKEN not in str([Settings(token=TOKEN)])
    assert "token='…'" in repr(Settings(token=TOKEN))
