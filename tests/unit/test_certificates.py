"""Anchors, leaves and contexts: what they are, and that only the pinned key gets through a handshake."""

import socket
import ssl
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from trusted_pool.protocol import certificates
from trusted_pool.protocol.certificates import (
    MAX_CONTEXTS,
    anchor,
    client_context,
    leaf,
    named_identity,
    peer_identity,
    server_context,
    server_name,
)
from trusted_pool.protocol.identity import IdentityError, identity_of

NOW = 1_800_000_000.0
SMALL_ORDER = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
WORKER, POOL, OTHER = (Ed25519PrivateKey.generate() for _ in range(3))


def now() -> float:
    return time.time()  # noqa: TID251 - OpenSSL checks dates by the machine's clock


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str | None) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Join two TLS machines by memory; raise what either of them raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    left = list(ends)
    for _ in range(10):
        for end in list(left):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            left.remove(end)
        if not left:
            return ends[0], ends[1]
    raise AssertionError("the handshake does not end")


def dial(**changes: object) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Dial the worker as the pool; each argument changes one thing."""
    how = {
        "client": client_context(identity_of(WORKER), POOL, now()),
        "server": server_context(WORKER, now),
        "name": server_name(identity_of(POOL)),
        **changes,
    }
    return handshake(how["client"], how["server"], how["name"])  # type: ignore[arg-type]


def test_an_anchor_is_a_ca_of_the_id_for_all_time() -> None:
    certificate = x509.load_der_x509_certificate(anchor(identity_of(WORKER)))
    assert certificate.subject == certificate.issuer
    assert certificate.subject.rfc4514_string() == "CN=" + identity_of(WORKER).replace("+", "\\+")
    assert certificate.public_key() == WORKER.public_key()
    assert certificate.serial_number == 1
    assert (certificate.not_valid_before_utc.year, certificate.not_valid_after_utc.year) == (2020, 9999)
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert anchor(identity_of(WORKER)) == anchor(identity_of(WORKER))


@pytest.mark.parametrize("wrong", ["", "x", SMALL_ORDER, identity_of(WORKER)[:-1]])
def test_no_anchor_for_what_is_no_key(wrong: str) -> None:
    with pytest.raises(IdentityError):
        anchor(wrong)


def test_a_leaf_is_of_its_own_key_for_30_days() -> None:
    certificate = x509.load_der_x509_certificate(leaf(WORKER, NOW))
    assert certificate.public_key() == WORKER.public_key()
    assert certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == identity_of(WORKER)
    WORKER.public_key().verify(certificate.signature, certificate.tbs_certificate_bytes)
    assert certificate.not_valid_after_utc == datetime.fromtimestamp(NOW, UTC) + timedelta(days=30)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf(WORKER, NOW) == leaf(WORKER, NOW)
    assert peer_identity(leaf(WORKER, NOW)) == identity_of(WORKER)


def foreign_leaf(issuer: Ed25519PrivateKey, subject: Ed25519PrivateKey, issuer_name: str | None = None) -> bytes:
    """Return a leaf of `subject`'s key that `issuer` signed."""
    honest = x509.load_der_x509_certificate(leaf(issuer, now()))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_name or identity_of(issuer))])
    builder = (
        x509.CertificateBuilder(extensions=list(honest.extensions))
        .subject_name(honest.subject)
        .issuer_name(name)
        .public_key(subject.public_key())
        .serial_number(7)
        .not_valid_before(honest.not_valid_before_utc)
        .not_valid_after(honest.not_valid_after_utc)
    )
    return builder.sign(issuer, None).public_bytes(Encoding.DER)


def test_peer_identity_refuses_another_issuer_another_algorithm_and_garbage() -> None:
    curve = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    elliptic = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(curve.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
        .sign(curve, SHA256())
        .public_bytes(Encoding.DER)
    )
    for wrong in (foreign_leaf(WORKER, OTHER), elliptic, b"", b"garbage", leaf(WORKER, NOW)[:-1]):
        with pytest.raises(IdentityError):
            peer_identity(wrong)


@given(st.binary(max_size=200))
def test_peer_identity_of_any_bytes_is_an_error(der: bytes) -> None:
    with pytest.raises(IdentityError):
        peer_identity(der)


def test_a_server_name_is_one_label_that_names_the_id() -> None:
    name = server_name(identity_of(POOL))
    assert len(name.split(".")[0]) == 52
    assert name == name.lower()
    assert named_identity(name) == identity_of(POOL)


@given(st.one_of(st.none(), st.text(max_size=80), st.from_regex(r"\A[a-z2-7]{50,54}\.pool\.invalid\Z")))
def test_any_other_name_is_an_error_or_one_id_written_one_way(name: str | None) -> None:
    try:
        identity = named_identity(name)
    except IdentityError:
        return
    assert server_name(identity) == name


@pytest.mark.parametrize(
    "wrong", [None, "", "localhost", server_name(SMALL_ORDER), server_name(identity_of(POOL)).upper()]
)
def test_names_that_are_no_pools(wrong: str | None) -> None:
    with pytest.raises(IdentityError):
        named_identity(wrong)


def test_both_ends_prove_their_keys() -> None:
    client, server = dial()
    assert peer_identity(client.getpeercert(binary_form=True) or b"") == identity_of(WORKER)
    assert peer_identity(server.getpeercert(binary_form=True) or b"") == identity_of(POOL)
    assert client.version() == "TLSv1.3"
    assert (client.context.verify_mode, server.context.verify_mode) == (ssl.CERT_REQUIRED, ssl.CERT_REQUIRED)


def unpinned(**changes: object) -> ssl.SSLContext:
    """Return a client that does not care who answers and shows no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in changes.items():
        setattr(context, name, value)
    return context


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"name": None}, id="no name"),
        pytest.param({"name": "worker.example.com"}, id="garbage name"),
        pytest.param({"name": server_name(identity_of(OTHER))}, id="the name of another pool"),
        pytest.param({"name": server_name(SMALL_ORDER)}, id="the name of a small-order key"),
        pytest.param({"client": unpinned()}, id="no certificate"),
        pytest.param({"client": unpinned(maximum_version=ssl.TLSVersion.TLSv1_2)}, id="TLS 1.2"),
        pytest.param({"client": client_context(identity_of(OTHER), POOL, now())}, id="another worker is pinned"),
        pytest.param({"client": client_context(identity_of(WORKER), POOL, now() - 31 * 86_400)}, id="expired leaf"),
        pytest.param(
            {"client": client_context(identity_of(WORKER), POOL, now() + 3 * 86_400)}, id="leaf of the future"
        ),
        pytest.param({"server": server_context(WORKER, lambda: now() - 31 * 86_400)}, id="expired worker"),
        pytest.param({"server": server_context(OTHER, now)}, id="another worker answers"),
    ],
)
def test_a_handshake_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ssl.SSLError):
        dial(**changes)


def chosen(
    monkeypatch: pytest.MonkeyPatch, key: Ed25519PrivateKey, der: bytes
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a client and a server context of `key` that show the certificate `der`."""
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "leaf", lambda *_: der)
        client = client_context(identity_of(WORKER), key, now())
        server = server_context(key, now)
        server.sni_callback.of(identity_of(POOL))  # type: ignore[attr-defined]
    return client, server


def test_a_leaf_that_the_pinned_key_issued_to_another_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL alone accepts it: the control swaps our check out and gets through."""
    client, _ = chosen(monkeypatch, OTHER, foreign_leaf(POOL, OTHER))
    _, server = chosen(monkeypatch, OTHER, foreign_leaf(WORKER, OTHER))
    with pytest.raises(ssl.SSLCertVerificationError, match="another key issued it"):
        dial(client=client)
    with pytest.raises(ssl.SSLCertVerificationError, match="another key issued it"):
        dial(server=server)
    monkeypatch.setattr(certificates._Proven, "do_handshake", ssl.SSLObject.do_handshake)
    dial(client=client)
    dial(server=server)


def test_a_forged_issuer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = chosen(monkeypatch, OTHER, foreign_leaf(OTHER, OTHER, issuer_name=identity_of(POOL)))
    _, server = chosen(monkeypatch, OTHER, foreign_leaf(OTHER, OTHER, issuer_name=identity_of(WORKER)))
    for changes in ({"client": client}, {"server": server}):
        with pytest.raises(ssl.SSLError):
            dial(**changes)


def test_no_session_can_be_resumed() -> None:
    client, server = dial()
    server.write(b"x")
    assert client.read(1) == b"x"
    assert server.context.num_tickets == 0
    assert not client.session.has_ticket
    assert not server.session_reused


def test_leaves_are_renewed_when_half_of_their_life_is_over() -> None:
    clock = [now() - 16 * 86_400]
    server = server_context(WORKER, lambda: clock[0])

    def serial() -> int:
        client, _ = dial(server=server)
        return x509.load_der_x509_certificate(client.getpeercert(binary_form=True) or b"").serial_number

    first = serial()
    clock[0] += 14 * 86_400
    assert serial() == first
    clock[0] += 2 * 86_400
    assert serial() > first
    clock[0] -= 3_600  # a clock that went back makes a new one too
    assert serial() not in (first, int((clock[0] + 3_600) * 1_000))


def test_a_blocking_socket_cannot_go_round_the_check() -> None:
    with socket.socket() as plain, pytest.raises(TypeError, match="event loops"):
        client_context(identity_of(WORKER), POOL, now()).wrap_socket(plain)


def test_contexts_of_strangers_are_bounded() -> None:
    server = server_context(WORKER, now)
    door = server.sni_callback
    for _ in range(MAX_CONTEXTS + 5):
        door.of(identity_of(Ed25519PrivateKey.generate()))  # type: ignore[attr-defined]
    assert len(door._contexts) == MAX_CONTEXTS  # type: ignore[attr-defined]
