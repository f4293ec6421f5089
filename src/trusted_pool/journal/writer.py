"""The one thread that has the journal's database.

Whatever waits is taken together: all writes go into one transaction, each in its own savepoint, and are answered
after the one fsync of its commit. Reads come after the commit, so that they see every answered write.
"""

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from trusted_pool.ports.journal import JournalError

_T = TypeVar("_T")
Work = Callable[[sqlite3.Connection], _T]
#: At most this many writes share a transaction.
GROUP = 256


class _Order(msgspec.Struct, frozen=True, eq=False):
    work: Work[Any] | None  #: None ends the thread
    writes: bool
    answer: "Future[Any]"


class Writer:
    """Owns the connection from the first call on.

    Args:
        connection: open with `check_same_thread=False`, in autocommit mode.
        explain: makes a JournalError of a database error.
    """

    def __init__(self, connection: sqlite3.Connection, explain: Callable[[sqlite3.Error], JournalError]) -> None:
        self._connection = connection
        self._explain = explain
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._closing = False
        self._ill: JournalError | None = None
        self.commits = 0  #: transactions that were committed, for tests and measurements
        # A daemon: a program that dies without `close` loses nothing that was answered.
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def write(self, work: Work[_T]) -> "Future[_T]":
        """Run it inside the next transaction; answered when that is durable."""
        return self._put(work, writes=True)

    def read(self, work: Work[_T]) -> "Future[_T]":
        """Run it after the next commit."""
        return self._put(work, writes=False)

    def close(self) -> "Future[None]":
        """Finish what was ordered, close the database, end the thread."""
        answer = self._put(None, writes=False)
        self._closing = True
        return answer

    def _put(self, work: Work[Any] | None, *, writes: bool) -> "Future[Any]":
        answer: Future[Any] = Future()
        if self._closing:
            answer.set_exception(JournalError("the journal is closed"))
        else:
            self._orders.put(_Order(work, writes, answer))
        return answer

    def _run(self) -> None:
        while True:
            orders = [self._orders.get()]
            while len(orders) < GROUP and not self._orders.empty():
                orders.append(self._orders.get())
            # What was cancelled while it waited is not begun.
            orders = [order for order in orders if order.answer.set_running_or_notify_cancel()]
            self._commit([order for order in orders if order.writes])
            for order in orders:
                if order.work is None:
                    self._end(order.answer)
                    return
                if not order.writes:
                    self._answer(order)

    def _commit(self, orders: list[_Order]) -> None:
        if not orders:
            return
        if self._ill is not None:
            for order in orders:
                order.answer.set_exception(self._ill)
            return
        results: list[tuple[_Order, Any]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for order in orders:
                self._apply(order, results)
            self._connection.execute("COMMIT")
            self.commits += 1
        except sqlite3.Error as error:
            self._roll_back(error)
            for order in orders:
                if not order.answer.done():
                    order.answer.set_exception(self._explain(error))
            return
        for order, result in results:
            order.answer.set_result(result)

    def _apply(self, order: _Order, results: list[tuple[_Order, Any]]) -> None:
        """Run one write; one that is refused takes nothing of its neighbours with it."""
        if order.work is None:
            return
        self._connection.execute("SAVEPOINT one")
        try:
            result = order.work(self._connection)
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 - it belongs to the one who ordered
            self._connection.execute("ROLLBACK TO one")
            order.answer.set_exception(error)
        else:
            results.append((order, result))
        self._connection.execute("RELEASE one")

    def _roll_back(self, error: sqlite3.Error) -> None:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR:
            # After a failed fsync the kernel counts the lost pages as written: no later commit could be believed.
            self._ill = self._explain(error)
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):  # the first error says what is wrong
                self._connection.execute("ROLLBACK")

    def _answer(self, order: _Order) -> None:
        try:
            order.answer.set_result(order.work(self._connection) if order.work else None)
        except sqlite3.Error as error:
            order.answer.set_exception(self._explain(error))
        except Exception as error:  # noqa: BLE001 - it belongs to the one who ordered
            order.answer.set_exception(error)

    def _end(self, answer: "Future[Any]") -> None:
        try:
            self._connection.close()
        except sqlite3.Error as error:
            answer.set_exception(self._explain(error))
        else:
            answer.set_result(None)
