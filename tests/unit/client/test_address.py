"""Addresses of pools: one form for each, and what is none."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from trusted_pool.client import ClientError
from trusted_pool.client.address import parse
from trusted_pool.protocol.identity import identity_of, to_path

ID = next(  # one that shows both ways of writing
    identity
    for identity in iter(lambda: identity_of(Ed25519PrivateKey.generate()), "")
    if "/" in identity and "+" in identity
)
PIN = to_path(ID)
SMALL_ORDER = "A" * 43


@pytest.mark.parametrize(
    ("raw", "text", "url"),
    [
        ("pool.example.com:9000", "http://pool.example.com:9000", "http://pool.example.com:9000"),
        ("HTTPS://Pool.Example.COM:443/", "https://pool.example.com", "https://pool.example.com"),
        (" http://127.0.0.1:80/ ", "http://127.0.0.1", "http://127.0.0.1"),
        ("http://[::1]:9000", "http://[::1]:9000", "http://[::1]:9000"),
        ("https://x/pool/", "https://x/pool", "https://x/pool"),
        (f"https+pin://{PIN}@Pool:9000/", f"https+pin://{PIN}@pool:9000", "https://pool:9000"),
        (f"https+pin://{ID}@pool:9000", f"https+pin://{PIN}@pool:9000", "https://pool:9000"),
        (f"HTTPS+PIN://{PIN}@[::1]:443", f"https+pin://{PIN}@[::1]", "https://[::1]"),
    ],
)
def test_an_address_has_one_form(raw: str, text: str, url: str) -> None:
    address = parse(raw)
    assert (address.text, address.url) == (text, url)
    assert address.pin == (ID if "pin" in raw.lower() else "")
    assert parse(text) == address


@pytest.mark.parametrize(
    "raw",
    [
        "https+pin://pool:9000",
        f"https+pin://{PIN}",
        f"https+pin://{PIN}@",
        f"https+pin://{PIN}:x@pool",
        f"https+pin://{PIN[:-1]}@pool",
        f"https+pin://{SMALL_ORDER}@pool",
        f"https+pin://{PIN}@user@pool",
        f"https+pin://{PIN}@pool:99999",
        f"http+pin://{PIN}@pool",
        f"https://{PIN}@pool",
        "http://u:p@x",
        "http://x?y=1",
    ],
)
def test_what_is_no_address_is_said(raw: str) -> None:
    with pytest.raises(ClientError) as caught:
        parse(raw)
    assert caught.value.code == "bad_address"
    assert "https+pin://ID@" in caught.value.hint


@given(st.text(max_size=80) | st.text(max_size=60).map(lambda text: f"https+pin://{PIN}@{text}"))
def test_anything_is_an_address_in_one_form_or_none(raw: str) -> None:
    try:
        address = parse(raw)
    except ClientError as error:
        assert error.code == "bad_address"  # noqa: PT017 - most of them
        return
    assert parse(address.text) == address
    assert address.url.startswith("https://" if address.pin else ("http://", "https://"))
