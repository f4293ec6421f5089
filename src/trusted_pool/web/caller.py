"""Who asks. As long as nobody authenticates, everybody is the owner `local`."""

from typing import Any

import msgspec
from litestar import Request

from trusted_pool.core.job import Job
from trusted_pool.protocol.errors import NotFoundError


class Caller(msgspec.Struct, frozen=True):
    """The identity a request is made under."""

    owner: str

    @property
    def sees_owner(self) -> str | None:
        """The owner whose jobs it sees; None: all."""
        return self.owner

    def may_see(self, job: Job) -> None:
        """Raise NotFoundError for a job of somebody else: a foreign job does not exist."""
        if job.owner != self.owner:
            raise NotFoundError(f"there is no job {job.job_id}", hint="list the jobs: tpool jobs")


LOCAL = Caller("local")


def caller_of(_request: Request[Any, Any, Any]) -> Caller:
    """Return who asks."""
    return LOCAL
