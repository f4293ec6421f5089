"""Ed25519 identities: worker ids and pool ids, and the key files that prove them.

An id is the standard base64 of the raw 32-byte public key. In a URL path it is written in URL-safe base64
without padding.
"""

import base64
import binascii
import os
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

KEY_BYTES = 32
_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = (-121665 * pow(121666, _P - 2, _P)) % _P
_SQRT_MINUS_1 = pow(2, (_P - 1) // 4, _P)


class IdentityError(ValueError):
    """An id or a key file that cannot be used; the message says why."""


_Point = tuple[int, int, int, int]  # extended coordinates (X, Y, Z, T), RFC 8032 section 5.1.4
_NEUTRAL: _Point = (0, 1, 1, 0)


def _add(p: _Point, q: _Point) -> _Point:
    a = (p[1] - p[0]) * (q[1] - q[0]) % _P
    b = (p[1] + p[0]) * (q[1] + q[0]) % _P
    c = 2 * p[3] * q[3] * _D % _P
    d = 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _decompress(raw: bytes) -> _Point | None:
    """Return the point, or None where RFC 8032 section 5.1.3 says that decoding fails."""
    number = int.from_bytes(raw, "little")
    sign, y = number >> 255, number & ((1 << 255) - 1)
    if y >= _P:
        return None
    x2 = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(x2, (_P + 3) // 8, _P)
    if (x * x - x2) % _P:
        x = x * _SQRT_MINUS_1 % _P
    if (x * x - x2) % _P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = _P - x
    return (x, y, 1, x * y % _P)


def _has_prime_order(point: _Point) -> bool:
    """Whether the point is not the neutral one and L times it is: nothing of the small subgroup."""
    x, y, z, _ = point
    if x % _P == 0 and (y - z) % _P == 0:
        return False
    total, step, n = _NEUTRAL, point, _L
    while n:
        if n & 1:
            total = _add(total, step)
        step, n = _add(step, step), n >> 1
    return total[0] % _P == 0 and (total[1] - total[2]) % _P == 0


@lru_cache(maxsize=4096)
def public_bytes(identity: str) -> bytes:
    """Return the raw public key of an id. Costs 1.3 ms the first time; good ids are remembered.

    Raises:
        IdentityError: not 32 bytes of canonical base64, or not a canonical point of prime order.
    """
    try:
        raw = base64.b64decode(identity.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise IdentityError("it is not standard base64") from None
    if len(raw) != KEY_BYTES:
        raise IdentityError(f"it has {len(raw)} bytes; an Ed25519 public key has 32")
    if base64.b64encode(raw).decode() != identity:
        raise IdentityError("it is not canonical base64")
    point = _decompress(raw)
    if point is None:
        raise IdentityError("it is not a point of the curve in canonical form")
    if not _has_prime_order(point):
        raise IdentityError("it is a point of small or mixed order, which no honest key is")
    return raw


def public_key(identity: str) -> Ed25519PublicKey:
    """Return the public key of an id. Raises IdentityError like `public_bytes`."""
    return Ed25519PublicKey.from_public_bytes(public_bytes(identity))


def identity_of(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """Return the id of a key."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return base64.b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def to_path(identity: str) -> str:
    """Write an id for a URL path."""
    return identity.replace("+", "-").replace("/", "_").rstrip("=")


def from_path(text: str) -> str:
    """Read an id from a URL path; the padding may be there. Raises IdentityError."""
    identity = text.removesuffix("=").replace("-", "+").replace("_", "/") + "="
    public_bytes(identity)
    return identity


def verify(identity: str, signature: bytes, message: bytes) -> bool:
    """Whether the signature over the message is by the id's key."""
    try:
        public_key(identity).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def create_key_file(path: Path) -> Ed25519PrivateKey:
    """Make a key and write it to a new file, mode 0600, as PKCS#8 PEM (what `openssl pkey` reads).

    Missing directories are made. The file is durable when this returns.

    Raises:
        FileExistsError: there is such a file; keys are never overwritten.
        OSError: it cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    missing = list(takewhile(lambda directory: not directory.exists(), path.parents))
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink()  # half a key would stand in the way of the next try
        raise
    for directory in (path.parent, *(made.parent for made in missing)):
        _sync_directory(directory)
    return key


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def load_key_file(path: Path) -> Ed25519PrivateKey:
    """Read a private key from a PKCS#8 PEM file.

    Raises:
        IdentityError: no Ed25519 private key, or a file that others than its owner can read.
        OSError: it cannot be read.
    """
    if path.stat().st_mode & 0o077:
        raise IdentityError(f"{path} can be read by others; type: chmod 600 {path}")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IdentityError(f"{path} holds no unencrypted PEM private key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"{path} holds no Ed25519 key")
    return key
