"""Routes about the files that jobs leave."""

import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from trusted_pool.coordinator.contents import SMALL_BYTES
from trusted_pool.coordinator.service import Coordinator
from trusted_pool.core.job import OutputFile
from trusted_pool.protocol.answers import OutputEntry, OutputsAnswer
from trusted_pool.protocol.errors import BadRequestError, NotFoundError
from trusted_pool.web.caller import VIEWER, caller_of
from trusted_pool.web.describe import fails, sends
from trusted_pool.web.files import media_type, serve
from trusted_pool.web.places import hold
from trusted_pool.web.tarball import tarball

Req = Request[Any, Any, Any]

_FILE = VIEWER | fails(206, 304, 409, 416, 429) | sends("*/*")
_ARCHIVE = VIEWER | fails(409, 429) | sends("application/gzip")


def output_routes(coordinator: Coordinator) -> list[HTTPRouteHandler]:
    """Return the routes, bound to a coordinator."""

    def reader(owner: str) -> Callable[..., AsyncIterator[bytes]]:
        """Return what opens a file for an owner, whose turns its pieces take."""

        def open_range(file: OutputFile, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
            return coordinator.contents.open(file.sha256, start, length, owner=owner)

        return open_range

    def count(request: Req, size: int) -> None:
        """Count a download, unless it is of a small file."""
        if size > SMALL_BYTES:
            hold(request, coordinator.admission.download(caller_of(request).owner))

    async def file_answer(request: Req, job_id: str, path: str) -> Response[Any]:
        wanted = _output_path(path)
        _, result = await coordinator.read.result(job_id, caller_of(request).may_see)
        for file in result.outputs:
            if file.path == wanted:
                count(request, file.size)
                return serve(file, partial(reader(caller_of(request).owner), file), request.headers)
        raise NotFoundError(
            f"job {job_id} has no output {wanted!r}", hint=f"list them: tpool outputs {job_id}", code="no_such_output"
        )

    @get("/outputs/{job_id:str}", summary="The files that a job left", opt=VIEWER | fails(409))
    async def outputs(request: Req, job_id: str) -> OutputsAnswer:
        """Sorted by path."""
        _, result = await coordinator.read.result(job_id, caller_of(request).may_see)
        files = [
            OutputEntry(path=f.path, size=f.size, sha256=f.sha256, type=media_type(f.path), executable=f.executable)
            for f in sorted(result.outputs, key=lambda f: f.path)
        ]
        return OutputsAnswer(job_id=job_id, files=files)

    @get(
        "/outputs/{job_id:str}/{path:path}",
        summary="One output file",
        opt=_FILE,
    )
    async def output(request: Req, job_id: str, path: str) -> Response[Any]:
        """With Range and ETag; active types are sent as attachments."""
        return await file_answer(request, job_id, path)

    @get("/download/{job_id:str}", summary="All outputs as .tar.gz", opt=_ARCHIVE)
    async def download(request: Req, job_id: str) -> Stream:
        """Made while it is sent."""
        job, result = await coordinator.read.result(job_id, caller_of(request).may_see)
        mtime = job.completed_at or job.submitted_at
        files = sorted(result.outputs, key=lambda f: f.path)
        headers = {"Content-Disposition": f'attachment; filename="{job.job_id}.tar.gz"'}
        count(request, sum(file.size for file in files))
        open_file = reader(caller_of(request).owner)
        return Stream(tarball(files, open_file, mtime), media_type="application/gzip", headers=headers)

    @get(
        "/download/{job_id:str}/{path:path}",
        summary="One output file",
        opt=_FILE,
    )
    async def download_one(request: Req, job_id: str, path: str) -> Response[Any]:
        """The same as /outputs/{job_id}/{path}."""
        return await file_answer(request, job_id, path)

    return [outputs, output, download, download_one]


def _output_path(path: str) -> str:
    """Return the path of an output as it is listed. Raises BadRequestError for what no output is ever called."""
    wanted = path.removeprefix("/")
    parts = wanted.split("/")
    if any(part in ("", ".", "..") for part in parts) or re.search(r"[\x00-\x1f\x7f]", wanted):
        raise BadRequestError(f"{wanted[:200]!r} is no path of an output", hint="use a path of the list of outputs")
    return wanted
