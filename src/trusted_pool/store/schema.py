"""The tables, once for SQLite and for PostgreSQL.

`head.sql` is made from here (a test says when it is not) and `migrations` adds up to it. Nothing imports this file
while the coordinator runs: SQLAlchemy costs 150 ms of start-up.

Rules of this file:

- A record lives whole in its `data` column, as JSON. Columns beside it are copies that a statement selects by.
- Times are seconds since the epoch, in double precision: what comes out equals what went in.
- `wake_at` splits the queue in two. NULL: ready. Else: its backoff ends then. So what waits costs nothing to those
  who look for what is ready, and is moved over once.
- No foreign keys: rows that belong together are committed together, and one writer does it.
"""

import sqlalchemy as sa

metadata = sa.MetaData()

QUEUED = sa.text("state = 'queued'")
READY = sa.text("state = 'queued' AND wake_at IS NULL")
WAITING = sa.text("state = 'queued' AND wake_at IS NOT NULL")
RESERVED = sa.text("state = 'queued' AND reserved_until IS NOT NULL")
EXPIRING = sa.text("state = 'queued' AND expires_at IS NOT NULL")
NAMED = sa.text("name <> ''")
PLACED = sa.text("worker_id IS NOT NULL")


def _index(name: str, *columns: str, where: sa.TextClause) -> sa.Index:
    """Return an index over some of the rows, in both databases."""
    return sa.Index(name, *columns, sqlite_where=where, postgresql_where=where)


jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("shape", sa.Text, nullable=False),
    sa.Column("worker_id", sa.Text),  # has it, or had it last when the job is final
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("order_key", sa.Double, nullable=False),
    sa.Column("not_before", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("submitted_at", sa.Double, nullable=False),
    sa.Column("completed_at", sa.Double),
    sa.Column("wake_at", sa.Double),
    sa.Column("reserved_until", sa.Double),
    sa.Column("holder", sa.Text),
    sa.Column("data", sa.Text, nullable=False),
    _index("jobs_queue", "owner", "order_key", "job_id", where=QUEUED),
    _index("jobs_ready", "owner", "shape", "order_key", "job_id", where=READY),
    _index("jobs_waiting", "wake_at", where=WAITING),
    _index("jobs_reserved", "reserved_until", where=RESERVED),
    _index("jobs_expiring", "expires_at", "job_id", where=EXPIRING),
    sa.Index("jobs_newest", "submitted_at", "job_id"),
    sa.Index("jobs_of_state", "state", "submitted_at", "job_id"),
    sa.Index("jobs_of_owner", "owner", "state", "submitted_at", "job_id"),
    _index("jobs_of_worker", "worker_id", "state", "submitted_at", "job_id", where=PLACED),
    _index("jobs_of_name", "name", "submitted_at", "job_id", where=NAMED),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("job_id", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Index("events_of_job", "job_id", "seq"),
    sqlite_autoincrement=True,  # a number is never given twice, not even after the newest event was deleted
)

results = sa.Table(
    "results",
    metadata,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)

blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # live, condemned
    sa.Column("last_used_at", sa.Double, nullable=False),
    sa.Column("data", sa.LargeBinary),  # the bytes of a small one
)

blob_refs = sa.Table(
    "blob_refs",
    metadata,
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, primary_key=True),  # of the job: whether an owner has a blob is one look-up
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),  # input, output, log, other
    sa.Index("blob_refs_of_job", "job_id"),
    sqlite_with_rowid=False,
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("job_id", sa.Text, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
    sa.Index("idempotency_until", "until"),
    sqlite_with_rowid=False,
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("worker_id", sa.Text, primary_key=True),
    sa.Column("data", sa.Text, nullable=False),
)

counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),  # a job state, or `total`
    sa.Column("value", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

shapes = sa.Table(
    "shapes",
    metadata,
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("shape", sa.Text, primary_key=True),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("queued", sa.BigInteger, nullable=False),  # a shape of which an owner has none queued has no row
    sa.Index("shapes_by_shape", "shape", "queued"),
)

shares = sa.Table(
    "shares",
    metadata,
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("virtual_time", sa.Double, nullable=False),
    sa.Column("queued", sa.BigInteger, nullable=False),
    sa.Column("running", sa.BigInteger, nullable=False),  # dispatched or running
    sa.Column("bytes", sa.BigInteger, nullable=False),  # its blobs, each once, its manifests, its results
    _index("shares_in_order", "virtual_time", "owner", where=sa.text("queued > 0")),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("last_used_at", sa.Double),
    sa.Column("data", sa.Text, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("chain", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("data", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),  # of a setting
    sa.Column("value", sa.Text, nullable=False),
)


def ddl(dialect: sa.Dialect) -> list[str]:
    """Return the statements that make all tables and indexes, in order."""
    found: list[str] = []
    for table in metadata.sorted_tables:
        found.append(str(sa.schema.CreateTable(table).compile(dialect=dialect)).strip())
        indexes = sorted(table.indexes, key=lambda index: index.name or "")
        found.extend(str(sa.schema.CreateIndex(index).compile(dialect=dialect)).strip() for index in indexes)
    return found
