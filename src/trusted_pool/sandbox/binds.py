"""Directories of this machine that its operator lends to jobs, read-only, by name."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from trusted_pool.ports.sandbox import SandboxError
from trusted_pool.protocol.equipment import BIND_NAME, BIND_NAME_WORDS, BINDS, bind_variable

#: Nothing of these is lent: the machine's own secrets, devices and sockets, and what other workers keep.
_NEVER = ("/proc", "/sys", "/dev", "/etc", "/run", "/boot", "/var/lib/trusted-pool")


def resolve(binds: Mapping[str, Path], private: Sequence[Path]) -> dict[str, str]:
    """Check what the operator named and find the real directories, once and for all.

    `private`: directories of the worker's own; nothing in them, and nothing that holds one of them, is lent.

    Raises:
        SandboxError: one cannot be lent; the message says why and what to do.
    """
    never = [*map(Path, _NEVER), *(path.resolve() for path in private)]
    found: dict[str, str] = {}
    variables: dict[str, str] = {}
    for name, path in sorted(binds.items()):
        if not BIND_NAME.match(name):
            raise SandboxError(f"--bind {name}={path}: {name!r} is no name of a bind; it has {BIND_NAME_WORDS}")
        other = variables.setdefault(bind_variable(name), name)
        if other != name:
            raise SandboxError(
                f"--bind {name}={path}: {name!r} and {other!r} have the same variable {bind_variable(name)}; "
                "rename one of them"
            )
        found[name] = str(_directory(name, path, never))
    return found


def _directory(name: str, path: Path, never: Sequence[Path]) -> Path:
    what = f"--bind {name}={path}"
    if not path.is_absolute():
        raise SandboxError(f"{what}: the path is not absolute; write it from / on")
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise SandboxError(f"{what}: {getattr(error, 'strerror', None) or error}; name a directory") from None
    if not real.is_dir():
        raise SandboxError(f"{what}: it is no directory; lend the one that it is in")
    for place in never:
        if real == place or place in real.parents or real in place.parents:
            raise SandboxError(f"{what}: {real} is, holds or lies in {place}, which no job may see; lend another one")
    return real


def require_readable(name: str, path: str, fd: int) -> None:
    """See that the calling thread's user may look into a directory that is open. For `Owner.call`.

    What is above it does not matter: it is bound from where the worker sees it.

    Raises:
        SandboxError: it may not.
    """
    try:
        os.close(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd))
    except OSError as error:
        raise SandboxError(
            f"--bind {name}={path}: jobs could not read it ({error.strerror}); chmod o+rx {path}"
        ) from None


def variables(names: Sequence[str]) -> dict[str, str]:
    """Tell a job where its binds are."""
    return {bind_variable(name): f"{BINDS}/{name}" for name in names}
