"""Identities: which ids are taken, and key files that openssl understands."""

import base64
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from trusted_pool.protocol import identity as module
from trusted_pool.protocol.identity import (
    IdentityError,
    create_key_file,
    from_path,
    identity_of,
    load_key_file,
    public_bytes,
    public_key,
    to_path,
    verify,
)

P = 2**255 - 19
#: y coordinates of the eight points whose order divides 8: 0 (twice), 1, -1, and two of order 8 (twice each).
ORDER_8 = (
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7,
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
)
SIGN = 1 << 255
SMALL_ORDER = [1, P - 1, 0, SIGN, *ORDER_8, *(y | SIGN for y in ORDER_8)]


def encoded(number: int) -> str:
    return base64.b64encode(number.to_bytes(32, "little")).decode()


def fresh() -> str:
    return identity_of(Ed25519PrivateKey.generate())


def openssl(*arguments: str) -> bytes:
    program = shutil.which("openssl")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("openssl is not installed")
        pytest.skip("openssl is not installed")
    return subprocess.run([program, *arguments], check=True, capture_output=True).stdout


def test_a_known_key() -> None:
    # The first test vector of RFC 8032.
    key = Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    raw = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert public_bytes(identity_of(key)) == raw
    assert identity_of(key) == base64.b64encode(raw).decode()
    assert identity_of(key.public_key()) == identity_of(key)


def test_signatures() -> None:
    key = Ed25519PrivateKey.generate()
    signature = key.sign(b"message")
    assert verify(identity_of(key), signature, b"message")
    assert not verify(identity_of(key), signature, b"massage")
    assert not verify(identity_of(key), signature[:-1], b"message")
    assert not verify(fresh(), signature, b"message")
    with pytest.raises(IdentityError):
        verify("x", signature, b"message")


@pytest.mark.parametrize("number", SMALL_ORDER)
def test_points_of_small_order(number: int) -> None:
    assert (
        module._decompress(number.to_bytes(32, "little")) is not None
    )  # a real point, so it is the order that is refused
    with pytest.raises(IdentityError, match="small or mixed order"):
        public_bytes(encoded(number))


@pytest.mark.parametrize("number", SMALL_ORDER[1:])  # the first is the neutral point, which changes nothing
def test_points_of_mixed_order(number: int) -> None:
    """An honest key plus a point of small order: a point of the curve that no key pair has."""
    honest = module._decompress(public_bytes(fresh()))
    small = module._decompress(number.to_bytes(32, "little"))
    assert honest is not None
    assert small is not None
    x, y, z, _ = module._add(honest, small)
    inverse = pow(z, P - 2, P)
    x, y = x * inverse % P, y * inverse % P
    raw = (y | ((x & 1) << 255)).to_bytes(32, "little")
    assert module._decompress(raw) is not None
    with pytest.raises(IdentityError, match="small or mixed order"):
        public_key(base64.b64encode(raw).decode())


@pytest.mark.parametrize(
    "number",
    [
        *range(P, 2**255),  # y written as y + p: all nineteen
        *(y | SIGN for y in range(P, 2**255)),
        1 | SIGN,  # x = 0 with the sign of -0
        (P - 1) | SIGN,
        2,  # no x for this y
        2**256 - 1,
    ],
)
def test_encodings_that_are_not_canonical_or_no_point(number: int) -> None:
    with pytest.raises(IdentityError, match="not a point of the curve in canonical form"):
        public_bytes(encoded(number))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_another_size(size: int) -> None:
    with pytest.raises(IdentityError, match=f"it has {size} bytes"):
        public_bytes(base64.b64encode(bytes(size)).decode())


def test_base64_that_is_not_canonical() -> None:
    good = fresh()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = alphabet.index(good[42])
    assert last % 4 == 0  # two bits of the last character carry nothing
    malleable = [good[:42] + alphabet[last + n] + "=" for n in (1, 2, 3)]
    spaced = [
        good + "\n",
        " " + good,
        good[:20] + "\n" + good[20:],
        good + "=",
        good[:-1],
        good + "A",
        good[:20] + "=" + good[20:],
    ]
    for text in [*malleable, *spaced, "", "=", "é" * 44, "\0" * 44, good[:10] + "-_" + good[12:], good + good]:
        with pytest.raises(IdentityError):
            public_bytes(text)
    assert public_bytes(good)


def test_from_path_is_strict_too() -> None:
    good = fresh()
    assert from_path(to_path(good)) == good
    assert from_path(to_path(good) + "=") == good
    for text in (
        "",
        "=",
        to_path(good) + "==",
        to_path(good)[:-1],
        to_path(good) + "/",
        "../x",
        encoded(1).rstrip("="),
    ):
        with pytest.raises(IdentityError):
            from_path(text)


def test_a_first_look_costs_less_than_5_ms_and_a_second_nothing() -> None:
    ids = [fresh() for _ in range(20)]
    public_bytes.cache_clear()

    def cost_s() -> float:
        costs = []
        for one in ids:
            began = time.thread_time()
            public_bytes(one)
            costs.append(time.thread_time() - began)
        return sorted(costs)[len(costs) // 2]

    assert cost_s() < 0.005
    assert cost_s() < 0.0001


def test_our_key_file_is_what_openssl_reads(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "worker.pem"
    key = create_key_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    public = openssl("pkey", "-in", str(path), "-pubout", "-outform", "DER")
    assert public == key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert base64.b64encode(public[-32:]).decode() == identity_of(key)
    assert identity_of(load_key_file(path)) == identity_of(key)
    assert openssl("pkey", "-in", str(path)) == path.read_bytes()


def test_a_key_of_openssl_is_what_we_read(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", str(path))
    path.chmod(0o600)
    public = openssl("pkey", "-in", str(path), "-pubout", "-outform", "DER")
    assert public_bytes(identity_of(load_key_file(path))) == public[-32:]


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        create_key_file(tmp_path / "key.pem")
    finally:
        os.umask(old)
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["file", "empty", "dangling link", "directory"])
def test_nothing_is_overwritten(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "key.pem"
    match kind:
        case "file":
            path.write_bytes(b"precious")
        case "empty":
            path.touch()
        case "dangling link":
            path.symlink_to(tmp_path / "elsewhere")
        case _:
            path.mkdir()
    with pytest.raises(FileExistsError):
        create_key_file(path)
    assert not (tmp_path / "elsewhere").exists()
    assert kind != "file" or path.read_bytes() == b"precious"


def test_half_a_key_is_not_left(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path; from trusted_pool.protocol.identity import create_key_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))\n"
        "try: create_key_file(Path(sys.argv[1]))\n"
        "except OSError as error: sys.exit(f'refused: {error.strerror}')"
    )
    path = tmp_path / "key.pem"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "refused: File too large"
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o611, 0o666])
def test_a_key_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    create_key_file(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=f"type: chmod 600 {path}"):
        load_key_file(path)
    path.chmod(0o400)
    load_key_file(path)


def test_what_is_no_key_file(tmp_path: Path) -> None:
    ed25519 = Ed25519PrivateKey.generate()
    encrypted = ed25519.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    public = ed25519.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    good = ed25519.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    unknown = openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp160k1")  # unsupported
    path = tmp_path / "key.pem"
    for content in (b"", b"\xff\x00", encrypted, public, other, good[:60], good.replace(b"M", b"!"), unknown):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(IdentityError, match=str(path)):
            load_key_file(path)
    with pytest.raises(FileNotFoundError):
        load_key_file(tmp_path / "missing")
