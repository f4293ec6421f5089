"""Identities, for all keys and for any text."""

import base64
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from trusted_pool.protocol.identity import (
    IdentityError,
    from_path,
    identity_of,
    public_bytes,
    public_key,
    to_path,
    verify,
)

keys = st.binary(min_size=32, max_size=32).map(Ed25519PrivateKey.from_private_bytes)


@given(keys, st.binary())
def test_every_key_has_an_id_that_round_trips(key: Ed25519PrivateKey, message: bytes) -> None:
    identity = identity_of(key)
    path = to_path(identity)
    assert from_path(path) == identity
    assert quote(path, safe="") == path
    assert base64.b64encode(public_bytes(identity)).decode() == identity
    assert identity_of(public_key(identity)) == identity
    assert verify(identity, key.sign(message), message)


@given(st.text() | st.binary(min_size=32, max_size=32).map(lambda raw: base64.b64encode(raw).decode()))
def test_any_text_is_an_id_in_one_spelling_or_an_identity_error(text: str) -> None:
    try:
        raw = public_bytes(text)
    except IdentityError as error:
        assert str(error).startswith("it ")  # noqa: PT017 - the other outcome is as good
    else:
        assert base64.b64encode(raw).decode() == text


@given(st.text())
def test_any_path_is_an_id_or_an_identity_error(text: str) -> None:
    try:
        identity = from_path(text)
    except IdentityError:
        return
    assert from_path(to_path(identity)) == identity


@given(keys, st.integers(0, 43), st.characters())
def test_another_character_is_another_id_or_none(key: Ed25519PrivateKey, place: int, other: str) -> None:
    identity = identity_of(key)
    changed = identity[:place] + other + identity[place + 1 :]
    try:
        same = public_bytes(changed) == public_bytes(identity)
    except IdentityError:
        same = False
    assert same == (changed == identity)
