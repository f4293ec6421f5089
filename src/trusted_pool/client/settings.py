"""Where the pool is and how to speak to it."""

from collections.abc import Mapping

import msgspec

from trusted_pool.client import credentials
from trusted_pool.client.address import DEFAULT_ADDRESS, parse
from trusted_pool.client.errors import ClientError

_YES = ("1", "true", "yes", "on")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The coordinator's address and what to show and check there."""

    address: str = DEFAULT_ADDRESS  #: http://…, https://… or https+pin://ID@…
    token: str = ""  #: an API key, sent as a bearer token
    cacert: str = ""  #: PEM file of the authority to trust instead of the system's; a pinned key needs none
    insecure_http: bool = False  #: the token may go over plain HTTP to another machine

    def __repr__(self) -> str:
        """Say all but the token: this ends up in logs and tracebacks."""
        token = "…" if self.token else ""
        return f"Settings(address={self.address!r}, token={token!r}, cacert={self.cacert!r})"


def from_environment(env: Mapping[str, str], address: str | None = None) -> Settings:
    """Say where the pool is: by `address`, by TRUSTED_POOL_ADDR, by what `tpool login` has kept, in that order.

    TRUSTED_POOL_TOKEN, _CACERT and _INSECURE_HTTP win over what was kept. A kept API key goes only to the address
    that it was kept for.

    Raises:
        ClientError: no usable address; kept credentials that others can read.
    """
    kept = credentials.load(env)
    where = parse(address or env.get("TRUSTED_POOL_ADDR") or kept.default or DEFAULT_ADDRESS).text
    login = kept.pools.get(where) or credentials.Login()
    return Settings(
        address=where,
        token=env.get("TRUSTED_POOL_TOKEN", "").strip() or login.token,
        cacert=env.get("TRUSTED_POOL_CACERT", "") or login.cacert,
        insecure_http=login.insecure_http or env.get("TRUSTED_POOL_INSECURE_HTTP", "").lower() in _YES,
    )


def usable_address(raw: str) -> str:
    """Return an address in its one form. Raises ClientError when it is none."""
    return parse(raw).text


def usable_token(token: str) -> str:
    """Return an API key that can be sent. Raises ClientError, which does not say the key."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ClientError(
            "the API key is none: it is empty, or has characters that no key has",
            code="bad_token",
            hint="copy the whole key, and nothing else; then: tpool login, or set TRUSTED_POOL_TOKEN",
        )
    return token
