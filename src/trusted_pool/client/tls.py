"""What the client demands of a pool before it says a word to it."""

import ssl
from pathlib import Path

from trusted_pool.client.address import parse
from trusted_pool.client.errors import ClientError
from trusted_pool.client.settings import Settings, usable_token


def check_token(settings: Settings) -> None:
    """Refuse to send an API key where it could be read on the way. Raises ClientError."""
    if not settings.token:
        return
    usable_token(settings.token)
    address = parse(settings.address)
    if address.is_plain and not settings.insecure_http:
        raise ClientError(
            f"the API key is not sent to {address.text}: without TLS everybody on the way could read it",
            code="insecure_http",
            hint="have the pool serve TLS (tpool coordinator --tls-pinned) and use the address that it logs,"
            " or say TRUSTED_POOL_INSECURE_HTTP=1 (tpool login --insecure-http keeps that for one pool)",
        )


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Make the TLS context: of the pinned key, of the given authority, or of the system's authorities.

    For plain HTTP it trusts nobody.

    Raises:
        ClientError: the certificate file cannot be used.
    """
    address = parse(settings.address)
    if address.pin:
        from trusted_pool.protocol.certificates import user_context  # noqa: PLC0415 - slow, and for pinned keys only

        return user_context(address.pin)
    if not address.url.startswith("https:"):
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
