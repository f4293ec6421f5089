"""The route by which attempts come in."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from litestar import post

from trusted_pool.ports.journal import Entry, JournalError
from trusted_pool.protocol import form
from trusted_pool.protocol.errors import BadRequestError, TooSlowError, UnavailableError
from trusted_pool.protocol.manifest import MAX_BYTES
from trusted_pool.protocol.messages import ATTEMPT_HEADER, JOB_HEADER, AcceptedAnswer
from trusted_pool.worker.admission import Key
from trusted_pool.worker.api.asked import Asked, TheDaemon, number_in
from trusted_pool.worker.api.guard import SUBMIT, epoch_of, pool_of
from trusted_pool.worker.intake import FilePart, ManifestPart, Part

#: A body of which nothing comes for this long is given up.
SILENCE_S = 30.0

_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


@post(SUBMIT, status_code=200, request_max_body_size=None)
async def submit(request: Asked, daemon: TheDaemon) -> AcceptedAnswer:
    """Take an attempt durably and start it; the same attempt again gets the same answer and no second run."""
    key, epoch = _said(request), epoch_of(request)
    try:
        await daemon.pools.check_epoch(key[0], epoch)
    except JournalError as error:
        refusal = UnavailableError(f"the worker's journal failed: {error}", hint="see the worker's log")
        daemon.attempts.refuse(key, refusal)
        raise refusal from error
    admission = await daemon.attempts.admit(key)
    admission.still = lambda: daemon.pools.check(key[0], epoch)
    if admission.known is not None:
        return _answer(admission.known)
    try:
        async with aclosing(_parts(request)) as parts:
            return _answer(await daemon.intake.take(admission, parts))
    finally:
        daemon.attempts.withdraw(admission)


def _answer(entry: Entry) -> AcceptedAnswer:
    return AcceptedAnswer(job_id=entry.remote_id, status=entry.state.value, started_at=entry.started_at)


def _said(request: Asked) -> Key:
    """Read the headers. Raises BadRequestError."""
    job_id = request.headers.get(JOB_HEADER, "")
    if not _JOB_ID.match(job_id):
        raise BadRequestError(f"the header {JOB_HEADER} must name the job", hint="letters, digits, '.', '_' and '-'")
    attempt = number_in(request, ATTEMPT_HEADER)
    if attempt < 1:
        raise BadRequestError(f"the header {ATTEMPT_HEADER} must be at least 1")
    return pool_of(request), job_id, attempt


async def _parts(request: Asked) -> AsyncGenerator[Part, None]:
    """Yield the form's parts. Raises PoolError."""
    content_type = request.headers.get("content-type", "")
    async with aclosing(form.parts(content_type, _body(request), form.FormLimits())) as parts:
        async for part in parts:
            yield await _part(part)


async def _part(part: form.Part) -> Part:
    if part.name == "manifest":
        return ManifestPart(await part.read(MAX_BYTES))
    if part.name != "files":
        raise BadRequestError(
            f"unknown field {part.name[:100]!r}", hint="the fields are `files` (one or several) and `manifest`"
        )
    if not part.filename:
        raise BadRequestError("a file has no name", hint="curl -F files=@project.tar.gz …")
    return FilePart(part.filename, aiter(part))


async def _body(request: Asked) -> AsyncIterator[bytes]:
    """Yield the body as it comes, with an end to patience. Raises TooSlowError, BadRequestError."""
    receive = request.receive
    while True:
        try:
            async with asyncio.timeout(SILENCE_S):
                message = await receive()
        except TimeoutError:
            raise TooSlowError(f"nothing of the body came for {SILENCE_S:.0f} s", hint="send it again") from None
        if message["type"] == "http.disconnect":
            raise BadRequestError("the line broke before the body was whole")
        if message["type"] == "http.request":
            yield message["body"]
            if not message["more_body"]:
                return
