"""Examining this machine as a worker would use it."""

import platform
import shutil
from pathlib import Path

from trusted_pool.compose.system import StartError, run
from trusted_pool.ports.sandbox import SandboxError
from trusted_pool.sandbox.doctor import Report, examine, make_root


def machine() -> str:
    """Name the system that is examined."""
    return f"Linux {platform.release()} {platform.machine()}"


def examined(data: Path | None, *, overrun: bool = True) -> Report:
    """Examine; `data`: a worker's data directory, None for where temporary files are; `overrun`: see `examine`.

    Raises:
        StartError: it cannot be examined.
    """
    try:
        root = make_root(data)
    except SandboxError as error:
        raise StartError(f"{error}; name another with --data", usage=True) from None
    try:
        return run(examine(root, overrun=overrun))
    except SandboxError as error:
        raise StartError(str(error)) from None
    finally:
        shutil.rmtree(root, ignore_errors=True)
