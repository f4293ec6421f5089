"""The first tables."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

QUEUED = "state = 'queued'"

#: name, table, columns, condition
INDEXES: tuple[tuple[str, str, tuple[str, ...], str | None], ...] = (
    ("jobs_queue", "jobs", ("order_key", "job_id"), QUEUED),
    ("jobs_ready", "jobs", ("shape", "order_key", "job_id"), f"{QUEUED} AND wake_at IS NULL"),
    ("jobs_waiting", "jobs", ("wake_at",), f"{QUEUED} AND wake_at IS NOT NULL"),
    ("jobs_reserved", "jobs", ("reserved_until",), f"{QUEUED} AND reserved_until IS NOT NULL"),
    ("jobs_expiring", "jobs", ("expires_at", "job_id"), f"{QUEUED} AND expires_at IS NOT NULL"),
    ("jobs_newest", "jobs", ("submitted_at", "job_id"), None),
    ("jobs_of_state", "jobs", ("state", "submitted_at", "job_id"), None),
    ("jobs_of_owner", "jobs", ("owner", "state", "submitted_at", "job_id"), None),
    ("jobs_of_worker", "jobs", ("worker_id", "state", "submitted_at", "job_id"), "worker_id IS NOT NULL"),
    ("jobs_of_name", "jobs", ("name", "submitted_at", "job_id"), "name <> ''"),
    ("events_of_job", "events", ("job_id", "seq"), None),
    ("blob_refs_of_job", "blob_refs", ("job_id",), None),
    ("idempotency_until", "idempotency", ("until",), None),
)


def _must(name: str, kind: type[sa.types.TypeEngine[Any]] = sa.Text) -> "sa.Column[Any]":
    return sa.Column(name, kind, nullable=False)


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.Text, primary_key=True),
        _must("version", sa.BigInteger),
        _must("owner"),
        _must("state"),
        _must("shape"),
        sa.Column("worker_id", sa.Text),
        _must("name"),
        _must("order_key", sa.Double),
        _must("not_before", sa.Double),
        sa.Column("expires_at", sa.Double),
        _must("submitted_at", sa.Double),
        sa.Column("completed_at", sa.Double),
        sa.Column("wake_at", sa.Double),
        sa.Column("reserved_until", sa.Double),
        sa.Column("holder", sa.Text),
        _must("data"),
    )
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        _must("job_id"),
        _must("at", sa.Double),
        _must("kind"),
        _must("attempt", sa.Integer),
        _must("data"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "results",
        sa.Column("job_id", sa.Text, primary_key=True),
        _must("attempt", sa.Integer),
        _must("data"),
    )
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.Text, primary_key=True),
        _must("size", sa.BigInteger),
        _must("generation", sa.Integer),
        _must("state"),
        _must("last_used_at", sa.Double),
        sa.Column("data", sa.LargeBinary),
    )
    op.create_table(
        "blob_refs",
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "idempotency",
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        _must("fingerprint"),
        _must("job_id"),
        _must("until", sa.Double),
        sqlite_with_rowid=False,
    )
    op.create_table("workers", sa.Column("worker_id", sa.Text, primary_key=True), _must("data"))
    op.create_table(
        "counters",
        sa.Column("name", sa.Text, primary_key=True),
        _must("value", sa.BigInteger),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "shapes",
        sa.Column("shape", sa.Text, primary_key=True),
        _must("request"),
        _must("queued", sa.BigInteger),
    )
    op.create_table("meta", sa.Column("name", sa.Text, primary_key=True), _must("value"))
    for name, table, columns, condition in INDEXES:
        where = sa.text(condition) if condition else None
        op.create_index(name, table, list(columns), sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    """Drop them."""
    for name, table, _, _ in INDEXES:
        op.drop_index(name, table)
    for table in (
        "jobs",
        "events",
        "results",
        "blobs",
        "blob_refs",
        "idempotency",
        "workers",
        "counters",
        "shapes",
        "meta",
    ):
        op.drop_table(table)
