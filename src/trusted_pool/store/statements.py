"""SQL as prepared text, for SQLite.

One statement does a whole batch: rows go in as one long VALUES, keys as one JSON array, and what comes out is one JSON
text. Python's sqlite3 lets go of the interpreter lock at each step of a statement, and must win it back from a busy
event loop; so a batch takes about nine statements, however many units it has.
"""

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import msgspec

from trusted_pool.ports.store import FARTHEST
from trusted_pool.store.rows import FIXED_COLUMNS, JOB_COLUMNS

#: Rows in one VALUES at most. Each count up to this is a statement of its own, prepared when it first comes up.
MOST_ROWS = 64

_CHANGED = ", ".join(f"{c} = excluded.{c}" for c in JOB_COLUMNS if c not in FIXED_COLUMNS)
#: A commit ends a reservation.
PUT_JOBS = (
    f"INSERT INTO jobs ({', '.join(JOB_COLUMNS)}) VALUES ",  # noqa: S608  # our own column names
    f" ON CONFLICT (job_id) DO UPDATE SET {_CHANGED}, reserved_until = NULL, holder = NULL",
)
PUT_EVENTS = ("INSERT INTO events (job_id, at, kind, attempt, data) VALUES ", "")
PUT_RESULTS = ("INSERT INTO results (job_id, attempt, data) VALUES ", "")
#: A blob that is there keeps its first bytes; a condemned one comes back as a new generation.
PUT_BLOBS = (
    "INSERT INTO blobs (sha256, size, generation, state, last_used_at, data) VALUES ",
    (
        " ON CONFLICT (sha256) DO UPDATE SET state = 'live', generation = generation + 1, data = excluded.data,"
        " last_used_at = excluded.last_used_at WHERE state <> 'live'"
    ),
)
PUT_REFS = ("INSERT INTO blob_refs (sha256, owner, job_id, role) VALUES ", " ON CONFLICT DO NOTHING")
PUT_KEYS = (
    "INSERT INTO idempotency (owner, key, fingerprint, job_id, until) VALUES ",
    (
        " ON CONFLICT (owner, key) DO UPDATE SET fingerprint = excluded.fingerprint, job_id = excluded.job_id,"
        " until = excluded.until"
    ),
)
PUT_WORKERS = (
    "INSERT INTO workers (worker_id, data) VALUES ",
    " ON CONFLICT (worker_id) DO UPDATE SET data = excluded.data",
)
ADD_COUNTERS = (
    "INSERT INTO counters (name, value) VALUES ",
    " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
)
ADD_SHAPES = (
    "INSERT INTO shapes (owner, shape, request, queued) VALUES ",
    " ON CONFLICT (owner, shape) DO UPDATE SET queued = queued + excluded.queued",
)
DROP_SHAPES = (
    "DELETE FROM shapes WHERE (owner, shape) IN"
    " (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)) AND queued <= 0"
)
PUT_SHARES = (
    "INSERT INTO shares (owner, virtual_time, queued, running, bytes) VALUES ",
    (
        " ON CONFLICT (owner) DO UPDATE SET virtual_time = excluded.virtual_time, queued = excluded.queued,"
        " running = excluded.running, bytes = excluded.bytes"
    ),
)
PUT_SETTINGS = ("INSERT INTO meta (name, value) VALUES ", " ON CONFLICT (name) DO UPDATE SET value = excluded.value")
#: Times of use come apart from the rows: they are many, and must not undo a revocation.
PUT_API_KEYS = (
    "INSERT INTO api_keys (key_id, created_at, data) VALUES ",
    " ON CONFLICT (key_id) DO UPDATE SET data = excluded.data",
)
USE_API_KEYS = (
    "UPDATE api_keys SET last_used_at = max(coalesce(last_used_at, 0), u.value)"
    " FROM json_each(?) u WHERE api_keys.key_id = u.key"
)
PUT_AUDIT = ("INSERT INTO audit (chain, seq, data) VALUES ", "")
AUDIT_TAKEN = (
    "SELECT 1 FROM json_each(?) k JOIN audit a ON a.chain = json_extract(k.value, '$[0]')"
    " AND a.seq = json_extract(k.value, '$[1]') LIMIT 1"
)
DROP_SETTINGS = "DELETE FROM meta WHERE name IN (SELECT value FROM json_each(?))"

HEADS = (
    "SELECT json_group_array(json_array(job_id, version, state, shape)) FROM jobs"
    " WHERE job_id IN (SELECT value FROM json_each(?))"
)
SHARES_OF = (
    "SELECT json_group_array(json_array(owner, virtual_time, queued, running, bytes)) FROM shares"
    " WHERE owner IN (SELECT value FROM json_each(?))"
)
#: The least virtual time of the others that have queued jobs.
LEAST_OF_OTHERS = (
    "SELECT json_group_array(virtual_time) FROM (SELECT virtual_time FROM shares INDEXED BY shares_in_order"
    " WHERE queued > 0 AND owner NOT IN (SELECT value FROM json_each(?)) ORDER BY virtual_time, owner LIMIT 1)"
)
HIGHEST_SHARE = "SELECT coalesce(max(virtual_time), 0.0) FROM shares"
HAVE_RESULT = "SELECT json_group_array(job_id) FROM results WHERE job_id IN (SELECT value FROM json_each(?))"
KNOWN_BLOBS = (
    "SELECT json_group_array(json_array(sha256, state, last_used_at)) FROM blobs"
    " WHERE sha256 IN (SELECT value FROM json_each(?))"
)
KEYS_HELD = (
    "SELECT json_group_array(json_array(i.owner, i.key, i.until)) FROM json_each(?) k JOIN idempotency i"
    " ON i.owner = json_extract(k.value, '$[0]') AND i.key = json_extract(k.value, '$[1]')"
)
#: Which of the pairs (digest, owner) are there, by their places in the list.
HELD = (
    "SELECT json_group_array(k.key) FROM json_each(?) k WHERE EXISTS (SELECT 1 FROM blob_refs r"
    " WHERE r.sha256 = json_extract(k.value, '$[0]') AND r.owner = json_extract(k.value, '$[1]'))"
)
#: All that a batch is judged by, in one step. Arguments: job ids, jobs with results, digests, keys, owners, owners,
#: pairs (digest, owner).
LOOK = (
    f"SELECT ({HEADS}), ({HAVE_RESULT}), ({KNOWN_BLOBS}), ({KEYS_HELD}), ({SHARES_OF}), ({LEAST_OF_OTHERS}), ({HELD})"
)
#: Twice what a commit adds, so that keys that ran out do not pile up.
PRUNE_KEYS = (
    "DELETE FROM idempotency WHERE (owner, key) IN"
    " (SELECT owner, key FROM idempotency WHERE until <= ? ORDER BY until LIMIT ?)"
)
TOUCH_BLOBS = "UPDATE blobs SET last_used_at = ? WHERE sha256 IN (SELECT value FROM json_each(?))"

# The planner, which keeps no statistics, takes any equality for a good one and would walk through all queued jobs.
# So what looks at the queue names its index; a missing one is an error, not a slow day.
WAKE = (
    "UPDATE jobs INDEXED BY jobs_waiting SET wake_at = NULL"
    " WHERE state = 'queued' AND wake_at IS NOT NULL AND wake_at <= ?"
)
FORGET_RESERVATIONS = (
    "UPDATE jobs INDEXED BY jobs_reserved SET reserved_until = NULL, holder = NULL"
    " WHERE state = 'queued' AND reserved_until IS NOT NULL"
)
# What others hold stays among what is ready and is stepped over: no more than all of them reserve at once. The
# condition on not_before only matters after a clock went back.
#: Who has queued jobs, in their turn.
TURNS = (
    "SELECT virtual_time, owner FROM shares INDEXED BY shares_in_order WHERE queued > 0 ORDER BY virtual_time, owner"
)
#: The same, with what each has running: slower, since the index does not hold that.
TURNS_AND_RUNNING = (
    "SELECT virtual_time, owner, running FROM shares INDEXED BY shares_in_order"
    " WHERE queued > 0 ORDER BY virtual_time, owner"
)
MOVE_UP = "UPDATE shares SET virtual_time = max(virtual_time, ?) WHERE owner IN (SELECT value FROM json_each(?))"
#: Which of the shapes asked for an owner has queued.
SHAPES_OF = "SELECT shape FROM shapes WHERE owner = ? AND shape IN (SELECT value FROM json_each(?))"
#: The front of one shape of an owner.
FRONT_OF_SHAPE = (
    "SELECT order_key, job_id FROM jobs INDEXED BY jobs_ready"
    " WHERE owner = :owner AND shape = :shape AND state = 'queued' AND wake_at IS NULL AND not_before <= :now"
    " AND (reserved_until IS NULL OR reserved_until <= :now OR holder = :holder)"
    " ORDER BY order_key, job_id LIMIT :n"
)
#: The front of each of many shapes of an owner.
FRONTS = (
    "SELECT j.order_key, j.job_id, j.shape FROM json_each(:shapes) s CROSS JOIN jobs j ON j.rowid ="
    " (SELECT rowid FROM jobs INDEXED BY jobs_ready"
    " WHERE owner = :owner AND shape = s.value AND state = 'queued' AND wake_at IS NULL AND not_before <= :now"
    " AND (reserved_until IS NULL OR reserved_until <= :now OR holder = :holder)"
    " ORDER BY order_key, job_id LIMIT 1)"
)
#: What follows in one shape of an owner.
NEXT_OF_SHAPE = (
    "SELECT order_key, job_id FROM jobs INDEXED BY jobs_ready"
    " WHERE owner = :owner AND shape = :shape AND state = 'queued' AND wake_at IS NULL AND not_before <= :now"
    " AND (reserved_until IS NULL OR reserved_until <= :now OR holder = :holder)"
    " AND (order_key, job_id) > (:order_key, :job_id) ORDER BY order_key, job_id LIMIT :n"
)
#: The front of an owner's whole queue, what waits included.
FRONT_OF_OWNER = (
    "SELECT job_id, shape, wake_at IS NULL AND not_before <= :now"
    " AND (reserved_until IS NULL OR reserved_until <= :now OR holder = :holder)"
    " FROM jobs INDEXED BY jobs_queue WHERE owner = :owner AND state = 'queued'"
    " ORDER BY order_key, job_id LIMIT :reach"
)
MARK = "UPDATE jobs SET reserved_until = ?, holder = ? WHERE job_id IN (SELECT value FROM json_each(?))"
#: In the order of the ids.
LOAD = "SELECT j.data, j.version FROM json_each(?) k CROSS JOIN jobs j ON j.job_id = k.value ORDER BY k.key"

JOB = "SELECT data, version FROM jobs WHERE job_id = ?"
OPEN_JOBS = "SELECT data, version FROM jobs WHERE state IN ('dispatched', 'running') ORDER BY submitted_at, job_id"
OPEN_JOBS_OF = (
    "SELECT data, version FROM jobs WHERE worker_id = ? AND state IN ('dispatched', 'running')"
    " ORDER BY submitted_at, job_id"
)
SHAPES = "SELECT shape, min(request), sum(queued) FROM shapes GROUP BY shape ORDER BY shape"
SHARES = (
    "SELECT owner, virtual_time, queued FROM shares INDEXED BY shares_in_order"
    " WHERE queued > 0 ORDER BY virtual_time, owner"
)
USAGE = "SELECT owner, queued, running, bytes FROM shares WHERE owner = ?"
USAGES = "SELECT owner, queued, running, bytes FROM shares ORDER BY owner"
SETTINGS = "SELECT name, value FROM meta"
OLDEST = "SELECT min(submitted_at) FROM jobs INDEXED BY jobs_of_state WHERE state = 'queued'"
NEXT_WAKE = (
    "SELECT min(wake_at) FROM jobs INDEXED BY jobs_waiting"
    " WHERE state = 'queued' AND wake_at IS NOT NULL AND wake_at > ?"
)
NEXT_RELEASE = (
    "SELECT min(reserved_until) FROM jobs INDEXED BY jobs_reserved"
    " WHERE state = 'queued' AND reserved_until IS NOT NULL AND reserved_until > ?"
)
NEXT_EXPIRY = (
    "SELECT min(expires_at) FROM jobs INDEXED BY jobs_expiring"
    " WHERE state = 'queued' AND expires_at IS NOT NULL AND expires_at > ?"
)
EXPIRED = (
    "SELECT data, version FROM jobs INDEXED BY jobs_expiring"
    " WHERE state = 'queued' AND expires_at IS NOT NULL AND expires_at <= ? ORDER BY expires_at, job_id LIMIT ?"
)
#: The owner of a queued job and how many of its own go before.
RANK = (
    "SELECT owner, (SELECT count(*) FROM (SELECT 1 FROM jobs INDEXED BY jobs_queue"  # noqa: S608 - our own number
    " WHERE owner = j.owner AND state = 'queued' AND (order_key, job_id) < (j.order_key, j.job_id)"
    f" LIMIT {FARTHEST}))"
    " FROM jobs j WHERE job_id = ? AND state = 'queued'"
)
EVENTS = "SELECT seq, at, kind, attempt, data FROM events WHERE job_id = ? ORDER BY seq"
RESULT = "SELECT data FROM results WHERE job_id = ?"
BLOB = "SELECT size, data FROM blobs WHERE sha256 = ? AND state = 'live'"
KEY = "SELECT fingerprint, job_id, until FROM idempotency WHERE owner = ? AND key = ? AND until > ?"
WORKERS = "SELECT data FROM workers ORDER BY worker_id"
API_KEYS = "SELECT data, last_used_at FROM api_keys ORDER BY created_at, key_id"
AUDIT = "SELECT data FROM audit WHERE chain = ? AND seq > ? ORDER BY seq LIMIT ?"
AUDIT_END = "SELECT data FROM audit WHERE chain = ? ORDER BY seq DESC LIMIT 1"
COUNTERS = "SELECT name, value FROM counters"


@lru_cache(maxsize=1024)
def _values(head: str, tail: str, columns: int, rows: int) -> str:
    row = "(" + ",".join("?" * columns) + ")"
    return head + ",".join([row] * rows) + tail


def put(connection: sqlite3.Connection, statement: tuple[str, str], rows: Sequence[tuple[object, ...]]) -> None:
    """Run a statement of the form (head, tail) over rows, many at a time."""
    for begin in range(0, len(rows), MOST_ROWS):
        piece = rows[begin : begin + MOST_ROWS]
        sql = _values(*statement, len(piece[0]), len(piece))
        connection.execute(sql, tuple(chain.from_iterable(piece)))


def keys(names: Sequence[object]) -> str:
    """Return keys as a JSON array, for json_each."""
    return msgspec.json.encode(names).decode()
