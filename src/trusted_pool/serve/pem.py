"""A certificate and its key from PEM files, judged before they are used."""

import os
import ssl
import stat
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from trusted_pool.protocol.certificates import pem_path

#: More than any chain of certificates has.
MAX_BYTES = 1024 * 1024
#: For TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has nothing else.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

Signature = tuple[tuple[int, ...], ...]


class PemError(Exception):
    """The files cannot be used; the message is one line and says what to do."""


class Certificate(msgspec.Struct, frozen=True):
    """A certificate that can be served with."""

    context: ssl.SSLContext
    names: tuple[str, ...]  #: DNS names, then addresses
    begins: datetime
    ends: datetime
    digest: bytes  #: tells one from another


def signature(*paths: Path) -> Signature:
    """Say which files these are just now: it changes when one is written or replaced. A missing one has one too."""
    return tuple(_stat(path) for path in paths)


def _stat(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError as error:
        return (-1, error.errno or 0)
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def load(certificate: Path, key: Path) -> Certificate:
    """Read a certificate, with its chain after it, and its private key. Raises PemError."""
    chain_pem, key_pem = _read(certificate, "certificate"), _read(key, "key", secret=True)
    return judged(certificate, chain_pem, key, key_pem)


def judged(certificate: Path, chain_pem: bytes, key: Path, key_pem: bytes) -> Certificate:
    """Make a certificate of what stands in its two files. Raises PemError."""
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
        leaf = chain[0]
        certified, names = _public(leaf.public_key()), _names(leaf)
        begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise PemError(f"the certificate {certificate} holds no PEM certificate") from None
    private = _private_key(key, key_pem)
    if certified != _public(private.public_key()):
        raise PemError(
            f"the key {key} is not that of the certificate {certificate} (its own must be the first in the file)"
        )
    # Written anew from what was read: either file may hold more, and OpenSSL would take the first that it finds.
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    context = _context(certificate, pem + b"".join(each.public_bytes(Encoding.PEM) for each in chain))
    return Certificate(context=context, names=names, begins=begins, ends=ends, digest=leaf.public_bytes(Encoding.DER))


def _read(path: Path, what: str, *, secret: bool = False) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not hold a daemon up
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise PemError(f"the {what} {path} is no file")
            if secret:
                _judge(path, found)
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PemError(f"the {what} {path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise PemError(f"the {what} {path} is larger than {MAX_BYTES} bytes")
    return data


def _judge(path: Path, found: os.stat_result) -> None:
    """Refuse a key that others can read. A group may read one of root's: that is how root lends it to a service."""
    lent = found.st_uid == 0 != os.geteuid()
    if found.st_mode & (0o037 if lent else 0o077):
        raise PemError(f"the key {path} can be read by others; type: chmod {640 if lent else 600} {path}")


def _private_key(path: Path, pem: bytes) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(pem, password=None)
    except TypeError:
        hint = f"type: openssl pkey -in {path} -out plain.pem"
        raise PemError(f"the key {path} is encrypted, and nobody is there to ask for its password; {hint}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise PemError(f"the key {path} holds no PEM private key") from None


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return ()  # clients judge names, and OpenSSL for them; here they are only shown
    addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return (*found.get_values_for_type(x509.DNSName), *addresses)


def _context(certificate: Path, pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    # A ticket's key would be as old as this process: whoever got it could read what was recorded before.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        with pem_path(pem) as path:
            context.load_cert_chain(path)
    except ssl.SSLError as error:
        raise PemError(f"the certificate {certificate} cannot be used: {error.reason or error}") from None
    return context
