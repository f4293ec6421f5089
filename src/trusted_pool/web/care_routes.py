"""Routes for looking after jobs: explain, history, rerun, priority, cancel by filter."""

from typing import Annotated, Any

import msgspec
from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler

from trusted_pool.coordinator.service import Coordinator
from trusted_pool.core import happenings as h
from trusted_pool.core.advance import IllegalTransitionError
from trusted_pool.core.words import JOB_FINAL, JobState
from trusted_pool.ports.store import JobQuery
from trusted_pool.protocol.answers import (
    BulkCancelAnswer,
    ExplainAnswer,
    HistoryAnswer,
    StatusAnswer,
    SubmitAnswer,
)
from trusted_pool.protocol.errors import BadRequestError, ConflictError
from trusted_pool.web.caller import SUBMITTER, VIEWER, caller_of
from trusted_pool.web.describe import fails
from trusted_pool.web.job_routes import MAX_LABELS

MAX_PRIORITY = 1000
PAGE = 500

Req = Request[Any, Any, Any]

_AGAIN = SUBMITTER | fails(409, 413, 422, 429)


class PriorityBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /priority/{job_id}`."""

    priority: Annotated[int, msgspec.Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)]


class FilterBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `POST /jobs/cancel`: all given conditions hold; at least one must be given."""

    states: list[JobState] = []
    owner: str | None = None
    name: str | None = None
    worker: str | None = None
    labels: Annotated[dict[str, str], msgspec.Meta(max_length=MAX_LABELS)] = {}
    since: float | None = None
    until: float | None = None
    all: bool = False  #: every job that has not ended


def care_routes(coordinator: Coordinator) -> list[HTTPRouteHandler]:
    """Return the routes, bound to a coordinator."""

    @get("/explain/{job_id:str}", summary="Why a job is where it is", opt=VIEWER)
    async def explain(request: Req, job_id: str) -> ExplainAnswer:
        """For each worker why not; what failed and whose fault it was."""
        return await coordinator.read.explain(job_id, caller_of(request).may_see)

    @get("/history/{job_id:str}", summary="The whole story of a job", opt=VIEWER)
    async def history(request: Req, job_id: str) -> HistoryAnswer:
        """Oldest first."""
        return await coordinator.read.history(job_id, caller_of(request).may_see)

    @post(
        "/rerun/{job_id:str}",
        status_code=200,
        summary="Run a job again, as a new job",
        opt=_AGAIN,
    )
    async def rerun(request: Req, job_id: str) -> SubmitAnswer:
        """The same files and manifest; the new job names the old one in `rerun_of`."""
        caller = caller_of(request)
        old = await coordinator.jobs.get(job_id)
        caller.may_see(old)
        await coordinator.audit.of_another(caller.access, "job.rerun", old)
        job = await coordinator.submit.rerun(old, caller.owner)
        return SubmitAnswer(job_id=job.job_id, status=job.state)

    @post(
        "/priority/{job_id:str}",
        status_code=200,
        summary="Give a waiting job another priority",
        opt=SUBMITTER | fails(409),
    )
    async def priority(request: Req, job_id: str, data: PriorityBody) -> StatusAnswer:
        """A step is worth 60 s of waiting."""
        caller = caller_of(request)
        old = await coordinator.jobs.get(job_id)
        caller.may_see(old)
        await coordinator.audit.of_another(caller.access, "job.priority", old, {"priority": data.priority})
        try:
            await coordinator.jobs.apply(
                job_id, h.Reprioritised(priority=data.priority, by=caller.owner), patient=False
            )
        except IllegalTransitionError as error:
            raise ConflictError(f"the priority of {job_id} cannot change: {error}", code="not_queued") from None
        return await coordinator.read.status(job_id, caller.may_see)

    @post("/jobs/cancel", status_code=200, summary="Cancel all jobs that a filter meets", opt=SUBMITTER)
    async def cancel_all(request: Req, data: FilterBody) -> BulkCancelAnswer:
        """Jobs that have ended are left alone."""
        if data == FilterBody():
            raise BadRequestError("an empty filter meets every job", hint='if that is meant: {"all": true}')
        caller = caller_of(request)
        if not caller.sees_jobs_of(data.owner):
            return BulkCancelAnswer(cancelled=0, job_ids=[])
        if caller.sees_owner is None:  # it may meet the jobs of others
            asked = {name: value for name, value in msgspec.to_builtins(data).items() if value}
            await coordinator.audit.commit(caller.access, "jobs.cancel", "", {"filter": asked})
        states = tuple(s for s in data.states or JobState if s not in JOB_FINAL)
        ids: list[str] = []
        after = None
        while states:
            query = JobQuery(
                states=states,
                owner=data.owner or caller.sees_owner,
                name=data.name,
                worker_id=data.worker,
                labels=data.labels,
                since=data.since,
                until=data.until,
                limit=PAGE,
                after=after,
            )
            page = await coordinator.read.jobs(query)
            for job in page.jobs:
                try:
                    await coordinator.cancel(job.job_id, caller.owner, caller.may_see)
                except ConflictError:
                    continue  # it ended in this moment
                ids.append(job.job_id)
            after = page.next
            if after is None:
                break
        return BulkCancelAnswer(cancelled=len(ids), job_ids=ids[:PAGE])

    return [explain, history, rerun, priority, cancel_all]
