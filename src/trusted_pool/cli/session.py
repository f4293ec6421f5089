"""What a verb works with: a client of the right pool, and jobs named as people name them."""

import os
import re
import uuid

from trusted_pool.cli import state
from trusted_pool.client.client import AsyncPoolClient
from trusted_pool.client.errors import ClientError
from trusted_pool.client.settings import Settings, from_environment
from trusted_pool.client.sync import PoolClient

_FULL_ID = re.compile(r"pool-[0-9a-f]{16,}\Z")
_BEGINNING = re.compile(r"(?:pool-)?[0-9a-f]*\Z")
#: How many of the newest jobs the beginning of an id is looked for in.
_SEARCHED = 2000
_PAGE = 200


def settings(addr: str | None) -> Settings:
    """Return where the pool is, by the option or the environment."""
    return from_environment(os.environ, addr)


def connect(addr: str | None) -> PoolClient:
    """Return a client of the pool."""
    return PoolClient(settings(addr))


def connect_async(addr: str | None) -> AsyncPoolClient:
    """Return an asynchronous client of the pool."""
    return AsyncPoolClient(settings(addr))


def new_key() -> str:
    """Make the idempotency key of one submit, so that sending it again after a lost answer is safe."""
    return f"tpool-{uuid.uuid4().hex}"


def find_job(pool: PoolClient, name: str) -> str:
    """Return the full id of a job given by its id, the beginning of its id, or `last`.

    Raises:
        ClientError: there is none, or more than one.
    """
    text = name.strip().lower()
    if text == "last":
        last = state.last_job(pool.settings.address)
        if last is None:
            raise ClientError(
                f"nothing was submitted from here to {pool.settings.address} yet",
                code="no_last_job",
                hint="see all jobs: tpool jobs",
            )
        return last
    if _FULL_ID.match(text):
        return text
    if not text or not _BEGINNING.match(text):
        raise ClientError(f"{name!r} is no job id", code="usage", hint="see all jobs: tpool jobs")
    return _search(pool, name, text if text.startswith("pool-") else f"pool-{text}")


def _search(pool: PoolClient, name: str, beginning: str) -> str:
    found: list[str] = []
    seen, after = 0, None
    while seen < _SEARCHED and len(found) < 2:  # noqa: PLR2004 - two are one too many
        page = pool.jobs(limit=_PAGE, after=after)
        seen += len(page.jobs)
        found += [job.job_id for job in page.jobs if job.job_id.startswith(beginning)]
        after = page.next
        if after is None:
            break
    if not found:
        raise ClientError(f"no job's id begins with {name!r}", code="no_such_job", hint="see all jobs: tpool jobs")
    if len(found) > 1:
        raise ClientError(
            f"several jobs' ids begin with {name!r}: {', '.join(found[:3])}",
            code="ambiguous_job",
            hint="type more of it",
        )
    return found[0]
