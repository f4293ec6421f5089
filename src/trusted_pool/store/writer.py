"""The one thread that writes: group commit.

No delay is added: while one transaction commits, the next batch gathers in the queue, and is taken whole. What one
turn of the event loop asks for comes into the queue together: the thread that gets the first of it would not have to
share the interpreter with the rest, and a transaction costs the same for one as for a few. An answer leaves after the
fsync of the transaction that holds it; all answers of a batch leave in one call to the event loop.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import msgspec

from trusted_pool.ports.store import Committed, StoreError, StoreFullError
from trusted_pool.store.apply import Draft, commit
from trusted_pool.store.faults import is_fatal, is_surroundings, meaning
from trusted_pool.store.queue import Reservation, reserve

#: Units in one transaction at most; it bounds how long the first of a flood waits.
BATCH_UNITS = 1024
#: Changed rows after which the write-ahead log is copied into the database, between two batches.
CHECKPOINT_CHANGES = 4000


class Task(msgspec.Struct, frozen=True, eq=False):
    """One call that waits for its answer."""

    work: Sequence[Draft] | Reservation
    answer: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop


class Writer:
    """Owns the writing connection. Start it once, stop it once."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        """`connection` is in autocommit mode, may be used by another thread and has synchronous=FULL."""
        self._connection = connection
        self._path = path
        self._tasks: SimpleQueue[list[Task] | None] = SimpleQueue()
        self._fresh: dict[asyncio.AbstractEventLoop, list[Task]] = {}  # of the turn that each loop is in
        self._lock = threading.Lock()
        self._stopped = False
        self._broken: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._changes_copied = 0
        #: Told of every transaction: units, seconds. Called by the writer's thread after the answers; must not raise.
        self.on_batch: Callable[[int, float], None] = lambda _units, _seconds: None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    async def call(self, work: Sequence[Draft] | Reservation) -> Any:
        """Have it done; return when it is durable (a reservation: when it is done). Raises StoreError."""
        loop = asyncio.get_running_loop()
        task = Task(work, loop.create_future(), loop)
        with self._lock:  # nothing may come into the queue behind the end
            if self._stopped:
                raise StoreError("the store is closed")
            fresh = self._fresh.get(loop)
            if fresh is None:
                self._fresh[loop] = [task]
                loop.call_soon(self._hand_over, loop)
            else:
                fresh.append(task)
        return await task.answer

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Put what a loop asked for in this turn into the queue."""
        with self._lock:
            if fresh := self._fresh.pop(loop, None):
                self._tasks.put(fresh)

    def stop(self) -> None:
        """Finish what was begun and end the thread. Idempotent. Blocks."""
        with self._lock:
            if not self._stopped:
                self._stopped = True
                for fresh in self._fresh.values():
                    self._tasks.put(fresh)
                self._fresh.clear()
                self._tasks.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        more = True
        while more:
            batch, more = self._gather()
            if batch:
                began = time.monotonic()
                answers = self._answers(batch)
                seconds = time.monotonic() - began
                _tell(batch, answers)
                if units := _units(batch):  # a reservation waits for no disk
                    self.on_batch(units, seconds)
                self._checkpoint()

    def _gather(self) -> tuple[list[Task], bool]:
        """Wait for work, then take all that is there. False: no more will come."""
        batch: list[Task] = []
        fresh = self._tasks.get()
        while fresh is not None:
            batch += fresh
            if _units(batch) >= BATCH_UNITS:
                return batch, True
            try:
                fresh = self._tasks.get_nowait()
            except Empty:
                return batch, True
        return batch, False

    def _answers(self, batch: Sequence[Task]) -> list[Any]:
        """Return for each task its answer, or the error to raise."""
        if self._broken is not None:
            return [self._broken] * len(batch)
        try:
            return self._transact(batch)
        except Exception as error:  # noqa: BLE001  # whatever it is, those who wait must hear it
            self._roll_back()
            if len(batch) > 1 and not is_surroundings(error):
                # One task holds what the database cannot take. Alone, it fails alone.
                return [answer for task in batch for answer in self._answers([task])]
            return [self._heed(error)] * len(batch)

    def _transact(self, batch: Sequence[Task]) -> list[Any]:
        connection = self._connection
        # A reservation need not outlive a crash: its holder does not. So it waits for no disk.
        lasting = any(not isinstance(task.work, Reservation) for task in batch)
        if not lasting:
            connection.execute("PRAGMA synchronous = NORMAL")
        try:
            connection.execute("BEGIN IMMEDIATE")
            answers = self._apply(batch)
            connection.execute("COMMIT")
        finally:
            if not lasting:
                self._roll_back()
                connection.execute("PRAGMA synchronous = FULL")
        return answers

    def _apply(self, batch: Sequence[Task]) -> list[Any]:
        """Do the tasks in order; neighbouring commits are judged and written together."""
        answers: list[Any] = []
        waiting: list[Task] = []

        def write() -> None:
            if waiting:
                committed = commit(self._connection, [draft for task in waiting for draft in _drafts(task)])
                answers.extend(_shares(waiting, committed))
                waiting.clear()

        for task in batch:
            if isinstance(task.work, Reservation):
                write()
                answers.append(reserve(self._connection, task.work))
            else:
                waiting.append(task)
        write()
        return answers

    def _heed(self, error: Exception) -> StoreError:
        """Return what an error means; after a fatal one nothing more is written."""
        found = meaning(error, self._path)
        if is_fatal(error, self._path):
            self._broken = found
        if isinstance(found, StoreFullError):
            self._shrink_log()
        return found

    def _shrink_log(self) -> None:
        """Give the log's room back, so that a full disk may do for the next commit. No room for that: nothing lost."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                self._heed(error)

    def _checkpoint(self) -> None:
        """Copy the log into the database when it is long. The answers are out already, so nobody waits for this."""
        changes = self._connection.total_changes
        if self._broken is not None or changes - self._changes_copied < CHECKPOINT_CHANGES:
            return
        self._changes_copied = changes
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            self._heed(error)


def _units(tasks: Sequence[Task]) -> int:
    return sum(len(task.work) for task in tasks if not isinstance(task.work, Reservation))


def _drafts(task: Task) -> Sequence[Draft]:
    assert not isinstance(task.work, Reservation)  # noqa: S101  # the caller looked
    return task.work


def _shares(tasks: Sequence[Task], committed: list[Committed]) -> list[list[Committed]]:
    shares: list[list[Committed]] = []
    begin = 0
    for task in tasks:
        end = begin + len(task.work) if not isinstance(task.work, Reservation) else begin
        shares.append(committed[begin:end])
        begin = end
    return shares


def _tell(batch: Sequence[Task], answers: Sequence[Any]) -> None:
    """Hand the answers over: one call per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for task, answer in zip(batch, answers, strict=True):
        by_loop.setdefault(task.loop, []).append((task.answer, answer))
    for loop, told in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, told)
        except RuntimeError:
            continue  # that loop was closed; what it asked for is done all the same


def _resolve(told: list[tuple["asyncio.Future[Any]", Any]]) -> None:
    for answer, value in told:
        if answer.done():
            continue  # whoever waited was cancelled
        if isinstance(value, BaseException):
            answer.set_exception(value)
        else:
            answer.set_result(value)
