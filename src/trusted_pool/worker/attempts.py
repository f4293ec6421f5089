"""The attempts of this worker: accepted → running → ended → released.

An attempt is accepted only into a free slot, and its first entry in the journal says `running` already: one commit
for accept and start. A crash after that commit makes it `interrupted`, whether its program had begun or not; nothing
is ever started a second time.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec

from trusted_pool.core.job import InputFile, Outcome
from trusted_pool.core.request import Capacity
from trusted_pool.core.words import AttemptState, Reason
from trusted_pool.ports.clock import Clock, Dice
from trusted_pool.ports.journal import Entry, Journal, JournalError
from trusted_pool.ports.sandbox import Sandbox, SandboxError
from trusted_pool.protocol.errors import ConflictError, ForbiddenError, NotFoundError, PoolError, UnavailableError
from trusted_pool.protocol.manifest import Resolved
from trusted_pool.worker.admission import Admission, Key, Over, draining
from trusted_pool.worker.bell import Bell
from trusted_pool.worker.inputs import Inputs
from trusted_pool.worker.running import RESTARTED, STOPPED, UNLISTED, Runner, ended, interrupted, task_of, write_down
from trusted_pool.worker.slots import Slots

#: From SIGTERM to SIGKILL of a program that is ended.
GRACE_S = 10.0
#: How long followers may be left without the news of a start, which the answer to the submit holds too: a short job's
#: start then travels with its end, for one wake-up instead of two.
START_NEWS_S = 0.05

_log = logging.getLogger(__name__)


class Attempts:
    """What this worker has been given. All methods belong to one event loop; `start` comes first."""

    def __init__(
        self, *, worker_id: str, sandbox: Sandbox, journal: Journal, inputs: Inputs, clock: Clock, dice: Dice
    ) -> None:
        self.worker_id = worker_id
        self.sandbox = sandbox
        self.journal = journal
        self.inputs = inputs
        self.bell = Bell()  #: rung for each new event and each change of load
        self.draining = False
        self.closed = False
        #: Called with each entry that was accepted or is over; never blocks and never raises.
        self.listeners: list[Callable[[Entry], None]] = []
        self._clock = clock
        self._dice = dice
        self._runner = Runner(sandbox, journal, inputs.open, clock)
        self._stopping = False
        self._slots = Slots(Capacity(), worker_id)  # `start` measures the machine
        self.writing: set[str] = set()  #: their end is being written down: the journal may know of it before we do
        self._entries: dict[str, Entry] = {}
        self._by_key: dict[Key, str] = {}
        self._pending: dict[Key, asyncio.Future[None]] = {}
        self._over = Over()
        self._log_bells: dict[str, Bell] = {}  #: of those that run
        self._unlisted: set[str] = set()  #: of those that run, whose pool is let in no more
        self._ringing: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Take up what the journal holds: what ran is interrupted, what a crash left is removed.

        Raises:
            JournalError: the journal cannot be read or written.
        """
        self._slots = Slots(self.sandbox.capacity(), self.worker_id, self.sandbox)
        for entry in await self.journal.entries():
            kept = entry
            if entry.state in (AttemptState.ACCEPTED, AttemptState.RUNNING):
                kept = interrupted(entry, RESTARTED, self._clock.now())
                await self.journal.put(kept, AttemptState.INTERRUPTED.value)
                self._tell(kept)
                _log.warning("Interrupted job %s attempt %d (%s)", kept.job_id, kept.attempt, kept.remote_id)
            self._entries[kept.remote_id] = kept
            self._by_key[_key(kept)] = kept.remote_id
        with_results = (e.remote_id for e in self._entries.values() if e.state is AttemptState.ENDED)
        for swept in await self.sandbox.sweep(frozenset(with_results)):
            _log.info("Removed what a crash left of %s", swept)

    # Asking

    def measure(self) -> Capacity:
        """Return what this worker offers now; submits are judged by it until the next call."""
        self._slots.capacity = self.sandbox.capacity()
        return self._slots.capacity

    @property
    def active(self) -> int:
        """How many slots are taken."""
        return self._slots.taken

    @property
    def slots(self) -> int:
        """How many slots there are."""
        return self._slots.total

    def __iter__(self) -> Iterator[Entry]:
        """Go through all entries, oldest first."""
        return iter(list(self._entries.values()))

    def find(self, remote_id: str) -> Entry | None:
        """Return an entry of any pool."""
        return self._entries.get(remote_id)

    def get(self, pool_id: str, remote_id: str) -> Entry:
        """Return an entry of this pool. Raises NotFoundError, for those of other pools as well."""
        entry = self.find(remote_id)
        if entry is None or entry.pool_id != pool_id:
            raise NotFoundError(
                f"this worker has no attempt {remote_id}", hint="GET /attempts lists those that it has of this pool"
            )
        return entry

    def log_bell(self, remote_id: str) -> Bell | None:
        """Return what is rung for each piece of a running attempt's log; None when it has ended."""
        return self._log_bells.get(remote_id)

    def small_log(self, remote_id: str) -> bytes:
        """Return the log as far as it is in memory: whole, or not of the size that the outcome says."""
        return self._runner.small_log(remote_id)

    # Accepting

    async def admit(self, key: Key) -> Admission:
        """Give a submit its slot, or the entry that this attempt has already. `accept` or `withdraw` must follow.

        Of two submits of one attempt the second waits for what becomes of the first.

        Raises:
            PoolError: this attempt was refused before, with this error; or it was released, 410.
            UnavailableError: draining.
            BusyError: no slot is free.
        """
        while (pending := self._pending.get(key)) is not None:
            await asyncio.wait({pending})
        remote_id = self._by_key.get(key)
        if remote_id is not None:
            return Admission(key, known=self._entries[remote_id])
        if (over := self._over.find(key)) is not None:
            raise over
        try:
            self._refuse_when_draining()
            slot = self._slots.take()
        except PoolError as error:
            self.refuse(key, error)
            raise
        self._pending[key] = asyncio.get_running_loop().create_future()
        return Admission(key, slot)

    async def accept(
        self, admission: Admission, manifest: str, resolved: Resolved, files: tuple[InputFile, ...]
    ) -> Entry:
        """Keep the attempt durably and start it. Its files must be kept in `inputs` already.

        Raises:
            BusyError: too little memory or disk is free just now.
            PoolError: 422, this worker could never run it; or who sent it may not any more.
            UnavailableError: the journal could not keep it, or the worker began to drain.
        """
        if admission.slot is None:
            raise RuntimeError("the admission holds no slot")
        admission.still()
        self._refuse_when_draining()
        self._slots.promise(admission.slot, resolved)
        pool_id, job_id, attempt = admission.key
        now = self._clock.now()
        entry = Entry(
            remote_id=f"job-{self._dice.token(8)}",
            pool_id=pool_id,
            job_id=job_id,
            attempt=attempt,
            state=AttemptState.RUNNING,
            manifest=manifest,
            inputs=files,
            accepted_at=now,
            started_at=now,
        )
        try:
            kept = await self.journal.accept(entry, "started")
        except JournalError as error:
            raise UnavailableError(f"the worker's journal failed: {error}", hint="see the worker's log") from error
        except BaseException:
            # Cancelled while the commit was under way. It may be kept, but it will not run: it must not stay.
            self._spawn(self.journal.delete(entry.remote_id))
            raise
        if kept.remote_id != entry.remote_id:  # one that was given up is still being removed
            raise UnavailableError("this attempt is being removed", hint="send it again", retry_after_s=1.0)
        slot, admission.slot = admission.slot, None
        self._entries[entry.remote_id] = entry
        self._by_key[admission.key] = entry.remote_id
        self._log_bells[entry.remote_id] = Bell()
        try:
            admission.still()  # the commit took its time
        except ForbiddenError:
            self._unlisted.add(entry.remote_id)
        self._spawn(self._run(entry, resolved, slot))
        self._settle(admission.key)
        self._tell(entry)
        self._ring_soon()
        return entry

    def withdraw(self, admission: Admission) -> None:
        """Give back what an admission holds still. Does nothing after `accept`."""
        if admission.slot is not None:
            self._slots.give_back(admission.slot)
            admission.slot = None
            self._settle(admission.key)
            self.bell.ring()

    def refuse(self, key: Key, error: PoolError) -> None:
        """Remember a refusal, see `Over`."""
        self._over.refuse(key, error)

    def _settle(self, key: Key) -> None:
        self._pending.pop(key).set_result(None)

    def _refuse_when_draining(self) -> None:
        if self.draining:
            raise draining()

    # Running

    async def _run(self, entry: Entry, resolved: Resolved, slot: int) -> None:
        remote_id, bell = entry.remote_id, self._log_bells[entry.remote_id]
        _log.debug("Started job %s attempt %d (%s) in slot %d", entry.job_id, entry.attempt, remote_id, slot)

        async def on_start() -> None:
            if self._unwanted(remote_id):  # heard before there was a program to end
                self._spawn(self.sandbox.stop(remote_id, GRACE_S))

        if self._unwanted(remote_id):
            outcome = Outcome(reason=Reason.CANCELLED, detail="it was ended before its program began")
        else:
            task = task_of(entry, resolved, slot, self.worker_id, self._slots.gpus(slot))
            outcome = await self._runner.run(task, bell, on_start)
        heard = self._entries[remote_id]  # with a cancel that came meanwhile
        by = STOPPED if self._stopping else UNLISTED if remote_id in self._unlisted else None
        entry = ended(heard, outcome, self._clock.now(), stopped=by, closed=self.closed)
        self._unlisted.discard(remote_id)
        self.writing.add(remote_id)
        await write_down(self.journal, entry, lambda: self.closed)
        self._entries[remote_id] = entry
        self.writing.discard(remote_id)
        # The slot first: who reads the event may send the next attempt at once.
        self._slots.give_back(slot)
        del self._log_bells[remote_id]
        bell.ring()
        self._ring()
        self._tell(entry)
        reason = outcome.reason.value if outcome.reason else "completed"
        _log.info("Job %s attempt %d (%s) %s: %s", entry.job_id, entry.attempt, remote_id, entry.state, reason)
        await self.inputs.drop(entry.inputs)

    def _unwanted(self, remote_id: str) -> bool:
        """Whether its program is to be ended, or not to be started."""
        return self._entries[remote_id].cancelled or self._stopping or remote_id in self._unlisted

    def _tell(self, entry: Entry) -> None:
        for listener in self.listeners:
            listener(entry)

    def _ring_soon(self) -> None:
        if self._ringing is None:
            self._ringing = asyncio.get_running_loop().call_later(START_NEWS_S, self._ring)

    def _ring(self) -> None:
        if self._ringing is not None:
            self._ringing.cancel()
            self._ringing = None
        self.bell.ring()

    # Ending and releasing

    def cancel(self, pool_id: str, remote_id: str) -> Entry:
        """End an attempt: SIGTERM, 10 s, SIGKILL. Returns at once; one that has ended stays as it is.

        Raises:
            NotFoundError: there is no such attempt.
        """
        entry = self.get(pool_id, remote_id)
        if remote_id in self._log_bells and not entry.cancelled:
            entry = self._entries[remote_id] = msgspec.structs.replace(entry, cancelled=True)
            _log.info("Cancelling job %s attempt %d (%s)", entry.job_id, entry.attempt, remote_id)
            self._spawn(self.sandbox.stop(remote_id, GRACE_S))
        return entry

    async def release(self, pool_id: str, remote_id: str) -> None:
        """Delete an ended attempt with its log and files.

        The entry goes first: what a crash leaves of the files is swept at the next start.

        Raises:
            NotFoundError: there is no such attempt.
            ConflictError: it runs.
        """
        entry = self.get(pool_id, remote_id)
        if remote_id in self._log_bells:
            raise ConflictError(f"{remote_id} is running", hint="cancel it first, or wait for its end")
        await self.journal.delete(remote_id)
        if self._entries.pop(remote_id, None) is not None:
            self._by_key.pop(_key(entry), None)
            over = ConflictError("this attempt is over and was released here", code="attempt_over", status=410)
            self._over.add(_key(entry), over)
        if not self._entries:
            self.bell.ring()  # a drained worker waits for this
        try:
            await self.sandbox.discard(remote_id)
        except SandboxError as error:
            _log.warning("What %s left is removed at the next start: %s", remote_id, error)

    # Stopping

    def drain(self) -> None:
        """Take no new attempts. Idempotent."""
        self.draining = True
        self.bell.ring()

    def stop_all(self) -> None:
        """End all that run. They count as interrupted, which the pool may try again elsewhere."""
        self.drain()
        self._stopping = True
        for remote_id in self._log_bells:
            self._spawn(self.sandbox.stop(remote_id, GRACE_S))

    def stop_pool(self, pool_id: str) -> None:
        """End all that run of a pool that is let in no more. They count as interrupted."""
        for remote_id in self._log_bells:
            if self._entries[remote_id].pool_id == pool_id and remote_id not in self._unlisted:
                _log.warning("Ending %s: its pool %s may run nothing here any more", remote_id, pool_id)
                self._unlisted.add(remote_id)
                self._spawn(self.sandbox.stop(remote_id, GRACE_S))

    @property
    def empty(self) -> bool:
        """Whether every attempt was released."""
        return not self._entries

    async def until(self, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until it holds, looking again whenever something happened here; False after the timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self.bell.wait(self.bell.rings)
        except TimeoutError:
            return False
        return True

    async def idle(self, timeout_s: float | None = None) -> bool:
        """Wait until no slot is taken; False after the timeout."""
        return await self.until(lambda: self.active == 0, timeout_s)

    def hang_up(self) -> None:
        """Let event streams end once they have said all. Idempotent."""
        self.draining = self._stopping = self.closed = True
        self._ring()

    async def close(self) -> None:
        """End everything at once and let go. Idempotent."""
        self.hang_up()
        await self.sandbox.close()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        await self.journal.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("A task of the worker failed", exc_info=error)


def _key(entry: Entry) -> Key:
    return (entry.pool_id, entry.job_id, entry.attempt)
