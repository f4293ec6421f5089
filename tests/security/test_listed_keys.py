"""Case 79: a key in an allowlist that no honest worker has, or that is written in another way, is refused."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from trusted_pool.coordinator.allowlist import AllowlistError, parse
from trusted_pool.protocol.identity import identity_of, verify

GOOD, OTHER = (identity_of(Ed25519PrivateKey.generate()) for _ in range(2))
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def written(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()


SMALL_ORDER = {
    "neutral": written("01" + "00" * 31),
    "order 2": written("ec" + "ff" * 30 + "7f"),
    "order 4": written("00" * 32),
    "order 4, the other": written("00" * 31 + "80"),
    "order 8": written("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    "order 8, another": written("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
}
WRONG = {
    **SMALL_ORDER,
    "the neutral one, beyond the prime": written("ee" + "ff" * 30 + "7f"),
    "zero, beyond the prime": written("ed" + "ff" * 30 + "7f"),
    "no point": written("02" + "00" * 31),
    "bits that nobody reads": GOOD[:42] + _ALPHABET[_ALPHABET.index(GOOD[42]) ^ 1] + "=",
    "no padding": GOOD[:-1],
    "more padding": GOOD + "=",
    "padding within": GOOD[:20] + "=" + GOOD[20:],
    "spaces around": f" {GOOD} ",
    "the end of a line": GOOD + "\n",
    "as in a URL": base64.urlsafe_b64encode(b"\xfb" * 32).decode(),
    "31 bytes": base64.b64encode(bytes(range(31))).decode(),
    "33 bytes": base64.b64encode(bytes(range(33))).decode(),
    "nothing": "",
}


def listing(worker_id: str) -> bytes:
    entries = [(OTHER, "http://worker1:8443"), (worker_id, "http://worker2:8443")]
    return json.dumps([{"worker_id": key, "endpoint": where} for key, where in entries]).encode()


@pytest.mark.parametrize("kind", WRONG)
def test_79_a_key_that_cannot_be_trusted_is_refused_by_its_entry(kind: str):
    with pytest.raises(AllowlistError, match=r"^workers\.json: entry 2: worker_id is no worker's id: .*--generate-key"):
        parse(listing(WRONG[kind]))


def test_79_control_an_honest_key_is_taken():
    assert [worker.worker_id for worker in parse(listing(GOOD))] == [OTHER, GOOD]


def test_79_control_with_such_a_key_anybody_could_prove_it():
    """Without the check: one signature, made without any private key, is good for every message."""
    forged = bytes.fromhex("01" + "00" * 31) + bytes(32)
    neutral = SMALL_ORDER["neutral"]
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(neutral))
    for message in (b"I am the worker", b"and so am I"):
        key.verify(forged, message)  # raises when it is wrong
    with pytest.raises(ValueError, match="small or mixed order"):
        verify(neutral, forged, b"I am the worker")
