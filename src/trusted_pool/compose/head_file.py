"""The head of the audit trail in a file beside the database: who can write only the database cannot cut the trail."""

import os
from pathlib import Path

import msgspec

from trusted_pool.protocol.audit import Head


class HeadFile:
    """One signed head, mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Head | None:
        """Return it, if there is one. Raises OSError; ValueError for what cannot be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Head)
        except FileNotFoundError:
            return None

    def save(self, head: Head) -> None:
        """Keep it durably: a new file is filled and synced before it gets the name. Raises OSError."""
        new = self._path.with_name(self._path.name + ".new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.encode(head) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        new.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
