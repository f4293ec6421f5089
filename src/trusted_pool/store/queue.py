"""Reservations, inside the writer's transaction."""

import heapq
import sqlite3
from collections.abc import Iterator, Sequence

import msgspec

from trusted_pool.core.limits import RunningCaps
from trusted_pool.store import statements as sql

#: Up to so many shapes, each is asked for its front; more are looked for at the front of the owner's queue first.
FEW_SHAPES = 16


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of `reserve`."""

    shapes: Sequence[str]
    n: int
    holder: str
    now: float
    until: float
    caps: RunningCaps | None = None


def reserve(connection: sqlite3.Connection, asked: Reservation) -> list[tuple[str, int]]:
    """Mark up to n ready jobs and return (data, version) of each. The caller owns the transaction.

    Looks at the owners whose turn it is, at about n rows of each and one per shape it has queued, however long the
    queue is.
    """
    connection.execute(sql.WAKE, (asked.now,))
    chosen: list[str] = []
    turns, passed_over = _turns(connection, asked.caps)
    coming = next(turns, None)
    heap: list[tuple[float, str, float, int, Iterator[str], str]] = []  # key, owner, begin, picks, rest, first
    least: float | None = None  # the virtual time at which the first that is picked began
    while len(chosen) < asked.n:
        # Owners are opened as late as can be: most have no turn in this call.
        while coming is not None and (not heap or coming[:2] < heap[0][:2]):
            begin, owner, room = coming
            n = asked.n - len(chosen)
            rest = iter(_ready(connection, owner, asked, n if room is None else min(n, room)))
            if (first := next(rest, None)) is not None:
                heapq.heappush(heap, (begin, owner, begin, 0, rest, first))
            coming = next(turns, None)
        if not heap:
            break
        _, owner, begin, picks, rest, first = heap[0]
        least = begin if least is None else least
        chosen.append(first)
        if (follower := next(rest, None)) is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (begin + picks + 1, owner, begin, picks + 1, rest, follower))
    if not chosen:
        return []
    ids = sql.keys(chosen)
    connection.execute(sql.MARK, (asked.until, asked.holder, ids))
    if passed_over:
        connection.execute(sql.MOVE_UP, (least, sql.keys(passed_over)))
    return connection.execute(sql.LOAD, (ids,)).fetchall()


def _turns(
    connection: sqlite3.Connection, caps: RunningCaps | None
) -> tuple[Iterator[tuple[float, str, int | None]], list[str]]:
    """Return (virtual time, owner, jobs that it may have more) of those whose turn comes; and who is at its cap."""
    if caps is None:
        return ((time, owner, None) for time, owner in connection.execute(sql.TURNS).fetchall()), []
    turns: list[tuple[float, str, int | None]] = []
    passed_over: list[str] = []
    for time, owner, running in connection.execute(sql.TURNS_AND_RUNNING).fetchall():
        cap = caps.cap(owner)
        if cap is not None and running >= cap:
            passed_over.append(owner)
        else:
            turns.append((time, owner, None if cap is None else cap - running))
    return iter(turns), passed_over


def _ready(connection: sqlite3.Connection, owner: str, asked: Reservation, n: int) -> list[str]:
    """Return up to n ready jobs of an owner, in its order."""
    shapes = [row[0] for row in connection.execute(sql.SHAPES_OF, (owner, sql.keys(asked.shapes)))]
    given = {"owner": owner, "n": n, "now": asked.now, "holder": asked.holder}
    chosen = _front_of_owner(connection, shapes, given, n) if len(shapes) > FEW_SHAPES else None
    return _fronts(connection, shapes, given, n) if chosen is None else chosen


def _front_of_owner(
    connection: sqlite3.Connection, shapes: Sequence[str], given: dict[str, object], n: int
) -> list[str] | None:
    """Choose from the front of an owner's queue; None when that does not settle it."""
    reach = 4 * n + 64
    rows = connection.execute(sql.FRONT_OF_OWNER, {**given, "reach": reach}).fetchall()
    wanted = frozenset(shapes)
    found = [job_id for job_id, shape, ready in rows if ready and shape in wanted]
    return found[:n] if len(found) >= n or len(rows) < reach else None


def _fronts(connection: sqlite3.Connection, shapes: Sequence[str], given: dict[str, object], n: int) -> list[str]:
    """Choose by merging the shapes, each in its order."""
    if not shapes:
        return []
    if len(shapes) == 1:
        return [row[1] for row in connection.execute(sql.FRONT_OF_SHAPE, {**given, "shape": shapes[0]})]
    heap: list[tuple[float, str, str]] = connection.execute(
        sql.FRONTS, {**given, "shapes": sql.keys(shapes)}
    ).fetchall()
    heapq.heapify(heap)
    ahead: dict[str, Iterator[tuple[float, str]]] = {}
    chosen: list[str] = []
    while heap and len(chosen) < n:
        order_key, job_id, shape = heap[0]
        chosen.append(job_id)
        if shape not in ahead:
            place = {"shape": shape, "order_key": order_key, "job_id": job_id}
            ahead[shape] = iter(connection.execute(sql.NEXT_OF_SHAPE, {**given, **place}).fetchall())
        follower = next(ahead[shape], None)
        if follower is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (*follower, shape))
    return chosen
