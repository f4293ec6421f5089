"""Where the pool is and how to speak to it."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from trusted_pool.client.errors import ClientError

DEFAULT_ADDRESS = "http://127.0.0.1:9000"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The coordinator's address and what to show and check there."""

    address: str = DEFAULT_ADDRESS  #: no trailing slash
    token: str = ""  #: an API key, sent as a bearer token
    cacert: str = ""  #: PEM file of the authority to trust instead of the system's


def from_environment(env: Mapping[str, str], address: str | None = None) -> Settings:
    """Read TRUSTED_POOL_ADDR, _TOKEN and _CACERT; `address` wins over the environment.

    Raises:
        ClientError: no usable address.
    """
    raw = address or env.get("TRUSTED_POOL_ADDR") or DEFAULT_ADDRESS
    return Settings(
        address=usable_address(raw),
        token=env.get("TRUSTED_POOL_TOKEN", "").strip(),
        cacert=env.get("TRUSTED_POOL_CACERT", ""),
    )


def usable_address(raw: str) -> str:
    """Return the address in canonical form; `host:port` means http.

    Raises:
        ClientError: it is no http or https URL.
    """
    text = raw.strip()
    if "://" not in text:
        text = f"http://{text}"
    hint = f"write it like {DEFAULT_ADDRESS} or https://pool.example.com"
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or parts.username is not None or any(c.isspace() for c in text):
        raise ClientError(f"{raw[:200]!r} is no address of a pool", code="bad_address", hint=hint)
    return text.rstrip("/")


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Make the TLS context: the system's authorities, or only the given one. For plain http it trusts nobody.

    Raises:
        ClientError: the certificate file cannot be used.
    """
    if not settings.address.startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not settings.cacert:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=str(Path(settings.cacert).expanduser()))
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or "it holds no PEM certificate"
        raise ClientError(
            f"cannot use the certificate file {settings.cacert}: {reason}",
            code="bad_cacert",
            hint="TRUSTED_POOL_CACERT names a PEM file",
        ) from None
