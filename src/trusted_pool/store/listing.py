"""Pages of jobs, newest first."""

import heapq
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing

from trusted_pool.core.job import Job
from trusted_pool.core.words import JobState
from trusted_pool.ports.store import JobPage, JobQuery
from trusted_pool.store.rows import cursor, job_of, limit_of, place_of

#: A page of jobs with large manifests ends before its limit; one job it always holds.
PAGE_BYTES = 16 * 1024 * 1024


def page(connection: sqlite3.Connection, query: JobQuery) -> JobPage:
    """Return one page. Raises ValueError for a cursor that was not made by it."""
    limit = limit_of(query)
    after = place_of(query.after) if query.after is not None else None
    jobs: list[Job] = []
    size = 0
    with ExitStack() as stack:  # a cursor left open would keep the log from being copied
        runs = [stack.enter_context(closing(run)) for run in _runs(connection, query, after, limit + 1)]
        for _, _, data in heapq.merge(*runs, reverse=True):
            size += len(data)
            if jobs and (len(jobs) == limit or size > PAGE_BYTES):
                return JobPage(jobs=tuple(jobs), next=cursor(jobs[-1].submitted_at, jobs[-1].job_id))
            jobs.append(job_of(data))
    return JobPage(jobs=tuple(jobs))


def _runs(
    connection: sqlite3.Connection, query: JobQuery, after: tuple[float, str] | None, n: int
) -> Iterator[sqlite3.Cursor]:
    """Yield runs of at most n rows, newest first; one per state where an index has states, so that none is sorted."""
    states: list[JobState | None]
    if query.name is not None or (query.owner is None and query.worker_id is None and not query.states):
        states = [None]
    else:
        states = list(dict.fromkeys(query.states)) or list(JobState)
    for state in states:
        statement, arguments = select(query, state, after, n)
        yield connection.execute(statement, arguments)


def select(
    query: JobQuery, state: JobState | None, after: tuple[float, str] | None, n: int
) -> tuple[str, list[object]]:
    """Return the statement of one run and its arguments."""
    conditions: list[str] = []
    arguments: list[object] = []

    def where(condition: str, *values: object) -> None:
        conditions.append(condition)
        arguments.extend(values)

    if query.name is not None:
        where("name = ?" if query.name == "" else "name = ? AND name <> ''", query.name)
    if query.worker_id is not None:
        where("worker_id = ?", query.worker_id)
    if query.owner is not None:
        where("owner = ?", query.owner)
    if state is not None:
        where("state = ?", state.value)
    elif query.states:
        states = dict.fromkeys(query.states)
        where(f"state IN ({','.join('?' * len(states))})", *(s.value for s in states))
    if query.since is not None:
        where("submitted_at >= ?", query.since)
    if query.until is not None:
        where("submitted_at < ?", query.until)
    for name, value in query.labels.items():
        where("EXISTS (SELECT 1 FROM json_each(data, '$.labels') WHERE key = ? AND value = ?)", name, value)
    if after is not None:
        where("(submitted_at, job_id) < (?, ?)", *after)
    condition = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    statement = (
        f"SELECT submitted_at, job_id, data FROM jobs {condition}"  # noqa: S608  # conditions are ours, values bound
        "ORDER BY submitted_at DESC, job_id DESC LIMIT ?"
    )
    return statement, [*arguments, n]
