"""The one thread that has the journal's database.

Whatever waits is taken together: all writes go into one transaction, each in its own savepoint, and are answered
after the one fsync of its commit. Reads come after the commit, so that they see every answered write.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
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
    answer: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop


_Answers = list[tuple[_Order, Any, BaseException | None]]


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
        self._answers: _Answers = []  # that were not handed over yet
        self.commits = 0  #: transactions that were committed, for tests and measurements
        # A daemon: a program that dies without `close` loses nothing that was answered.
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def write(self, work: Work[_T]) -> "asyncio.Future[_T]":
        """Run it inside the next transaction; answered when that is durable."""
        return self._put(work, writes=True)

    def read(self, work: Work[_T]) -> "asyncio.Future[_T]":
        """Run it after the next commit."""
        return self._put(work, writes=False)

    def close(self) -> "asyncio.Future[None]":
        """Finish what was ordered, close the database, end the thread."""
        answer = self._put(None, writes=False)
        self._closing = True
        return answer

    def _put(self, work: Work[Any] | None, *, writes: bool) -> "asyncio.Future[Any]":
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if self._closing:
            answer.set_exception(JournalError("the journal is closed"))
        else:
            self._orders.put(_Order(work, writes, answer, loop))
        return answer

    def _run(self) -> None:
        while True:
            orders = [self._orders.get()]
            while len(orders) < GROUP and not self._orders.empty():
                orders.append(self._orders.get())
            # What was cancelled while it waited is not begun.
            orders = [order for order in orders if not order.answer.cancelled()]
            self._commit([order for order in orders if order.writes])
            self._tell()
            for order in orders:
                if order.work is None:
                    self._end(order)
                    self._tell()
                    return
                if not order.writes:
                    self._read(order)
            self._tell()

    def _tell(self) -> None:
        """Hand answers over: one call per event loop."""
        answers, self._answers = self._answers, []
        for loop in {order.loop for order, _, _ in answers}:
            with suppress(RuntimeError):  # that loop was closed; what it ordered is done all the same
                loop.call_soon_threadsafe(_resolve, [answer for answer in answers if answer[0].loop is loop])

    def _fail(self, orders: list[_Order], error: JournalError) -> None:
        self._answers += [(order, None, error) for order in orders]

    def _commit(self, orders: list[_Order]) -> None:
        if not orders:
            return
        if self._ill is not None:
            self._fail(orders, self._ill)
            return
        answers: _Answers = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for order in orders:
                answers.append(self._apply(order, alone=len(orders) == 1))
            if self._connection.in_transaction:  # else the only write was refused
                self._connection.execute("COMMIT")
            self.commits += 1
        except sqlite3.Error as error:
            self._roll_back(error)
            refused = [answer for answer in answers if answer[2] is not None]
            self._answers += refused
            heard = {id(order) for order, _, _ in refused}
            self._fail([order for order in orders if id(order) not in heard], self._explain(error))
            return
        self._answers += answers

    def _apply(self, order: _Order, *, alone: bool) -> tuple[_Order, Any, BaseException | None]:
        """Run one write; one that is refused takes nothing of its neighbours with it."""
        if order.work is None:
            return order, None, None
        if not alone:
            self._connection.execute("SAVEPOINT one")
        result, refusal = None, None
        try:
            result = order.work(self._connection)
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 - it belongs to the one who ordered
            self._connection.execute("ROLLBACK" if alone else "ROLLBACK TO one")
            refusal = error
        if not alone:
            self._connection.execute("RELEASE one")
        return order, result, refusal

    def _roll_back(self, error: sqlite3.Error) -> None:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR:
            # After a failed fsync the kernel counts the lost pages as written: no later commit could be believed.
            self._ill = self._explain(error)
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):  # the first error says what is wrong
                self._connection.execute("ROLLBACK")

    def _read(self, order: _Order) -> None:
        try:
            self._answers.append((order, order.work(self._connection) if order.work else None, None))
        except sqlite3.Error as error:
            self._fail([order], self._explain(error))
        except Exception as error:  # noqa: BLE001 - it belongs to the one who ordered
            self._answers.append((order, None, error))

    def _end(self, order: _Order) -> None:
        try:
            self._connection.close()
        except sqlite3.Error as error:
            self._fail([order], self._explain(error))
        else:
            self._answers.append((order, None, None))


def _resolve(answers: _Answers) -> None:
    for order, result, error in answers:
        if order.answer.done():
            continue  # whoever ordered was cancelled
        if error is None:
            order.answer.set_result(result)
        else:
            order.answer.set_exception(error)
