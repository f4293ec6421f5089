"""Cancelling jobs."""

from collections.abc import Callable

from trusted_pool.coordinator.jobs import Jobs
from trusted_pool.coordinator.send import Sender
from trusted_pool.coordinator.tasks import Tasks
from trusted_pool.core import happenings as h
from trusted_pool.core.advance import IllegalTransitionError
from trusted_pool.core.job import Job
from trusted_pool.core.words import JobState
from trusted_pool.protocol.errors import ConflictError


class Cancel:
    """When this has answered, the job will not be dispatched any more."""

    def __init__(self, jobs: Jobs, sender: Sender, tasks: Tasks) -> None:
        self._jobs = jobs
        self._sender = sender
        self._tasks = tasks

    async def __call__(self, job_id: str, by: str, allowed: Callable[[Job], None]) -> Job:
        """Request it. A job that a worker runs is ended there: SIGTERM, 10 s, SIGKILL.

        Raises:
            NotFoundError: there is no such job, or `allowed` raised it.
            ConflictError: it completed or failed before.
        """
        job = await self._jobs.get(job_id)
        allowed(job)
        if job.state is JobState.CANCELLED:
            return job
        try:
            job = await self._jobs.apply(job_id, h.CancelRequested(by=by), patient=False)
        except IllegalTransitionError:
            job = await self._jobs.get(job_id)
            if job.state is JobState.CANCELLED:
                return job
            raise ConflictError(
                f"job {job_id} is {job.state} already", hint=f"see its results: tpool outputs {job_id}"
            ) from None
        if not job.final:
            self._tasks.spawn(self._sender.cancel(job), f"cancel {job_id}")
        return job
