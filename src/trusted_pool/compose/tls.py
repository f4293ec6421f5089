"""How a coordinator proves itself to clients: not at all, by a certificate in PEM files, or by the pool's own key."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted_pool.compose.system import StartError
from trusted_pool.protocol.certificates import PoolContexts
from trusted_pool.protocol.identity import identity_of, to_path
from trusted_pool.serve.pem import Certificate, PemError, Signature, load, signature
from trusted_pool.serve.tls import serving_context

_log = logging.getLogger("trusted_pool.coordinator")

#: Files are looked at so often. A change is taken up when they have been the same twice: within twice that time.
LOOK_EVERY_S = 1.5
#: A certificate that ends this soon should have been renewed.
SOON = timedelta(days=7)
WARN_EVERY = timedelta(days=1)
_EVERY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 - to be told from the others


class Front(Protocol):
    """What clients meet."""

    context: ssl.SSLContext | None

    def address(self, host: str, port: int) -> str:
        """Return the address that clients type."""

    def reread(self) -> None:
        """Read files again at once."""

    async def keep_fresh(self) -> None:
        """Take up what changes. Ends only when it is cancelled."""


def front_of(
    certificate: Path | None, key: Path | None, pool_key: Ed25519PrivateKey | None, now: Callable[[], float]
) -> Front:
    """Build it. `pool_key`: prove that. Raises StartError."""
    if pool_key is not None:
        return PinnedFront(pool_key, now)
    if certificate is None or key is None:
        return PlainFront()
    return PemFront(certificate, key, now)


def _authority(host: str, port: int) -> str:
    name = socket.gethostname() if host in _EVERY_ADDRESS else host
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


class PlainFront:
    """HTTP without TLS."""

    context: ssl.SSLContext | None = None

    def address(self, host: str, port: int) -> str:
        """Return the address that clients type."""
        return f"http://{_authority(host, port)}"

    def reread(self) -> None:
        """There is nothing to read."""

    async def keep_fresh(self) -> None:
        """Nothing changes."""
        await asyncio.Event().wait()


class PinnedFront(PlainFront):
    """TLS by the pool's own key; its leaf is renewed by the handshake that finds it old."""

    def __init__(self, key: Ed25519PrivateKey, now: Callable[[], float]) -> None:
        self.context = serving_context(PoolContexts(key, now))
        self._id = to_path(identity_of(key))

    def address(self, host: str, port: int) -> str:
        """Return the address that clients type."""
        return f"https+pin://{self._id}@{_authority(host, port)}"


class PemFront:
    """TLS by a certificate in files, which are read again when they change."""

    def __init__(
        self, certificate: Path, key: Path, now: Callable[[], float], look_every_s: float = LOOK_EVERY_S
    ) -> None:
        """`now` gives seconds since the epoch. Raises StartError."""
        self._paths = certificate, key
        self._look_every_s = look_every_s
        self._now = now
        self._asked = asyncio.Event()
        self._begins: datetime | None = None  #: when the certificate in the files begins, if it was read too early
        self._read: Signature = signature(*self._paths)
        try:
            self._current = load(*self._paths)
        except PemError as error:
            raise StartError(str(error), usage=True) from None
        self._warned = datetime.min.replace(tzinfo=UTC)
        self._warn_when_ending()
        self.context: ssl.SSLContext | None = serving_context(lambda: self._current.context)

    def address(self, host: str, port: int) -> str:
        """Return the address that clients type: with a name that the certificate has."""
        names = self._current.names
        if host not in names:
            host = next((name for name in names if not name.startswith("*")), host)
        return f"https://{_authority(host, port)}"

    def reread(self) -> None:
        """Read the files again at once."""
        self._asked.set()

    async def keep_fresh(self) -> None:
        """Take up new files. Connections that are open go on with what they began with."""
        seen = self._read
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), self._look_every_s)
            asked = self._asked.is_set()
            self._asked.clear()
            before, seen = seen, signature(*self._paths)
            # Whoever renews writes two files: they are let come to rest, unless we are told that they are ready.
            if asked or (seen == before and (seen != self._read or self._begun())):
                self._read = seen
                self._take_up(asked=asked)
            self._warn_when_ending()

    def _take_up(self, *, asked: bool) -> None:
        try:
            new = load(*self._paths)
            self._judge(new)
        except PemError as error:
            _log.error("%s; the certificate in use stays (it ends on %s)", error, _day(self._current.ends))
            return
        if new.digest != self._current.digest or asked:
            _log.info(
                "Serving the certificate of %s that ends on %s", ", ".join(new.names) or "no name", _day(new.ends)
            )
        self._current = new

    def _judge(self, new: Certificate) -> None:
        """Refuse what is worse than what there is."""
        now = self._time()
        self._begins = new.begins if new.begins > now else None
        if self._begins:
            raise PemError(f"the certificate {self._paths[0]} begins on {_day(new.begins)}, and is taken up then")
        if new.ends <= now:
            raise PemError(f"the certificate {self._paths[0]} ended on {_day(new.ends)}")

    def _begun(self) -> bool:
        """Whether what was too early when it was read is not any more."""
        return self._begins is not None and self._begins <= self._time()

    def _time(self) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC)

    def _warn_when_ending(self) -> None:
        now, ends = self._time(), self._current.ends
        if ends - now < SOON and now - self._warned >= WARN_EVERY:
            self._warned = now
            verb = "ended" if ends <= now else "ends"
            _log.warning("The certificate %s %s on %s: renew it", self._paths[0], verb, _day(ends))


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
