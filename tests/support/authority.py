"""A small certificate authority, made anew by each test that needs one."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Authority:
    """Signs certificates. `root` is its own, as a PEM file; an intermediate stands between it and what it signs."""

    def __init__(self, home: Path, name: str = "Test Authority") -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        root_key = generate_private_key(SECP256R1())
        root = _certificate(_name(name), root_key.public_key(), by=(_name(name), root_key), is_authority=True)
        self._name = _name(f"{name}, intermediate")
        self._key = generate_private_key(SECP256R1())
        self.intermediate = _certificate(
            self._name, self._key.public_key(), by=(_name(name), root_key), is_authority=True
        )
        self.root = home / "ca.pem"
        self.root.write_bytes(root.public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str = "pool",
        *,
        names: Sequence[str] = ("localhost", "127.0.0.1"),
        begins: timedelta = -DAY,
        ends: timedelta = 30 * DAY,
        rsa: bool = False,
        into: tuple[Path, Path] | None = None,
    ) -> tuple[Path, Path]:
        """Write a certificate with its chain, and its key, and return both files. `begins` and `ends` are from now."""
        key: RSAPrivateKey | EllipticCurvePrivateKey
        key = generate_rsa_key(65537, 2048) if rsa else generate_private_key(SECP256R1())
        leaf = _certificate(
            _name("pool"), key.public_key(), by=(self._name, self._key), names=names, begins=begins, ends=ends
        )
        certificate, private = into or (self.home / f"{name}.pem", self.home / f"{name}.key")
        _replace(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        _replace(certificate, b"".join(c.public_bytes(Encoding.PEM) for c in (leaf, self.intermediate)), 0o644)
        return certificate, private


def _certificate(
    subject: x509.Name,
    key: x509.base.CertificatePublicKeyTypes,
    *,
    by: tuple[x509.Name, EllipticCurvePrivateKey],
    names: Sequence[str] = (),
    begins: timedelta = -DAY,
    ends: timedelta = 365 * DAY,
    is_authority: bool = False,
) -> x509.Certificate:
    issuer, signer = by
    now = datetime.now(UTC)  # noqa: TID251 - OpenSSL checks dates by the machine's clock
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), critical=False)
    return builder.sign(signer, SHA256())


def _replace(path: Path, data: bytes, mode: int) -> None:
    """Put a file in its place in one step, as those do who renew certificates."""
    new = path.with_name(f"{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    new.replace(path)
