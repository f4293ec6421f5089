"""Which pools may run jobs here, and which epoch of each is the newest."""

import logging
from collections.abc import Callable, Iterable

from trusted_pool.ports.journal import Journal
from trusted_pool.protocol.errors import ForbiddenError, StaleEpochError
from trusted_pool.worker.enrolment import Enrolment, EnrolmentError
from trusted_pool.worker.pool_list import PoolList

#: So many `--pool` options stand in a hint; with more of them it would be longer than what a coordinator shows.
MOST_OPTIONS = 4

_log = logging.getLogger(__name__)


class Pools:
    """Admits pools: the listed ones; or anyone; or the first that comes, and from then on no other.

    The list and the enrolment may change while the worker runs.
    """

    def __init__(
        self,
        *,
        listed: Iterable[str] = (),
        anyone: bool = False,
        enrolment: Enrolment,
        journal: Journal,
        pool_list: PoolList | None = None,
    ) -> None:
        """`pool_list`: a file with more of `listed`. Raises EnrolmentError, PoolListError: one cannot be read."""
        self._named = frozenset(listed)
        self._list = pool_list
        self._listed = self._named | (pool_list.read() if pool_list is not None else frozenset())
        self._anyone = anyone
        self._enrolment = enrolment
        self._journal = journal
        self._enrols = not (self._named or pool_list is not None or anyone)
        self._enrolled = enrolment.load() if self._enrols else None
        self._forgotten: set[str] = set()
        self._epochs: dict[str, int] = {}
        #: Called with a pool that is let in no more.
        self.on_out: list[Callable[[str], None]] = []
        #: Called with a pool and the newest epoch of it, when that is another than before.
        self.on_newer: list[Callable[[str, int], None]] = []

    @property
    def enrolled(self) -> str | None:
        """The pool that came first, where none was named."""
        return self._enrolled

    @property
    def words(self) -> str:
        """Say for people who may run jobs here."""
        if self._anyone:
            return "any pool (--open)"
        if self._list is not None:
            listed = ", ".join(sorted(self._listed)) or "nobody"
            return f"{listed} ({self._list.path} is read again when it changes)"
        if self._named:
            return f"only {', '.join(sorted(self._named))}"
        if self._enrolled is not None:
            return f"only {self._enrolled} (enrolled; to forget it: {self._enrolment.how_to_forget})"
        return "the first pool that proves its key (then no other)"

    def lets_in(self, pool_id: str) -> bool:
        """Whether the pool may run jobs here; nobody is enrolled by this."""
        return self._anyone or pool_id in self._listed or pool_id == self._enrolled

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
        if self.lets_in(pool_id):
            return pool_id
        if not self._enrols or self._enrolled is not None:
            raise ForbiddenError(f"this worker is not for the pool {pool_id}", hint=self._how_to_list(pool_id))
        if pool_id in self._forgotten:
            raise ForbiddenError(
                f"this worker was told to forget the pool {pool_id}",
                hint=f"to let it in again, stop the worker; then {self._how_to_list(pool_id)}",
            )
        try:
            self._enrolment.save(pool_id)
        except EnrolmentError as error:
            _log.error("The pool %s cannot be enrolled: %s", pool_id, error)
            raise ForbiddenError(f"the pool cannot be enrolled: {error}", hint=self._how_to_list(pool_id)) from None
        self._enrolled = pool_id
        _log.warning(
            "Enrolled pool %s: from now on this worker runs jobs for no other (to forget it: %s)",
            pool_id,
            self._enrolment.how_to_forget,
        )
        return pool_id

    def _how_to_list(self, pool_id: str) -> str:
        if self._list is not None:
            return f"on the worker's machine type: {self._list.how_to_add(pool_id)}"
        if len(self._named) >= MOST_OPTIONS:
            return f"on the worker's machine start `tpool worker` with one more option: --pool {pool_id}"
        listed = " ".join(f"--pool {p}" for p in (*sorted(self._named), pool_id))
        hint = f"on the worker's machine type: tpool worker {listed} …"
        if self._enrolled is not None:
            hint += f"; or let it forget the pool it is enrolled in: {self._enrolment.how_to_forget}"
        return hint

    def relist(self, ids: frozenset[str]) -> tuple[list[str], list[str]]:
        """Take over what the file lists now; return who came and who is out."""
        before, self._listed = self._listed, self._named | ids
        came, went = sorted(self._listed - before), sorted(before - self._listed)
        for pool_id in went:
            self._is_out(pool_id)
        return came, went

    def forget(self, pool_id: str) -> None:
        """Let the enrolled pool in no more, until this process ends: else it would be the first again at once."""
        if pool_id != self._enrolled:
            return
        self._enrolled = None
        self._forgotten.add(pool_id)
        _log.warning("Forgot pool %s: the next other pool that proves its key is enrolled", pool_id)
        self._is_out(pool_id)

    def _is_out(self, pool_id: str) -> None:
        for heard in self.on_out:
            heard(pool_id)

    async def check_epoch(self, pool_id: str, epoch: int) -> None:
        """Refuse a coordinator that another one has replaced. The newest epoch of each pool survives restarts.

        Raises:
            StaleEpochError: a newer epoch of this pool was here.
            JournalError: it cannot be kept.
        """
        name = f"epoch:{pool_id}"
        newest = self._epochs.get(pool_id)
        if newest is None:
            newest = int(await self._journal.setting(name) or 0)
        newest = max(newest, self._epochs.get(pool_id, 0))  # another call may have been here meanwhile
        if epoch < newest:
            raise _stale(epoch, newest)
        self._epochs[pool_id] = epoch
        if epoch == newest:
            return
        try:
            await self._journal.set_setting(name, str(epoch))
        except BaseException:
            self._epochs.pop(pool_id, None)  # the journal knows which one is kept
            raise
        for heard in self.on_newer:
            heard(pool_id, epoch)

    def check(self, pool_id: str, epoch: int) -> None:
        """Refuse, in the middle of a request, a pool that is out by now or an epoch that is over by now.

        Raises:
            ForbiddenError, StaleEpochError.
        """
        if not self.lets_in(pool_id):
            raise ForbiddenError(f"this worker is not for the pool {pool_id} any more", hint=self._how_to_list(pool_id))
        newest = self._epochs.get(pool_id, 0)
        if epoch < newest:
            raise _stale(epoch, newest)


def _stale(epoch: int, newest: int) -> StaleEpochError:
    return StaleEpochError(
        f"another coordinator of this pool has this worker: its epoch {newest} is newer than {epoch}",
        hint="stop one of the two; the one that was started last has the workers",
    )
