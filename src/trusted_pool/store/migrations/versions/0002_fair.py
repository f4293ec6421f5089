"""Fair shares between owners: the queue and its shapes by owner."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

QUEUED = sa.text("state = 'queued'")
READY = sa.text("state = 'queued' AND wake_at IS NULL")
HAS_QUEUED = sa.text("queued > 0")


def upgrade() -> None:
    """Begin every owner that has jobs queued at virtual time 0."""
    _index_queue("owner")
    op.drop_table("shapes")
    op.create_table(
        "shapes",
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("shape", sa.Text, primary_key=True),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("queued", sa.BigInteger, nullable=False),
    )
    op.create_index("shapes_by_shape", "shapes", ["shape", "queued"])
    op.create_table(
        "shares",
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("virtual_time", sa.Double, nullable=False),
        sa.Column("queued", sa.BigInteger, nullable=False),
    )
    op.create_index(
        "shares_in_order", "shares", ["virtual_time", "owner"], sqlite_where=HAS_QUEUED, postgresql_where=HAS_QUEUED
    )
    op.execute(
        "INSERT INTO shares (owner, virtual_time, queued)"
        " SELECT owner, 0, count(*) FROM jobs WHERE state = 'queued' GROUP BY owner"
    )
    if op.get_bind().dialect.name == "sqlite":  # no other database had jobs at 0001
        op.execute(
            "INSERT INTO shapes (owner, shape, request, queued)"
            " SELECT owner, shape, json_extract(data, '$.request'), count(*) FROM jobs WHERE state = 'queued'"
            " GROUP BY owner, shape"
        )


def downgrade() -> None:
    """Forget who had how much."""
    op.create_table(
        "shapes_of_all",
        sa.Column("shape", sa.Text, primary_key=True),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("queued", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO shapes_of_all SELECT shape, min(request), sum(queued) FROM shapes GROUP BY shape")
    op.drop_table("shares")
    op.drop_table("shapes")
    op.rename_table("shapes_of_all", "shapes")
    _index_queue()


def _index_queue(*first: str) -> None:
    for name, condition, columns in (
        ("jobs_queue", QUEUED, ("order_key", "job_id")),
        ("jobs_ready", READY, ("shape", "order_key", "job_id")),
    ):
        op.drop_index(name, "jobs")
        op.create_index(name, "jobs", [*first, *columns], sqlite_where=condition, postgresql_where=condition)
