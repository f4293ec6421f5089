"""The endpoint of a worker: `http(s)://HOST[:PORT][/PREFIX]` and nothing else.

One place for files, requests and lines, so that what is listed is what is dialled.
"""

import ipaddress
import re
from urllib.parse import urlsplit

import msgspec

DEFAULT_PORT = 8443
SCHEMES = ("http", "https")
MAX_ENDPOINT = 1024
MAX_HOST = 253  # of a name, as DNS has it
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_EXAMPLE = "write it like https://worker1:8443"


class EndpointError(ValueError):
    """It is no endpoint of a worker; the message says why."""


class Endpoint(msgspec.Struct, frozen=True):
    """Where a worker is, in the one form that it has. `str` writes it."""

    scheme: str
    host: str  #: lower case; a name in ASCII, or an address without brackets
    port: int
    prefix: str = ""  #: of every path; begins with a slash and ends with none

    def url(self, scheme: str) -> str:
        """Write it with another scheme."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}{self.prefix}"

    def __str__(self) -> str:
        return self.url(self.scheme)

    @property
    def place(self) -> tuple[str, int, str]:
        """What two endpoints have in common that lead to the same worker: the scheme does not count."""
        return self.host, self.port, self.prefix


def read_endpoint(text: str) -> Endpoint:
    """Read an endpoint. Without a port it is 8443. Raises EndpointError."""
    if len(text) > MAX_ENDPOINT:
        raise EndpointError(f"it is longer than {MAX_ENDPOINT} characters")
    # Before it is taken apart: urlsplit drops some of these silently.
    if not text.isprintable() or " " in text or "\\" in text:
        raise EndpointError("it names no host: it holds a space, a backslash or a control character")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise EndpointError(f"{error}; {_EXAMPLE}") from None
    if parts.scheme not in SCHEMES:
        raise EndpointError("it must begin with http:// or https://")
    if "@" in parts.netloc:
        raise EndpointError("it must not hold a user or password")
    if "?" in text or "#" in text:
        raise EndpointError("it must not hold ? or #")
    if not parts.hostname:
        raise EndpointError(f"it names no host; {_EXAMPLE}")
    if port == 0:
        raise EndpointError("port 0 is no port")
    prefix = parts.path.rstrip("/")
    if not _PREFIX.fullmatch(prefix) or any(part in (".", "..") for part in prefix.split("/")):
        raise EndpointError(f"its path {prefix!r} is none that a worker has; {_EXAMPLE}")
    return Endpoint(parts.scheme, _host(parts.hostname), port or DEFAULT_PORT, prefix)


def _host(text: str) -> str:
    """Return a host in its one form: an address as it is written shortest, a name in ASCII."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        name = text.encode("idna").decode().lower()
    except UnicodeError as error:
        raise EndpointError(f"it names a host that cannot be: {error}") from None
    labels = name.removesuffix(".").split(".")
    if len(name) > MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise EndpointError(f"it names a host that cannot be: {text!r}")
    if labels[-1].isdigit():
        # Resolvers take 10.1 and 192.168.1.1001 for addresses, each in its own way.
        raise EndpointError(f"it names a host that cannot be: {text!r} is neither a name nor an address")
    return name
