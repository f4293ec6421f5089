"""Commits, inside the writer's transaction."""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from trusted_pool.core.fair import come_back
from trusted_pool.core.job import Job
from trusted_pool.core.words import JobState
from trusted_pool.ports.store import Caps, Committed, Idempotency, Unit
from trusted_pool.store import statements as sql
from trusted_pool.store.rows import OPEN, TOTAL, check, job_row, moment_of, record_bytes, role_of, text

QUEUED = JobState.QUEUED.value
RUNNING = tuple(state.value for state in OPEN)
#: A blob's last use is kept to the hour: one that everybody uses is not rewritten with every submit.
USE_GRAIN_S = 3600.0
LIVE = ("live", 0.0)


class Share(NamedTuple):
    """An owner's row: its turn and its usage."""

    virtual_time: float = 0.0
    queued: int = 0
    running: int = 0
    bytes: int = 0


class More(NamedTuple):
    """What a unit adds to its owner's usage."""

    queued: int
    running: int
    bytes: int
    blobs: list[tuple[str, str]]  #: (digest, owner) of those that the owner did not have

    def beyond(self, caps: Caps, share: Share) -> str:
        """Return the name of a cap that it would break, if any."""
        if caps.queued is not None and self.queued > 0 and share.queued + self.queued > caps.queued:
            return "queued"
        if caps.running is not None and self.running > 0 and share.running + self.running > caps.running:
            return "running"
        if caps.bytes is not None and self.bytes > 0 and share.bytes + self.bytes > caps.bytes:
            return "bytes"
        return ""


class Draft(msgspec.Struct, frozen=True):
    """A unit with its rows made, which needs no database and may fail for the caller alone."""

    unit: Unit
    moment: float
    shape: str = ""
    job: str = ""
    request: str = ""
    events: tuple[tuple[object, ...], ...] = ()
    result: str = ""
    record_bytes: int = 0
    workers: tuple[tuple[object, ...], ...] = ()
    api_keys: tuple[tuple[object, ...], ...] = ()
    audit: tuple[tuple[str, int, str], ...] = ()


def draft(unit: Unit) -> Draft:
    """Make a unit's rows. Raises ValueError for what cannot be kept."""
    check(unit)
    job, result = unit.job, unit.result
    kept = text(result) if result else ""
    return Draft(
        unit=unit,
        moment=moment_of(unit),
        shape=job.shape if job else "",
        job=text(job) if job else "",
        request=text(job.request) if job and job.state is JobState.QUEUED else "",
        events=tuple((e.job_id, e.at, e.kind, e.attempt, text(e.data)) for e in unit.events),
        result=kept,
        record_bytes=record_bytes(unit, kept),
        workers=tuple((w.worker_id, text(w)) for w in unit.workers),
        api_keys=tuple((k.key_id, k.created_at, text(k)) for k in unit.api_keys),
        audit=tuple((e.chain, e.seq, text(e)) for e in unit.audit),
    )


class Batch:
    """Units that share a transaction: each is judged in order, then all rows are written table by table."""

    def __init__(self, connection: sqlite3.Connection, drafts: Sequence[Draft]) -> None:
        """Load what the units are judged by."""
        self._connection = connection
        units = [d.unit for d in drafts]
        owners = sorted({u.job.owner for u in units if u.job})
        pairs = [(b.sha256, u.job.owner) for u in units if u.job for b in u.blobs]
        heads, results, blobs, keys, shares, least, held = self._look(
            [u.job.job_id for u in units if u.job],
            [u.result.job_id for u in units if u.result],
            [b.sha256 for u in units for b in u.blobs],
            [(u.idempotency.owner, u.idempotency.key) for u in units if u.idempotency],
            owners,
            owners,
            pairs,
        )
        #: (version, state, shape) of each job, as it is after the units judged so far
        self._heads: dict[str, tuple[int, str, str]] = {row[0]: (row[1], row[2], row[3]) for row in heads}
        self._with_result = set(results)
        #: state and time of last use
        self._known: dict[str, tuple[str, float]] = {row[0]: (row[1], row[2]) for row in blobs}
        self._keys: dict[tuple[str, str], float] = {(row[0], row[1]): row[2] for row in keys}
        #: of each owner in this batch
        self._shares: dict[str, Share] = {row[0]: Share(*row[1:]) for row in shares}
        #: (digest, owner) of the blobs that an owner has
        self._held: set[tuple[str, str]] = {pairs[place] for place in held}
        #: The least virtual time of the owners with queued jobs that are not in this batch.
        self._others: list[float] = least
        self._jobs: dict[str, tuple[object, ...]] = {}
        self._events: list[tuple[object, ...]] = []
        self._results: list[tuple[object, ...]] = []
        self._blobs: dict[str, tuple[object, ...]] = {}
        self._used: list[str] = []
        self._refs: set[tuple[str, str, str, str]] = set()
        self._idempotency: dict[tuple[str, str], Idempotency] = {}
        self._workers: dict[object, tuple[object, ...]] = {}
        self._counters: Counter[str] = Counter()
        self._shapes: Counter[tuple[str, str]] = Counter()
        self._requests: dict[str, str] = {}
        self._accounted: set[str] = set()
        self._settings: dict[str, str | None] = {}
        self._api_keys: dict[object, tuple[object, ...]] = {}
        self._key_uses: dict[str, float] = {}
        self._audit: dict[tuple[str, int], tuple[object, ...]] = {}
        self._moment = 0.0

    def _look(self, *keys: Sequence[object]) -> list[list[Any]]:
        row = self._connection.execute(sql.LOOK, [sql.keys(k) for k in keys]).fetchone()
        return [msgspec.json.decode(found) for found in row]

    def judge(self, drafted: Draft) -> Committed:
        """Take a unit in, or say what is stale."""
        unit, job = drafted.unit, drafted.unit.job
        head = self._heads.get(job.job_id) if job else None
        if job and (head[0] if head else None) != unit.expects:
            return Committed(ok=False, conflict="job")
        if unit.result and unit.result.job_id in self._with_result:
            return Committed(ok=False, conflict="job")
        key = unit.idempotency
        if key and self._keys.get((key.owner, key.key), drafted.moment) > drafted.moment:
            return Committed(ok=False, conflict="idempotency")
        if any(b.data is None and self._known.get(b.sha256, LIVE)[0] != "live" for b in unit.blobs):
            return Committed(ok=False, conflict="blob")  # it is being deleted: stage it again
        if drafted.audit and self._audit_taken(drafted.audit):
            return Committed(ok=False, conflict="audit")
        if job is None:
            self._take(drafted)
            return Committed(ok=True)
        more = self._more(drafted, job, head[1] if head else "")
        if unit.caps and (beyond := more.beyond(unit.caps, self._shares.get(job.owner, Share()))):
            return Committed(ok=False, conflict=beyond)
        self._take(drafted)
        return Committed(ok=True, version=self._take_job(drafted, head, more))

    def _more(self, drafted: Draft, job: Job, before: str) -> More:
        """Say what a unit adds to its owner's usage. `before`: the job's state until now; none when it is new."""
        added, blobs = drafted.record_bytes, []
        for blob in drafted.unit.blobs:
            pair = blob.sha256, job.owner
            if pair not in self._held and pair not in blobs:
                blobs.append(pair)
                added += blob.size
        queued = (job.state is JobState.QUEUED) - (before == QUEUED)
        return More(queued, (job.state in OPEN) - (before in RUNNING), added, blobs)

    def _audit_taken(self, rows: Sequence[tuple[str, int, str]]) -> bool:
        """Whether a place in a chain is taken. These units are rare enough to be looked for one by one."""
        places = [row[:2] for row in rows]
        if len(set(places)) < len(places) or any(place in self._audit for place in places):
            return True
        return self._connection.execute(sql.AUDIT_TAKEN, (sql.keys(places),)).fetchone() is not None

    def _take(self, drafted: Draft) -> None:
        unit = drafted.unit
        self._moment = max(self._moment, drafted.moment)
        self._events.extend(drafted.events)
        if unit.result:
            self._with_result.add(unit.result.job_id)
            self._results.append((unit.result.job_id, unit.result.attempt, drafted.result))
        if unit.idempotency:
            name = (unit.idempotency.owner, unit.idempotency.key)
            self._keys[name] = unit.idempotency.until
            self._idempotency[name] = unit.idempotency
        for row in drafted.workers:
            self._workers[row[0]] = row
        self._settings |= unit.settings
        self._api_keys |= {row[0]: row for row in drafted.api_keys}
        self._key_uses |= unit.key_uses
        self._audit |= {row[:2]: row for row in drafted.audit}
        for blob in unit.blobs:
            state, used_at = self._known.get(blob.sha256, ("", 0.0))
            if state != "live":
                self._known[blob.sha256] = ("live", drafted.moment)
                self._blobs[blob.sha256] = (blob.sha256, blob.size, 1, "live", drafted.moment, blob.data)
            elif used_at < drafted.moment - USE_GRAIN_S:
                self._used.append(blob.sha256)
            if unit.job:
                self._refs.add((blob.sha256, unit.job.owner, unit.job.job_id, role_of(unit, blob.sha256)))

    def _take_job(self, drafted: Draft, head: tuple[int, str, str] | None, more: More) -> int:
        job = drafted.unit.job
        assert job is not None  # noqa: S101  # the caller looked
        version = head[0] + 1 if head else 1
        if head:
            self._counters[head[1]] -= 1
            self._shapes[job.owner, head[2]] -= head[1] == QUEUED
        else:
            self._counters[TOTAL] += 1
        self._counters[job.state.value] += 1
        if job.state is JobState.QUEUED:
            self._shapes[job.owner, drafted.shape] += 1
            self._requests[drafted.shape] = drafted.request
        if any(more) or drafted.unit.charge:
            self._account(job.owner, more, drafted.unit.charge)
        self._heads[job.job_id] = (version, job.state.value, drafted.shape)
        self._jobs[job.job_id] = job_row(job, version, drafted.shape, drafted.job)
        return version

    def _account(self, owner: str, more: More, charge: float) -> None:
        """Count an owner's usage and its virtual time."""
        virtual_time, queued, running, kept = self._shares.get(owner, Share())
        if more.queued > 0 and not queued:
            here = [share.virtual_time for share in self._shares.values() if share.queued]
            virtual_time = come_back(virtual_time, self._others + here, self._highest)
        self._shares[owner] = Share(
            virtual_time + charge, queued + more.queued, running + more.running, kept + more.bytes
        )
        self._held.update(more.blobs)
        self._accounted.add(owner)

    def _highest(self) -> float:
        kept: float = self._connection.execute(sql.HIGHEST_SHARE).fetchone()[0]
        return max([kept, *(share.virtual_time for share in self._shares.values())])

    def write(self) -> None:
        """Write all that was taken in."""
        connection = self._connection
        sql.put(connection, sql.PUT_JOBS, list(self._jobs.values()))
        sql.put(connection, sql.PUT_EVENTS, self._events)
        sql.put(connection, sql.PUT_RESULTS, self._results)
        sql.put(connection, sql.PUT_BLOBS, list(self._blobs.values()))
        sql.put(connection, sql.PUT_REFS, sorted(self._refs))
        sql.put(connection, sql.PUT_WORKERS, list(self._workers.values()))
        sql.put(connection, sql.ADD_COUNTERS, [(n, by) for n, by in self._counters.items() if by])
        if self._used:
            connection.execute(sql.TOUCH_BLOBS, (self._moment, sql.keys(self._used)))
        if self._idempotency:
            keys = [(k.owner, k.key, k.fingerprint, k.job_id, k.until) for k in self._idempotency.values()]
            connection.execute(sql.PRUNE_KEYS, (self._moment, 2 * len(keys)))
            sql.put(connection, sql.PUT_KEYS, keys)
        self._write_queue()
        self._write_rare()

    def _write_rare(self) -> None:
        connection = self._connection
        sql.put(connection, sql.PUT_API_KEYS, list(self._api_keys.values()))
        if self._key_uses:
            connection.execute(sql.USE_API_KEYS, (msgspec.json.encode(self._key_uses).decode(),))
        sql.put(connection, sql.PUT_AUDIT, list(self._audit.values()))
        if self._settings:
            kept = [(name, value) for name, value in self._settings.items() if value is not None]
            sql.put(connection, sql.PUT_SETTINGS, kept)
            gone = [name for name, value in self._settings.items() if value is None]
            connection.execute(sql.DROP_SETTINGS, (sql.keys(gone),))

    def _write_queue(self) -> None:
        connection = self._connection
        sql.put(connection, sql.PUT_SHARES, [(owner, *self._shares[owner]) for owner in sorted(self._accounted)])
        rows = [(*key, self._requests.get(key[1], ""), by) for key, by in self._shapes.items() if by]
        sql.put(connection, sql.ADD_SHAPES, rows)
        if fewer := [key for key, by in self._shapes.items() if by < 0]:
            connection.execute(sql.DROP_SHAPES, (sql.keys(fewer),))


def commit(connection: sqlite3.Connection, drafts: Sequence[Draft]) -> list[Committed]:
    """Judge and write units. The caller owns the transaction."""
    batch = Batch(connection, drafts)
    answers = [batch.judge(d) for d in drafts]
    batch.write()
    return answers
