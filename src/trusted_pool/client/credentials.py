"""What `tpool login` has kept: an API key for each pool, and which pool is meant when none is named.

One JSON file that only its owner can read. Writers take turns, and the file changes in one step.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from trusted_pool.client.errors import ClientError
from trusted_pool.protocol.decoding import DecodingError, decode

_NAME = "credentials.json"
_VERSION = 1
_MAX_BYTES = 1024 * 1024


class Login(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept for one pool."""

    token: str = ""
    cacert: str = ""  #: PEM file of the authority that signed its certificate
    insecure_http: bool = False  #: it was said that the key may go there over plain HTTP


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """All that is kept. Pools go by their addresses in their one form."""

    version: int = _VERSION
    default: str = ""  #: the address that is meant when none is named
    pools: dict[str, Login] = {}


def path_of(env: Mapping[str, str]) -> Path | None:
    """Return where they are kept; None when the environment names no place."""
    base, home = env.get("XDG_CONFIG_HOME", ""), env.get("HOME", "")
    if not base.startswith("/"):
        base = f"{home}/.config" if home.startswith("/") else ""
    return Path(base) / "trusted-pool" / _NAME if base else None


def load(env: Mapping[str, str]) -> Credentials:
    """Read what is kept; nothing when there is no file that this user can get to.

    Raises:
        ClientError: others can read it, or it is no such file.
    """
    path = path_of(env)
    if path is None:
        return Credentials()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return Credentials()
    with os.fdopen(fd, "rb") as file:
        if os.fstat(fd).st_mode & 0o077:
            raise ClientError(
                f"{path} holds API keys and can be read by others",
                code="unsafe_credentials",
                hint=f"type: chmod 600 {path}",
            )
        return _decoded(path, file.read(_MAX_BYTES))


def _decoded(path: Path, raw: bytes) -> Credentials:
    try:
        return decode(raw, Credentials)
    except DecodingError:  # whose words could quote the file
        raise ClientError(
            f"{path} cannot be read: it is not what tpool login writes",
            code="unsafe_credentials",
            hint=f"remove it and log in again: rm {path}",
        ) from None


def keep(env: Mapping[str, str], address: str, login: Login) -> Path:
    """Keep what opens a pool, and mean that pool from now on when none is named. Returns the file.

    Raises:
        ClientError: it cannot be kept.
    """
    with _changing(env) as (path, kept):
        pools = {**kept.pools, address: login}
        _write(path, msgspec.structs.replace(kept, version=_VERSION, default=address, pools=pools))
    return path


def forget(env: Mapping[str, str], *addresses: str) -> list[str]:
    """Forget what opens these pools, or all when none is named. Returns those that were known.

    Raises:
        ClientError: the file cannot be read or written.
    """
    path = path_of(env)
    if path is None or not path.exists():
        return []
    with _changing(env) as (path, kept):
        gone = [address for address in kept.pools if not addresses or address in addresses]
        pools = {address: login for address, login in kept.pools.items() if address not in gone}
        default = kept.default if addresses and kept.default not in addresses else ""
        _write(path, msgspec.structs.replace(kept, default=default, pools=pools))
    return gone


@contextlib.contextmanager
def _changing(env: Mapping[str, str]) -> Iterator[tuple[Path, Credentials]]:
    path = path_of(env)
    if path is None:
        raise ClientError("there is nowhere to keep API keys", code="cannot_write", hint="set HOME or XDG_CONFIG_HOME")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if os.fstat(directory).st_mode & 0o077:
                os.fchmod(directory, 0o700)
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield path, load(env)
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ClientError(
            f"{path} cannot be written: {error.strerror}", code="cannot_write", hint="or set TRUSTED_POOL_TOKEN instead"
        ) from None


def _write(path: Path, kept: Credentials) -> None:
    new = path.with_name(f"{_NAME}.{os.getpid()}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o600)
            file.write(msgspec.json.format(msgspec.json.encode(kept)) + b"\n")
            file.flush()
            os.fsync(fd)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
