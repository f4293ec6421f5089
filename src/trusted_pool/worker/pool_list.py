"""A list of pools in a file, read again while the worker runs: one id a line; what follows a # is a comment."""

import os
import shlex
from pathlib import Path

from trusted_pool.protocol.identity import IdentityError, public_bytes

#: Far more than anybody lists: 20,000 ids.
MAX_BYTES = 1024 * 1024

#: What tells one state of a file from another; None: it is not there.
Mark = tuple[int, int, int, int, int] | None


class PoolListError(Exception):
    """The list cannot be used; the message names the line."""


def parse(raw: bytes, source: str) -> frozenset[str]:
    """Read a list. An empty one is one: it lets nobody in. Raises PoolListError."""
    if len(raw) > MAX_BYTES:
        raise PoolListError(f"{source} is larger than {MAX_BYTES} bytes; one id a line is enough")
    ids = set()
    for number, line in enumerate(raw.splitlines(), 1):
        text = line.partition(b"#")[0].decode("utf-8", "backslashreplace").strip()
        if not text:
            continue
        try:
            public_bytes(text)
        except IdentityError as error:
            hint = "the coordinator's machine prints it: tpool coordinator --show-id"
            raise PoolListError(f"{source}: line {number}: {text[:64]!r} is no pool id: {error}; {hint}") from None
        ids.add(text)
    return frozenset(ids)


class PoolList:
    """The file."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def how_to_add(self, pool_id: str) -> str:
        """Say what to type to list a pool. The last line may lack its end, so one is put before."""
        return f"printf '\\n%s\\n' {pool_id} >> {shlex.quote(str(self.path))}"

    def read(self) -> frozenset[str]:
        """Return the ids in it. Raises PoolListError."""
        try:
            with self.path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise PoolListError(
                f"the list of pools {self.path} cannot be read: {error.strerror}; write one, or name it with --pools"
            ) from None
        return parse(raw, str(self.path))

    def mark(self) -> Mark:
        """Return what is another after each change of the file."""
        try:
            now = os.stat(self.path)  # noqa: PTH116 - one call, all that is needed
        except OSError:
            return None
        return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns
