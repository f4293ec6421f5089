"""Routes that read one attempt: status, log, outputs."""

from collections.abc import AsyncIterator
from urllib.parse import unquote_to_bytes

from litestar import get
from litestar.params import FromPath, FromQuery
from litestar.response import Stream

from trusted_pool.core.job import OutputFile
from trusted_pool.ports.journal import Entry
from trusted_pool.ports.sandbox import OutputMissingError
from trusted_pool.protocol.answers import LogsAnswer, WorkerStatus
from trusted_pool.protocol.archive_names import require_canonical
from trusted_pool.protocol.errors import BadRequestError, NotFoundError
from trusted_pool.protocol.messages import OutputsAnswer
from trusted_pool.worker.api.asked import Asked, Number, TheDaemon
from trusted_pool.worker.api.guard import pool_of
from trusted_pool.worker.api.tarball import tarball
from trusted_pool.worker.logs import follow_log, read_text
from trusted_pool.worker.reports import status_of

#: What a job left is bytes: nothing may interpret or run it here.
_INERT = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Content-Disposition": "attachment",
}


@get("/status/{remote_id:str}")
async def status(request: Asked, daemon: TheDaemon, remote_id: FromPath[str]) -> WorkerStatus:
    """Say where an attempt is and how it ran."""
    return status_of(daemon.attempts.get(pool_of(request), remote_id))


@get("/logs/{remote_id:str}")
async def logs(request: Asked, daemon: TheDaemon, remote_id: FromPath[str]) -> LogsAnswer:
    """Return the log as text."""
    entry = daemon.attempts.get(pool_of(request), remote_id)
    return await read_text(daemon.journal, entry.remote_id)


@get("/logs/{remote_id:str}/frames")
async def log_frames(
    request: Asked, daemon: TheDaemon, remote_id: FromPath[str], start: Number = 0, follow: FromQuery[bool] = False
) -> Stream:
    """Return the framed log from byte `start` on; with `follow` until the attempt has ended."""
    entry = daemon.attempts.get(pool_of(request), remote_id)
    pieces = follow_log(daemon.attempts, daemon.journal, entry.remote_id, start, follow=follow)
    return Stream(pieces, media_type="application/octet-stream")


@get("/outputs/{remote_id:str}")
async def outputs(request: Asked, daemon: TheDaemon, remote_id: FromPath[str]) -> OutputsAnswer:
    """List the files that an attempt left."""
    entry = daemon.attempts.get(pool_of(request), remote_id)
    return OutputsAnswer(job_id=remote_id, files=list(_outputs(entry)))


@get(["/outputs/{remote_id:str}/{path:path}", "/download/{remote_id:str}/{path:path}"])
async def output(request: Asked, daemon: TheDaemon, remote_id: FromPath[str]) -> Stream:
    """Return one file."""
    path = _asked_path(request)
    entry = daemon.attempts.get(pool_of(request), remote_id)
    file = next((f for f in _outputs(entry) if f.path == path), None)
    if file is None:
        raise _missing(remote_id, path)
    pieces = await _begun(daemon.sandbox.output(remote_id, path), remote_id, path)
    headers = {**_INERT, "Content-Length": str(file.size), "ETag": f'"{file.sha256}"'}
    return Stream(pieces, media_type="application/octet-stream", headers=headers)


@get("/download/{remote_id:str}")
async def download(request: Asked, daemon: TheDaemon, remote_id: FromPath[str]) -> Stream:
    """Return all files as one `.tar.gz`."""
    entry = daemon.attempts.get(pool_of(request), remote_id)
    pieces = tarball(_outputs(entry), lambda file: daemon.sandbox.output(remote_id, file.path), entry.ended_at or 0.0)
    disposition = {"Content-Disposition": f'attachment; filename="{remote_id}.tar.gz"'}
    return Stream(pieces, media_type="application/gzip", headers={**_INERT, **disposition})


def _outputs(entry: Entry) -> tuple[OutputFile, ...]:
    return entry.outcome.outputs if entry.outcome is not None else ()


def _missing(remote_id: str, path: str) -> NotFoundError:
    return NotFoundError(
        f"{remote_id} left no file {path!r}", code="no_such_output", hint=f"GET /outputs/{remote_id} lists them"
    )


def _asked_path(request: Asked) -> str:
    """Return the file's path, percent-decoded once. Raises BadRequestError."""
    parts = request.scope["raw_path"].split(b"/", 3)
    try:
        return require_canonical(unquote_to_bytes(parts[3]).decode("utf-8"))
    except (IndexError, UnicodeDecodeError):
        raise BadRequestError("the path is no name of a file", hint="write it percent-encoded, in UTF-8") from None


async def _begun(pieces: AsyncIterator[bytes], remote_id: str, path: str) -> AsyncIterator[bytes]:
    """Read the first piece, so that a file which cannot be read is a 404 and no broken answer."""
    try:
        first = await anext(pieces, b"")
    except OutputMissingError:
        raise _missing(remote_id, path) from None

    async def all_of_it() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return all_of_it()
