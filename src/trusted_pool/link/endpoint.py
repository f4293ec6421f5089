"""Where a worker is dialled: https, whatever the allowlist's endpoint says, or plain http where identity is claimed."""

from urllib.parse import urlsplit

DEFAULT_PORT = 8443


def base_url(endpoint: str, scheme: str = "https") -> str:
    """Return `SCHEME://host:port/prefix` without a slash at its end. Without a port it is 8443.

    Raises:
        ValueError: it is no http(s) URL of a host, or holds a user, a query or a fragment.
    """
    parts = urlsplit(endpoint)
    port = parts.port  # raises ValueError when it is no port
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{endpoint!r} is no address of a worker; write https://HOST:PORT")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(f"{endpoint!r} holds more than host, port and path; write https://HOST:PORT")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{scheme}://{host}:{port or DEFAULT_PORT}{parts.path.rstrip('/')}"
