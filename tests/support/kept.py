"""What a pool keeps, to show that something left nothing there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from support.real_pool import RealPool


class Kept(NamedTuple):
    """How many jobs, and the files of its blobs."""

    jobs: int
    files: frozenset[Path]


def kept(pool: RealPool) -> Kept:
    """Look."""
    files = frozenset(path for path in (pool.data / "blobs").rglob("*") if path.is_file())
    return Kept(pool.pool()["total_jobs"], files)


@contextmanager
def nothing_kept(pool: RealPool) -> Iterator[None]:
    """Show that what is done here leaves nothing in the pool."""
    before = kept(pool)
    yield
    assert kept(pool) == before
