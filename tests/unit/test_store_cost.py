"""What a question costs does not grow with the queue, nor with the history: counted in steps of SQLite's machine."""

import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from trusted_pool.core.job import Attempt, Job
from trusted_pool.core.request import Request
from trusted_pool.core.words import AttemptState, JobState
from trusted_pool.ports.store import JobQuery, Unit
from trusted_pool.store import statements
from trusted_pool.store.apply import commit, draft
from trusted_pool.store.listing import page, select
from trusted_pool.store.opening import bring_to_head, connect
from trusted_pool.store.queue import Reservation, reserve

NOW = 1e9
MANY = 200
Ask = Callable[[sqlite3.Connection], object]


def make(number: int, shapes: int, state: JobState, **changes: object) -> Job:
    attempt = Attempt(number=1, worker_id=f"w{number % 3}", state=AttemptState.LOST, dispatched_at=0)
    job = Job(
        job_id=f"pool-{number * 7919 % 1_000_003:016x}",
        owner=f"owner{number % 2}",
        name="often" if number % 2 else "",
        state=state,
        manifest="{}",
        request=Request(interpreter="x", memory_mb=number % shapes + 1),
        submitted_at=float(number),
        attempts=() if state is JobState.QUEUED else (attempt,),
    )
    return msgspec.structs.replace(job, **changes)


def filled(path: Path, size: int, shapes: int) -> sqlite3.Connection:
    """Make a database with `size` jobs ready, as many finished, backing off and not soon to expire, and 9 running."""
    connection = connect(path)
    bring_to_head(connection, path)
    jobs = [make(n, shapes, JobState.QUEUED) for n in range(size)]
    jobs += [make(n, shapes, JobState.COMPLETED) for n in range(size, 2 * size)]
    jobs += [make(n, shapes, JobState.QUEUED, not_before=2 * NOW, priority=10**6) for n in range(2 * size, 3 * size)]
    jobs += [make(n, shapes, JobState.QUEUED, expires_at=2 * NOW) for n in range(3 * size, 4 * size)]
    jobs += [make(n, shapes, JobState.RUNNING) for n in range(4 * size, 4 * size + 9)]
    connection.execute("BEGIN")
    answers = commit(connection, [draft(Unit(job=job)) for job in jobs])
    connection.execute("COMMIT")
    assert all(a.ok for a in answers)
    return connection


def steps(connection: sqlite3.Connection, ask: Ask) -> int:
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    connection.execute("BEGIN")
    connection.set_progress_handler(count, 1)
    assert ask(connection), "the question must have an answer"
    connection.set_progress_handler(None, 1)
    connection.execute("ROLLBACK")
    return counted


@pytest.fixture(scope="module", params=[1, MANY])
def two_sizes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    directory = tmp_path_factory.mktemp("cost")
    connections = tuple(filled(directory / f"{size}.db", size, request.param) for size in (800, 8000))
    yield connections[0], connections[1]
    for connection in connections:
        connection.close()


def rows(statement: str, *arguments: object) -> Ask:
    return lambda connection: connection.execute(statement, arguments).fetchall()


def shapes_of(connection: sqlite3.Connection, count: int) -> list[str]:
    found = connection.execute("SELECT DISTINCT shape FROM shapes ORDER BY request LIMIT ?", (count,))
    return [row[0] for row in found]


def taking(count: int) -> Ask:
    return lambda c: reserve(c, Reservation(shapes=shapes_of(c, count), n=8, holder="me", now=NOW, until=NOW + 1))


def paging(**filters: object) -> Ask:
    query = msgspec.convert({"limit": 10, **filters}, JobQuery)
    return lambda c: page(c, query).jobs


QUESTIONS: dict[str, Ask] = {
    "reserve of one shape": taking(1),
    "reserve of a few shapes": taking(5),
    "reserve of every shape": taking(MANY),
    "a commit": lambda c: commit(c, [draft(Unit(job=make(10**6, 1, JobState.QUEUED)))]),
    "a change": lambda c: commit(
        c, [draft(Unit(job=make(5, 1, JobState.CANCELLED), before=make(5, 1, JobState.QUEUED), expects=1))]
    ),
    "a job": rows(statements.JOB, make(5, 1, JobState.QUEUED).job_id),
    "next wake": rows(statements.NEXT_WAKE, NOW),
    "next expiry": rows(statements.NEXT_EXPIRY, NOW),
    "next release": rows(statements.NEXT_RELEASE, NOW),
    "expired": rows(statements.EXPIRED, 3 * NOW, 5),
    "open jobs": rows(statements.OPEN_JOBS),
    "open jobs of a worker": rows(statements.OPEN_JOBS_OF, "w1"),
    "newest jobs": paging(),
    "newest of a state": paging(states=["running"]),
    "newest of an owner": paging(owner="owner1"),
    "newest of an owner, in a state": paging(owner="owner1", states=["running"]),
    "newest of a worker": paging(worker_id="w1", states=["completed", "running"]),
    "newest of a name": paging(name="often"),
    "newest since": paging(since=5.0),
    "newest until": paging(until=300.0),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_ten_times_the_rows_cost_no_more(
    two_sizes: tuple[sqlite3.Connection, sqlite3.Connection], question: str
) -> None:
    small, large = (steps(connection, QUESTIONS[question]) for connection in two_sizes)
    assert large <= small * 1.3 + 60


def test_reserve_of_many_shapes_is_nearly_as_cheap_as_of_one(
    two_sizes: tuple[sqlite3.Connection, sqlite3.Connection],
) -> None:
    """The front of the whole queue is full of jobs that back off, so that every shape is asked for its own."""
    one, many = (steps(two_sizes[1], QUESTIONS[f"reserve of {which} shape"]) for which in ("one", "every"))
    assert many < one + MANY * 150  # its row is named, its front found


def test_no_statement_scans_or_sorts_the_jobs(two_sizes: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
    texts = {name: text for name, text in vars(statements).items() if name[0].isupper() and isinstance(text, str)}
    assert len(texts) > 25, texts
    query = JobQuery(owner="o", worker_id="w", since=1.0)
    texts["page"] = select(query, JobState.QUEUED, (1.0, "x"), 9)[0]
    small_sorts = {"LOAD", "OPEN_JOBS", "OPEN_JOBS_OF", "API_KEYS"}  # of what was found, by its keys
    for name, text in texts.items():
        named = dict.fromkeys(re.findall(r":(\w+)", text), "[]")
        numbers = [int(n) for n in re.findall(r"\?(\d)", text)]
        arguments = named or ("[]",) * (max(numbers) if numbers else text.count("?"))
        plan = [row[3] for row in two_sizes[0].execute(f"EXPLAIN QUERY PLAN {text}", arguments)]
        if name == "FRONT_OF_OWNER":
            assert plan == ["SEARCH jobs USING INDEX jobs_queue (owner=?)"]  # in order, up to its LIMIT
            continue
        assert not [line for line in plan if re.match(r"SCAN (jobs|j|events|blobs|idempotency)\b", line)], (name, plan)
        assert name in small_sorts or not [line for line in plan if "TEMP B-TREE" in line], (name, plan)
