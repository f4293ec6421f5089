"""Routes about jobs: submit, status, list, cancel."""

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.params import Parameter

from trusted_pool.coordinator.service import Coordinator
from trusted_pool.core.words import JobState
from trusted_pool.ports.store import JobQuery
from trusted_pool.protocol.answers import CancelAnswer, DryRunAnswer, JobsAnswer, StatusAnswer, SubmitAnswer
from trusted_pool.protocol.errors import BadRequestError
from trusted_pool.protocol.manifest import canonical
from trusted_pool.web.caller import SUBMITTER, VIEWER, caller_of
from trusted_pool.web.describe import FORM, fails
from trusted_pool.web.direct import SUBMIT, failure_of, said, submitted
from trusted_pool.web.upload import receive

MAX_WAIT_S = 60.0
MAX_PAGE = 1000
MAX_LABELS = 8  #: in one filter; each is looked for in every job that the rest of the filter meets

#: The answer is one of two, so the type that documents it stands here.
_SUBMIT = {200: ResponseSpec(SubmitAnswer, description="The job is kept durably; with dry_run, a verdict")}

Req = Request[Any, Any, Any]


def job_routes(coordinator: Coordinator) -> list[HTTPRouteHandler]:
    """Return the routes, bound to a coordinator."""

    # No limit of size for the framework: uploads are streamed, and capped where they are read.
    @post(
        SUBMIT,
        status_code=200,
        summary="Submit a job",
        responses=_SUBMIT,
        request_max_body_size=None,
        opt=SUBMITTER | fails(409, 422, 429) | FORM,
    )
    async def submit(request: Req, dry_run: bool = False) -> Response[Any]:
        """Multipart: `files` (one archive, or several plain files) and `manifest` (JSON; or job.json inside)."""
        if (failure := failure_of(request)) is not None:
            raise failure
        if not dry_run:
            job = await submitted(request, request.stream(), coordinator)
            return Response(SubmitAnswer(job_id=job.job_id, status=job.state))
        content_type, length, _ = said(request)
        owner = caller_of(request).owner
        intake = await coordinator.admission.submit(owner, length, dry=True)
        try:
            received = await receive(content_type, request.stream(), intake, length)
            resolved, wants = await coordinator.submit.dry_run(received.manifest, received.files)
        finally:
            intake.end()
        verdict, message, workers = coordinator.explain.prospect(wants, await coordinator.read.held_back(owner))
        return Response(
            DryRunAnswer(
                admitted=verdict != "impossible",
                verdict=verdict,
                message=message,
                workers=workers,
                manifest=msgspec.json.decode(canonical(resolved)),
            )
        )

    @get("/status/{job_id:str}", summary="All that is known of a job", opt=VIEWER | fails(429))
    async def status(
        request: Req, job_id: str, wait: Annotated[float, Parameter(ge=0, le=MAX_WAIT_S)] = 0.0
    ) -> StatusAnswer:
        """With `wait`, answer at the job's next change, or after so many seconds."""
        caller = caller_of(request)
        change = coordinator.bulletin.expect(job_id)
        try:
            answer = await coordinator.read.status(job_id, caller.may_see)
            if wait and answer.completed_at is None:
                with coordinator.admission.wait(caller.owner):
                    changed = await coordinator.bulletin.until(change, job_id, wait)
                if changed:
                    answer = await coordinator.read.status(job_id, caller.may_see)
        finally:
            coordinator.bulletin.forget(change, job_id)
        return answer

    @get("/jobs", summary="Jobs, newest first", opt=VIEWER)
    async def jobs(
        request: Req,
        *,
        states: Annotated[list[str] | None, Parameter(query="state")] = None,
        owner: str | None = None,
        name: str | None = None,
        worker: str | None = None,
        since: float | None = None,
        until: float | None = None,
        label: list[str] | None = None,
        after: str | None = None,
        limit: Annotated[int, Parameter(ge=1, le=MAX_PAGE)] = 50,
    ) -> JobsAnswer:
        """All given filters hold; `after` is the `next` of the page before."""
        caller = caller_of(request)
        if not caller.sees_jobs_of(owner):
            return JobsAnswer(jobs=[], next=None)
        query = JobQuery(
            states=tuple(_state(word) for text in states or () for word in text.split(",")),
            owner=owner or caller.sees_owner,
            worker_id=worker,
            name=name,
            labels=_labels(label or []),
            since=since,
            until=until,
            after=after,
            limit=limit,
        )
        return await coordinator.read.jobs(query)

    @post("/cancel/{job_id:str}", status_code=200, summary="Cancel a job", opt=SUBMITTER | fails(409))
    async def cancel(request: Req, job_id: str) -> CancelAnswer:
        """When this is answered, the job will not be dispatched any more."""
        caller = caller_of(request)
        old = await coordinator.jobs.get(job_id)
        caller.may_see(old)
        await coordinator.audit.of_another(caller.access, "job.cancel", old)
        job = await coordinator.cancel(job_id, caller.owner, caller.may_see)
        return CancelAnswer(job_id=job.job_id, status=job.state, cancelled=job.state is JobState.CANCELLED)

    return [submit, status, jobs, cancel]


def _labels(texts: list[str]) -> dict[str, str]:
    if len(texts) > MAX_LABELS:
        raise BadRequestError(f"label: {len(texts)} are too many", hint=f"name {MAX_LABELS} at most")
    labels: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise BadRequestError(f"label: {text[:100]!r} is none", hint="write label=name=value")
        labels[name] = value
    return labels


def _state(word: str) -> JobState:
    try:
        return JobState(word.strip().lower())
    except ValueError:
        raise BadRequestError(f"unknown state {word!r}", hint=f"one of {', '.join(JobState)}") from None
