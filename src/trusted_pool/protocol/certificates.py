"""TLS 1.3 pinned by key: certificates and contexts that need no authority.

An id is all that one end knows of the other. From it the verifier makes an *anchor*: a certificate of the peer's public
key, whose own signature nobody checks. The peer presents a *leaf*: a short-lived certificate of the same key, issued
by itself. A leaf verifies against the anchor only if the pinned key signed it, and it is accepted only if it
certifies that very key (`peer_identity`): OpenSSL alone would take a leaf that the pinned key issued to another key.

The client says who it is by the name it dials (SNI, see `server_name`), so that a server can demand the proof of
any pool's key in the handshake. Who may do what is decided later, on every request.

Between a pool and its users only the pool proves a key (`PoolContexts`, `user_context`): users show API keys.
"""

import base64
import binascii
import contextlib
import os
import ssl
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trusted_pool.protocol.identity import KEY_BYTES, IdentityError, identity_of, public_key

#: How long a leaf is good for, in seconds. Whoever uses one makes another when half of that is over.
LEAF_S = 30 * 86_400.0
#: A leaf begins this long before it is made: machines' clocks disagree.
BACKDATED = timedelta(days=1)
#: A server keeps the contexts of at most this many pools; more are made again when they come back.
MAX_CONTEXTS = 64
#: Key in a request's `scope["state"]`: the id that the client proved in the handshake, or None without TLS.
PEER = "peer_id"
#: Likewise: a function that ends the connection at once, whatever stands in its buffers.
HANG_UP = "hang_up"

_SNI_SUFFIX = ".pool.invalid"
_ANCHOR_FROM = datetime(2020, 1, 1, tzinfo=UTC)
_ANCHOR_UNTIL = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
#: Signs anchors. Everybody may know it: the signature of a trust anchor means nothing.
_NOBODY = Ed25519PrivateKey.from_private_bytes(bytes(KEY_BYTES))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, sign: bool) -> x509.KeyUsage:
    """Return the key usage of an anchor (`sign` certificates) or of a leaf (prove itself)."""
    return x509.KeyUsage(
        digital_signature=not sign,
        key_cert_sign=sign,
        crl_sign=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def anchor(identity: str) -> bytes:
    """Return a trust anchor (DER) for an id. Raises IdentityError."""
    key = public_key(identity)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(identity))
        .issuer_name(_name(identity))
        .public_key(key)
        .serial_number(1)
        .not_valid_before(_ANCHOR_FROM)
        .not_valid_after(_ANCHOR_UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .sign(_NOBODY, None)
        .public_bytes(Encoding.DER)
    )


def leaf(key: Ed25519PrivateKey, now: float, life_s: float = LEAF_S) -> bytes:
    """Return the certificate (DER) with which a key proves itself from `now`, seconds since the epoch, for `life_s`."""
    public = key.public_key()
    begins = datetime.fromtimestamp(int(now), UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name("leaf"))
        .issuer_name(_name(identity_of(key)))
        .public_key(public)
        .serial_number(max(1, int(now * 1000)))
        .not_valid_before(begins - BACKDATED)
        .not_valid_after(begins + timedelta(seconds=life_s))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("peer.invalid")]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, None)
        .public_bytes(Encoding.DER)
    )


def peer_identity(der: bytes) -> str:
    """Return the id that a verified leaf proves: that of the key in it.

    Raises:
        IdentityError: the leaf is none of ours, or names another issuer than its own key.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        issuer = [attribute.value for attribute in certificate.issuer]
    except ValueError:
        raise IdentityError("its certificate cannot be read") from None
    if not isinstance(key, Ed25519PublicKey):
        raise IdentityError("its certificate holds no Ed25519 key")
    identity = identity_of(key)
    if issuer != [identity]:
        raise IdentityError(f"its certificate is for the key {identity}, and another key issued it")
    return identity


def server_name(identity: str) -> str:
    """Return the name (SNI) by which a client with this id dials."""
    raw = base64.b64decode(identity)
    return base64.b32encode(raw).decode().rstrip("=").lower() + _SNI_SUFFIX


def named_identity(name: str | None) -> str:
    """Return the id that a client's SNI names. Raises IdentityError."""
    label = (name or "").removesuffix(_SNI_SUFFIX)
    try:
        raw = base64.b32decode(label.upper() + "=" * (-len(label) % 8))
    except (binascii.Error, ValueError):
        raise IdentityError("the server name is no pool's") from None
    identity = base64.b64encode(raw).decode()
    if len(raw) != KEY_BYTES or server_name(identity) != name:
        raise IdentityError("the server name is no pool's")
    public_key(identity)
    return identity


class _Proven(ssl.SSLObject):
    """A TLS connection whose handshake succeeds only if the peer's leaf is of the very key that is pinned."""

    def do_handshake(self) -> None:
        super().do_handshake()
        pinned = getattr(self.context, "pinned", None)
        der = self.getpeercert(binary_form=True)
        try:
            proven = peer_identity(der) if der else None
        except IdentityError as error:
            raise ssl.SSLCertVerificationError(1, str(error)) from None
        if pinned is None or proven != pinned:
            raise ssl.SSLCertVerificationError(1, "it did not prove the key that is pinned")


class PinnedContext(ssl.SSLContext):
    """A context that trusts one id, for asyncio and uvloop (they use `sslobject_class`)."""

    pinned: str | None = None

    def wrap_socket(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: a blocking socket would not pass the check of `_Proven`."""
        raise TypeError("a pinned context is for event loops; use wrap_bio")


@contextlib.contextmanager
def pem_path(pem: bytes) -> Iterator[str]:
    """Give OpenSSL a path to secret bytes, which are on no disk where the system can do that."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("leaf", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{fd}"
    else:
        fd, path = tempfile.mkstemp()  # mode 0600
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(pem)
            file.flush()
            yield path
    finally:
        if not path.startswith("/proc/"):
            Path(path).unlink()


def _verifying(side: int, pinned: str | None) -> PinnedContext:
    """Return a context that lets in who proves the pinned key, and nobody without one."""
    context = PinnedContext(side)
    context.sslobject_class = _Proven
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.pinned = pinned
    if pinned is not None:
        context.load_verify_locations(cadata=anchor(pinned))
    _harden(context)
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    if context.protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0


def _show(context: ssl.SSLContext, key: Ed25519PrivateKey, now: float, life_s: float) -> None:
    """Have a context prove a key."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem += ssl.DER_cert_to_PEM_cert(leaf(key, now, life_s)).encode()
    with pem_path(pem) as path:
        context.load_cert_chain(path)


def _context(side: int, key: Ed25519PrivateKey, now: float, pinned: str | None, life_s: float) -> PinnedContext:
    context = _verifying(side, pinned)
    _show(context, key, now, life_s)
    return context


def client_context(worker_id: str, key: Ed25519PrivateKey, now: float, life_s: float = LEAF_S) -> ssl.SSLContext:
    """Build a context that dials one worker as the pool that has this key; dial with `server_name(pool id)`.

    It is good until its leaf ends, `life_s` after `now`. Raises IdentityError.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, key, now, worker_id, life_s)


def _is_old(made_at: float, now: float, life_s: float) -> bool:
    """Whether a leaf is to be renewed: half of its life is over, or the clock went back."""
    return not 0 <= now - made_at < life_s / 2


class _Doorkeeper:
    """Swaps in the context that trusts only the id which the client names."""

    def __init__(self, key: Ed25519PrivateKey, now: Callable[[], float], life_s: float) -> None:
        self._key = key
        self._now = now
        self._life_s = life_s
        self._contexts: OrderedDict[str, tuple[float, PinnedContext]] = OrderedDict()  # id → made at, context

    def of(self, identity: str) -> PinnedContext:
        now = self._now()
        made_at, context = self._contexts.get(identity, (0.0, None))
        if context is None or _is_old(made_at, now, self._life_s):
            made_at, context = now, _context(ssl.PROTOCOL_TLS_SERVER, self._key, now, identity, self._life_s)
        self._contexts[identity] = (made_at, context)
        self._contexts.move_to_end(identity)
        if len(self._contexts) > MAX_CONTEXTS:
            self._contexts.popitem(last=False)
        return context

    def __call__(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        try:
            connection.context = self.of(named_identity(name))
        except IdentityError:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        return None


def server_context(key: Ed25519PrivateKey, now: Callable[[], float], life_s: float = LEAF_S) -> ssl.SSLContext:
    """Build a worker's context: a client gets in only by proving the key that it names.

    `now` gives seconds since the epoch; leaves live for `life_s` and are renewed when half of that is over.
    """
    # Without anchors of its own it lets nobody in, should the swap ever not happen; verify_mode must stand here, for
    # OpenSSL takes it from the context that a connection begins with.
    # Nobody sees its leaf.
    context = _context(ssl.PROTOCOL_TLS_SERVER, key, now(), None, life_s)
    context.sni_callback = _Doorkeeper(key, now, life_s)
    return context


def user_context(pool_id: str) -> ssl.SSLContext:
    """Build a context that dials a pool and trusts its key alone. It proves nothing itself. Raises IdentityError."""
    return _verifying(ssl.PROTOCOL_TLS_CLIENT, pool_id)


class PoolContexts:
    """The contexts with which a pool proves its key to its users, who prove none: call it for each handshake."""

    def __init__(self, key: Ed25519PrivateKey, now: Callable[[], float]) -> None:
        """`now` gives seconds since the epoch; leaves are renewed when half of their life is over."""
        self._key = key
        self._now = now
        self._made_at = now()
        self._context = self._make()

    def _make(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _harden(context)
        _show(context, self._key, self._made_at, LEAF_S)
        return context

    def __call__(self) -> ssl.SSLContext:
        """Return the context of the next handshake."""
        now = self._now()
        if _is_old(self._made_at, now, LEAF_S):
            self._made_at = now
            self._context = self._make()
        return self._context
