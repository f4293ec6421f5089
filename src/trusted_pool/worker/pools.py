"""Which pools may run jobs here, and which epoch of each is the newest."""

import logging
import os
from pathlib import Path
from typing import Protocol

from trusted_pool.ports.journal import Journal
from trusted_pool.protocol.errors import ConflictError, ForbiddenError
from trusted_pool.protocol.identity import IdentityError, public_bytes

_log = logging.getLogger(__name__)


class EnrolmentError(Exception):
    """The enrolled pool cannot be read or written; the message says what to do."""


class Enrolment(Protocol):
    """Where the enrolled pool is written down."""

    where: str  #: for people: what to delete to forget it

    def load(self) -> str | None:
        """Return the enrolled pool, if any. Raises EnrolmentError."""

    def save(self, pool_id: str) -> None:
        """Write it down durably. Raises EnrolmentError."""


class PoolFile:
    """The enrolled pool in a file beside the worker's key, mode 0600."""

    def __init__(self, key_file: Path) -> None:
        self._path = key_file.with_name(key_file.name + ".pool")
        self.where = str(self._path)

    def load(self) -> str | None:
        """Return the enrolled pool, if any. Raises EnrolmentError."""
        try:
            pool_id = self._path.read_text(encoding="ascii").strip()
            public_bytes(pool_id)
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise EnrolmentError(f"{self._path} cannot be read: {error}") from None
        except IdentityError as error:
            raise EnrolmentError(f"{self._path} holds no pool id ({error}); delete it to enrol a pool anew") from None
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
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise EnrolmentError(f"{self._path} cannot be written: {error.strerror}") from None


class Pools:
    """Admits pools: the listed ones; or anyone; or the first that comes, and from then on no other."""

    def __init__(
        self, *, listed: tuple[str, ...] = (), anyone: bool = False, enrolment: Enrolment, journal: Journal
    ) -> None:
        """Raises EnrolmentError: the enrolled pool cannot be read."""
        self._listed = frozenset(listed)
        self._anyone = anyone
        self._enrolment = enrolment
        self._journal = journal
        self._enrolled = None if listed or anyone else enrolment.load()
        self._epochs: dict[str, int] = {}

    @property
    def words(self) -> str:
        """Say for people who may run jobs here."""
        if self._anyone:
            return "any pool (--open)"
        if self._listed:
            return f"only {', '.join(sorted(self._listed))}"
        if self._enrolled is not None:
            return f"only {self._enrolled} (enrolled; to forget it delete {self._enrolment.where})"
        return "the first pool that proves its key (then no other)"

    def admit(self, pool_id: str | None) -> str:
        """Return the pool when it may run jobs here; enrol it when it is the first.

        Raises:
            ForbiddenError: no key was proven, or another pool's.
        """
        if pool_id is None:
            raise ForbiddenError(
                "no pool's key was proven",
                hint="workers are called by coordinators, over TLS with the pool's key; jobs go to the coordinator",
            )
        if self._anyone or pool_id in self._listed or pool_id == self._enrolled:
            return pool_id
        if self._listed or self._enrolled is not None:
            raise ForbiddenError(f"this worker is not for the pool {pool_id}", hint=self._how_to_list(pool_id))
        try:
            self._enrolment.save(pool_id)
        except EnrolmentError as error:
            _log.error("The pool %s cannot be enrolled: %s", pool_id, error)
            raise ForbiddenError(f"the pool cannot be enrolled: {error}", hint=self._how_to_list(pool_id)) from None
        self._enrolled = pool_id
        _log.warning(
            "Enrolled pool %s: from now on this worker runs jobs for no other (to forget it delete %s)",
            pool_id,
            self._enrolment.where,
        )
        return pool_id

    def _how_to_list(self, pool_id: str) -> str:
        listed = " ".join(f"--pool {p}" for p in (*sorted(self._listed), pool_id))
        hint = f"on the worker's machine type: tpool worker {listed} …"
        if self._enrolled is not None:
            hint += f"; or let it forget the pool it is enrolled in: rm {self._enrolment.where}, and start it again"
        return hint

    async def check_epoch(self, pool_id: str, epoch: int) -> None:
        """Refuse a coordinator whose lease is over. The newest epoch of each pool survives restarts.

        Raises:
            ConflictError: a newer epoch of this pool was here.
            JournalError: it cannot be kept.
        """
        name = f"epoch:{pool_id}"
        newest = self._epochs.get(pool_id)
        if newest is None:
            newest = int(await self._journal.setting(name) or 0)
        newest = max(newest, self._epochs.get(pool_id, 0))  # another call may have been here meanwhile
        if epoch < newest:
            raise ConflictError(
                f"epoch {epoch} of the pool is over; {newest} is the newest",
                code="stale_epoch",
                hint="another coordinator of the pool has this worker now",
            )
        self._epochs[pool_id] = epoch
        if epoch == newest:
            return
        try:
            await self._journal.set_setting(name, str(epoch))
        except BaseException:
            self._epochs.pop(pool_id, None)  # the journal knows which one is kept
            raise
