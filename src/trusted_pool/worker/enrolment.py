"""The pool that a worker has enrolled in: a file beside its key."""

import os
import shlex
from pathlib import Path
from typing import Protocol

from trusted_pool.protocol.identity import IdentityError, public_bytes


class EnrolmentError(Exception):
    """The enrolled pool cannot be read or written; the message says what to do."""


class NotEnrolledError(EnrolmentError):
    """There is nothing to forget."""


class Enrolment(Protocol):
    """Where the enrolled pool is written down."""

    how_to_forget: str  #: for people: what to type

    def load(self) -> str | None:
        """Return the enrolled pool, if any. Raises EnrolmentError."""

    def save(self, pool_id: str) -> None:
        """Write it down durably. Raises EnrolmentError."""


class PoolFile:
    """The enrolled pool in a file beside the worker's key, mode 0600."""

    def __init__(self, key_file: Path) -> None:
        self._path = key_file.with_name(key_file.name + ".pool")
        self.how_to_forget = f"tpool worker --forget-pool --worker-key {shlex.quote(str(key_file.absolute()))}"

    def is_there(self) -> bool:
        """Whether anything is written down. A file that cannot be looked at counts as there."""
        try:
            return self._path.exists()
        except OSError:
            return True

    def load(self) -> str | None:
        """Return the enrolled pool, if any. Raises EnrolmentError."""
        try:
            pool_id = self._path.read_text(encoding="ascii").strip()
            public_bytes(pool_id)
        except FileNotFoundError:
            return None
        except IdentityError as error:
            raise EnrolmentError(
                f"{self._path} holds no pool id ({error}); to enrol a pool anew delete it: {self.how_to_forget}"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise EnrolmentError(f"{self._path} cannot be read: {error}") from None
        return pool_id

    def save(self, pool_id: str) -> None:
        """Write it down durably: a new file is filled and synced before it gets its name. Raises EnrolmentError."""
        new = self._path.with_name(self._path.name + ".new")
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "w", encoding="ascii") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(pool_id + "\n")
                file.flush()
                os.fsync(file.fileno())
            new.rename(self._path)
            self._sync_directory()
        except OSError as error:
            raise EnrolmentError(f"{self._path} cannot be written: {error.strerror}") from None

    def forget(self) -> str | None:
        """Delete it durably. Returns the pool that was enrolled, or None when the file named none.

        Raises:
            NotEnrolledError: there is no such file.
            EnrolmentError: it cannot be deleted.
        """
        try:
            pool_id = self.load()
        except EnrolmentError:
            pool_id = None  # what cannot be read is deleted all the same
        try:
            self._path.unlink()
            self._sync_directory()
        except FileNotFoundError:
            raise NotEnrolledError(f"no pool is enrolled: there is no {self._path}") from None
        except OSError as error:
            raise EnrolmentError(f"{self._path} cannot be deleted: {error.strerror}") from None
        return pool_id

    def _sync_directory(self) -> None:
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
