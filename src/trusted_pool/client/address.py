"""Where a pool is, as people write it: `http://…`, `https://…`, or `https+pin://ID@…`, which pins the pool's key."""

import ipaddress
import re
from urllib.parse import urlsplit

import msgspec

from trusted_pool.client.errors import ClientError

DEFAULT_ADDRESS = "http://127.0.0.1:9000"
_PINNED = "https+pin://"
_USUAL_PORTS = {"http": 80, "https": 443}
_HINT = f"write it like {DEFAULT_ADDRESS}, https://pool.example.com or https+pin://ID@pool.example.com:9000"
#: An id as one may write it: for a URL or as it is printed, whose `/` ends no host here.
_ID = re.compile(r"([A-Za-z0-9+/_-]{43}=?)@(.*)", re.DOTALL)


class Address(msgspec.Struct, frozen=True):
    """An address in its one form; what means the same place is equal."""

    text: str  #: as people write it
    url: str  #: where HTTP requests go: http or https, without a slash at its end
    pin: str = ""  #: the id that the pool must prove

    @property
    def is_plain(self) -> bool:
        """Whether what is sent there can be read on the way: HTTP, and not to this machine."""
        return self.url.startswith("http:") and not _is_loopback(urlsplit(self.url).hostname or "")


def parse(raw: str) -> Address:
    """Read an address; `host:port` means http.

    Raises:
        ClientError: it is none.
    """
    text = raw.strip()
    if text.lower().startswith(_PINNED):
        return _pinned(raw, text[len(_PINNED) :])
    url = _url(raw, text if "://" in text else f"http://{text}")
    return Address(url, url)


def _pinned(raw: str, rest: str) -> Address:
    from trusted_pool.protocol.identity import IdentityError, from_path, to_path  # noqa: PLC0415 - cryptography is slow

    match = _ID.fullmatch(rest)
    try:
        if match is None:
            raise IdentityError("an id has 43 characters, and an @ follows it")
        pin = from_path(to_path(match[1]))
    except IdentityError as error:
        raise ClientError(
            f"{raw[:200]!r} pins no key: {error}",
            code="bad_address",
            hint="write https+pin://ID@HOST:PORT, as the coordinator's log has it; ID: tpool coordinator --show-id",
        ) from None
    url = _url(raw, f"https://{match[2]}")
    return Address(f"{_PINNED}{to_path(pin)}@{url.removeprefix('https://')}", url, pin)


def _url(raw: str, text: str) -> str:
    try:
        parts = urlsplit(text)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        scheme = host = ""
        port = None
    usable = scheme in _USUAL_PORTS and host and port != 0
    if not usable or parts.query or parts.fragment or parts.username is not None or any(c.isspace() for c in text):
        raise ClientError(f"{raw[:200]!r} is no address of a pool", code="bad_address", hint=_HINT)
    name = f"[{host}]" if ":" in host else host
    where = name if port in (None, _USUAL_PORTS[scheme]) else f"{name}:{port}"
    return f"{scheme}://{where}{parts.path.rstrip('/')}"


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name, and somebody else says where it leads
