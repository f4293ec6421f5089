"""The store on SQLite: one file, one process, one writer."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from trusted_pool.core.access import ApiKey
from trusted_pool.core.job import Job
from trusted_pool.core.limits import OwnerUsage, RunningCaps
from trusted_pool.core.worker import Worker
from trusted_pool.ports.store import (
    FARTHEST,
    Blob,
    Committed,
    Counters,
    Event,
    Idempotency,
    JobPage,
    JobQuery,
    Result,
    ShapeCount,
    Share,
    StoreError,
    StoreSlowError,
    Unit,
    Versioned,
)
from trusted_pool.protocol.audit import AuditEntry
from trusted_pool.store import statements as sql
from trusted_pool.store.apply import draft
from trusted_pool.store.faults import meaning
from trusted_pool.store.listing import page
from trusted_pool.store.lock import DatabaseLock
from trusted_pool.store.opening import bring_to_head, connect, look, make_file
from trusted_pool.store.queue import Reservation
from trusted_pool.store.rows import (
    all_states,
    api_key_of,
    audit_of,
    data_of,
    job_of,
    place_among,
    request_of,
    result_of,
    worker_of,
)
from trusted_pool.store.writer import Writer

#: Threads that list jobs for clients. Everything else that may be long has one of its own, which they cannot keep busy.
LISTING_THREADS = 2
#: A listing may take so long, and be answered so long after it was asked for; it may have to look at every job.
LISTING_S = 2.0
LISTING_WAIT_S = 10.0
#: Steps of SQLite between two looks at the time.
LOOK_STEPS = 10_000
#: So many shapes are read in the event loop; more take a thread.
FEW_SHAPES = 64
T = TypeVar("T")


class SqliteStore:
    """Keeps everything in one SQLite file, in WAL mode with synchronous=FULL.

    Commits go through one writer thread, which groups them. Point reads (a job, a result, a key) are answered in the
    event loop, on a connection of their own: 10 µs, where a hop to another thread and back costs 50. Reads that may be
    long have a thread; listings, whose length clients decide, have others and a time limit.
    """

    def __init__(self, path: Path, lock: DatabaseLock, writing: sqlite3.Connection) -> None:
        """Use `open`."""
        self._path = path
        self._lock = lock
        self._writing = writing
        self._writer = Writer(writing, path)
        self._near = connect(path, reading=True)
        self._far: list[sqlite3.Connection] = []
        self._local = threading.local()
        self._reader = ThreadPoolExecutor(1, "store-reader", initializer=self._begin_reading)
        self._listers = ThreadPoolExecutor(LISTING_THREADS, "store-lister", initializer=self._begin_reading)
        self._shapes = 0  # when they were last counted
        self._closing: asyncio.Future[None] | None = None
        self._closed = False

    @classmethod
    def open(cls, path: Path) -> "SqliteStore":
        """Open the database, making it and its directory when they are missing. Blocks; no event loop is needed.

        Raises:
            StoreInUseError: another process has it.
            StoreDamagedError: it is damaged; no byte was changed.
            StoreFullError: there is no space to make or recover it.
            StoreError: it cannot be written, is another program's, or was made by a newer version.
        """
        path = path.absolute()
        try:
            make_file(path)
            lock = DatabaseLock(path)
        except OSError as error:
            raise StoreError(
                f"cannot write in {path.parent}: {error.strerror}. Check who owns it and its mode"
            ) from None
        writing: sqlite3.Connection | None = None
        try:
            look(path)
            writing = connect(path)
            bring_to_head(writing, path)
            # Whoever held reservations was the process before: a restart does not wait for them to run out.
            writing.execute(sql.FORGET_RESERVATIONS)
            store = cls(path, lock, writing)
            store._writer.start()
        except BaseException as error:
            if writing is not None:
                writing.close()
            lock.release()
            if isinstance(error, sqlite3.Error | OSError):
                raise meaning(error, path) from error
            raise
        return store

    def observe(self, on_batch: Callable[[int, float], None]) -> None:
        """Have `on_batch` told of every transaction: its units and its seconds. Called from the writer's thread."""
        self._writer.on_batch = on_batch

    async def commit(self, units: Sequence[Unit]) -> list[Committed]:
        """Commit the units. Raises StoreFullError, StoreError; ValueError for a unit that makes no sense."""
        drafts = [draft(unit) for unit in units]
        if not drafts:
            return []
        committed: list[Committed] = await self._writer.call(drafts)
        return committed

    async def reserve(
        self,
        shapes: Sequence[str],
        n: int,
        holder: str,
        now: float,
        until: float,
        *,
        caps: RunningCaps | None = None,
    ) -> list[Versioned]:
        """Mark up to n eligible queued jobs as looked at by `holder` until then, and load them."""
        if n < 1 or not shapes:
            return []
        asked = Reservation(shapes=tuple(shapes), n=n, holder=holder, now=now, until=until, caps=caps)
        return _versioned(await self._writer.call(asked))

    async def job(self, job_id: str) -> Versioned | None:
        """Load one job."""
        rows = self._point(sql.JOB, job_id)
        return Versioned(job_of(rows[0][0]), rows[0][1]) if rows else None

    async def open_jobs(self, worker_id: str | None = None) -> list[Versioned]:
        """Load all jobs that are dispatched or running, of one worker or of all."""
        if worker_id is None:
            return await self._read(lambda c: _versioned(c.execute(sql.OPEN_JOBS)), [])
        return await self._read(lambda c: _versioned(c.execute(sql.OPEN_JOBS_OF, (worker_id,))), [])

    async def shapes(self) -> list[ShapeCount]:
        """Return the shapes that have queued jobs."""
        if self._shapes <= FEW_SHAPES:
            found = _shape_counts(self._point(sql.SHAPES))
        else:
            found = await self._read(lambda c: _shape_counts(c.execute(sql.SHAPES)), [])
        self._shapes = len(found)
        return found

    async def next_due(self, now: float) -> float | None:
        """Return the earliest moment after `now` at which a queued job becomes eligible or expires, if any does."""
        questions = (sql.NEXT_WAKE, sql.NEXT_RELEASE, sql.NEXT_EXPIRY)
        moments = [row[0] for question in questions for row in self._point(question, now)]
        return min((moment for moment in moments if moment is not None), default=None)

    async def oldest_queued_at(self) -> float | None:
        """Return when the job that waits longest was submitted, or None when none waits."""
        rows: list[tuple[float | None]] = self._point(sql.OLDEST)
        return rows[0][0]

    async def expired(self, now: float, n: int) -> list[Versioned]:
        """Load up to n queued jobs whose `expires_at` has passed."""
        return _versioned(self._point(sql.EXPIRED, now, max(n, 0)))

    async def jobs(self, query: JobQuery) -> JobPage:
        """Return one page of jobs. Raises ValueError for a cursor that it did not make; StoreSlowError."""
        asked_at = time.monotonic()

        def look(connection: sqlite3.Connection) -> JobPage:
            now = time.monotonic()
            end = min(now + LISTING_S, asked_at + LISTING_WAIT_S)
            if now > end:
                raise StoreSlowError("too many lists of jobs are being asked for")
            connection.set_progress_handler(lambda: time.monotonic() > end, LOOK_STEPS)
            try:
                return page(connection, query)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname != "SQLITE_INTERRUPT":
                    raise
                raise StoreSlowError("the list of jobs takes too long") from None
            finally:
                connection.set_progress_handler(None, 0)

        return await self._read(look, JobPage(jobs=()), self._listers)

    async def queue_position(self, job: Job) -> int | None:
        """Return how many queued jobs go before it, or None when it is not queued. Counts those of its owner."""

        def look(connection: sqlite3.Connection) -> int | None:
            row = connection.execute(sql.RANK, (job.job_id,)).fetchone()
            return min(FARTHEST, place_among(_shares(connection), *row)) if row else None

        return await self._read(look, None)

    async def events(self, job_id: str) -> list[Event]:
        """Return a job's story, oldest first."""
        return [
            Event(job_id=job_id, at=at, kind=kind, attempt=attempt, data=data_of(data), seq=seq)
            for seq, at, kind, attempt, data in self._point(sql.EVENTS, job_id)
        ]

    async def result(self, job_id: str) -> Result | None:
        """Return the accepted result."""
        rows = self._point(sql.RESULT, job_id)
        return result_of(rows[0][0]) if rows else None

    async def blob(self, sha256: str) -> Blob | None:
        """Return a blob that some job refers to, with its bytes when it is small."""
        rows = self._point(sql.BLOB, sha256)
        return Blob(sha256=sha256, size=rows[0][0], data=rows[0][1]) if rows else None

    async def idempotency(self, owner: str, key: str, now: float) -> Idempotency | None:
        """Return what an owner's key was used for, when it has not run out."""
        rows = self._point(sql.KEY, owner, key, now)
        if not rows:
            return None
        fingerprint, job_id, until = rows[0]
        return Idempotency(owner=owner, key=key, fingerprint=fingerprint, job_id=job_id, until=until)

    async def workers(self) -> list[Worker]:
        """Load all workers ever seen in an allowlist."""
        return await self._read(lambda c: [worker_of(row[0]) for row in c.execute(sql.WORKERS)], [])

    async def counters(self) -> Counters:
        """Return the counters."""
        jobs, total = all_states(self._point(sql.COUNTERS))
        return Counters(jobs=jobs, total=total)

    async def shares(self) -> list[Share]:
        """Return the share of every owner that has queued jobs, least virtual time first."""
        return await self._read(_shares, [])

    async def usage(self, owner: str) -> OwnerUsage:
        """Return what an owner has now; nothing, of one that is not known."""
        return next(iter(_usages(self._point(sql.USAGE, owner))), OwnerUsage(owner=owner))

    async def usages(self) -> list[OwnerUsage]:
        """Return what every owner has that ever had a job, by name."""
        return await self._read(lambda c: _usages(c.execute(sql.USAGES)), [])

    async def settings(self) -> dict[str, str]:
        """Return all kept settings."""
        return dict(self._point(sql.SETTINGS))

    async def api_keys(self) -> list[tuple[ApiKey, float | None]]:
        """Load all keys ever made, oldest first, with the time each was last shown."""
        return await self._read(lambda c: [(api_key_of(data), used) for data, used in c.execute(sql.API_KEYS)], [])

    async def audit(self, chain: str, after: int, n: int) -> list[AuditEntry]:
        """Load up to n entries of a chain behind number `after`, in order."""
        return await self._read(
            lambda c: [audit_of(row[0]) for row in c.execute(sql.AUDIT, (chain, after, max(n, 0)))], []
        )

    async def audit_end(self, chain: str) -> AuditEntry | None:
        """Load the newest entry of a chain."""
        rows = self._point(sql.AUDIT_END, chain)
        return audit_of(rows[0][0]) if rows else None

    async def close(self) -> None:
        """Finish what was begun and let go. Idempotent."""
        if self._closed:
            return
        if self._closing is None:
            self._closing = asyncio.ensure_future(asyncio.to_thread(self._close))
        await asyncio.shield(self._closing)

    def _close(self) -> None:
        self._writer.stop()
        self._reader.shutdown()
        self._listers.shutdown()
        self._closed = True
        for connection in (*self._far, self._near, self._writing):
            connection.close()
        self._lock.release()

    def _point(self, statement: str, *arguments: object) -> list[tuple]:  # type: ignore[type-arg]
        """Read a few rows by key, here and now."""
        if self._closed:
            raise StoreError("the store is closed")
        try:
            return self._near.execute(statement, arguments).fetchall()
        except UnicodeEncodeError:
            return []  # half a character names nothing
        except sqlite3.Error as error:
            raise meaning(error, self._path) from error

    async def _read(
        self, read: Callable[[sqlite3.Connection], T], nothing: T, on: ThreadPoolExecutor | None = None
    ) -> T:
        """Read on another thread: by default on the one that clients' listings cannot keep busy."""
        try:
            return await asyncio.get_running_loop().run_in_executor(on or self._reader, self._read_here, read)
        except UnicodeEncodeError:
            return nothing  # half a character names nothing
        except RuntimeError as error:
            raise StoreError("the store is closed") from error

    def _read_here(self, read: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return read(self._local.connection)
        except sqlite3.Error as error:
            raise meaning(error, self._path) from error

    def _begin_reading(self) -> None:
        self._local.connection = connect(self._path, reading=True)
        self._far.append(self._local.connection)


def _shares(connection: sqlite3.Connection) -> list[Share]:
    return [
        Share(owner=owner, virtual_time=virtual_time, queued=queued)
        for owner, virtual_time, queued in connection.execute(sql.SHARES)
    ]


def _usages(rows: Iterable[tuple[str, int, int, int]]) -> list[OwnerUsage]:
    return [
        OwnerUsage(owner=owner, queued=queued, running=running, bytes=kept) for owner, queued, running, kept in rows
    ]


def _shape_counts(rows: Iterable[tuple[str, str, int]]) -> list[ShapeCount]:
    return [ShapeCount(shape=shape, request=request_of(request), queued=queued) for shape, request, queued in rows]


def _versioned(rows: Sequence[tuple[str, int]] | sqlite3.Cursor) -> list[Versioned]:
    return [Versioned(job_of(data), version) for data, version in rows]
