"""What each owner has: its blobs by owner, its running jobs and its bytes beside its queued jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

HAS_QUEUED = sa.text("queued > 0")
BLOBS = (
    "SELECT r.owner, sum(b.size) AS n FROM (SELECT DISTINCT sha256, owner FROM blob_refs) r"
    " JOIN blobs b ON b.sha256 = r.sha256 GROUP BY r.owner"
)
MANIFESTS = "SELECT owner, sum(length(CAST(json_extract(data, '$.manifest') AS BLOB))) AS n FROM jobs GROUP BY owner"
RESULTS = (
    "SELECT j.owner, sum(length(CAST(r.data AS BLOB))) AS n FROM results r"
    " JOIN jobs j ON j.job_id = r.job_id GROUP BY j.owner"
)


def upgrade() -> None:
    """Count what is there, once."""
    op.drop_index("blob_refs_of_job", "blob_refs")
    op.rename_table("blob_refs", "refs_before")
    _make_refs("sha256", "owner", "job_id", "role")
    op.execute(
        "INSERT INTO blob_refs (sha256, owner, job_id, role)"
        " SELECT r.sha256, j.owner, r.job_id, r.role FROM refs_before r JOIN jobs j ON j.job_id = r.job_id"
    )
    op.drop_table("refs_before")
    op.drop_index("shares_in_order", "shares")
    op.rename_table("shares", "shares_before")
    _make_shares("running", "bytes")
    op.execute(
        "INSERT INTO shares (owner, virtual_time, queued, running, bytes)"
        " SELECT owner, virtual_time, queued, 0, 0 FROM shares_before"
        " UNION ALL SELECT DISTINCT owner, 0, 0, 0, 0 FROM jobs WHERE owner NOT IN (SELECT owner FROM shares_before)"
    )
    op.drop_table("shares_before")
    op.execute(
        "UPDATE shares SET running = (SELECT count(*) FROM jobs j"
        " WHERE j.owner = shares.owner AND j.state IN ('dispatched', 'running'))"
    )
    if op.get_bind().dialect.name == "sqlite":  # no other database had jobs at 0003
        for what in (BLOBS, MANIFESTS, RESULTS):
            op.execute(f"UPDATE shares SET bytes = bytes + k.n FROM ({what}) k WHERE k.owner = shares.owner")  # noqa: S608


def downgrade() -> None:
    """Forget it."""
    op.drop_index("blob_refs_of_job", "blob_refs")
    op.rename_table("blob_refs", "refs_before")
    _make_refs("sha256", "job_id", "role")
    op.execute("INSERT INTO blob_refs SELECT sha256, job_id, role FROM refs_before")
    op.drop_table("refs_before")
    op.drop_index("shares_in_order", "shares")
    op.rename_table("shares", "shares_before")
    _make_shares()
    op.execute("INSERT INTO shares SELECT owner, virtual_time, queued FROM shares_before")
    op.drop_table("shares_before")


def _make_refs(*columns: str) -> None:
    key = [sa.Column(name, sa.Text, primary_key=True) for name in columns]
    op.create_table("blob_refs", *key, sqlite_with_rowid=False)
    op.create_index("blob_refs_of_job", "blob_refs", ["job_id"])


def _make_shares(*more: str) -> None:
    op.create_table(
        "shares",
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("virtual_time", sa.Double, nullable=False),
        sa.Column("queued", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in more),
    )
    op.create_index(
        "shares_in_order", "shares", ["virtual_time", "owner"], sqlite_where=HAS_QUEUED, postgresql_where=HAS_QUEUED
    )
