"""The asynchronous client of a pool. `sync.PoolClient` is its other face."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import msgspec

from trusted_pool.client.admin import Admin
from trusted_pool.client.care import Care
from trusted_pool.client.errors import ClientError, NoLongerWaitingError, RequestError
from trusted_pool.client.fetch import Fetched, OnBytes, fetch_all
from trusted_pool.client.follow import LogPiece, follow
from trusted_pool.client.paths import new_file
from trusted_pool.client.settings import Settings, from_environment
from trusted_pool.client.transport import Params, Transport
from trusted_pool.client.upload import OnProgress, Upload, multipart_files
from trusted_pool.core.words import JOB_FINAL
from trusted_pool.protocol.answers import (
    CancelAnswer,
    DryRunAnswer,
    EndEvent,
    JobsAnswer,
    LogsAnswer,
    OutputsAnswer,
    PoolAnswer,
    ServiceAnswer,
    StatusAnswer,
    SubmitAnswer,
)

_LONG_POLL_S = 30.0
_SUBMIT_TRIES = 5
_PAUSE_S = 0.5
_CONNECT_ERRORS = (httpx.ConnectError, httpx.ConnectTimeout)
#: The pool answers a submit when it is on its disk; it may have much to write first.
_SUBMIT_SILENCE_S = 120.0


class AsyncPoolClient(Care, Admin):
    """A client of one pool. Use it as an async context manager, or call `close`.

    Without settings, the environment and what `tpool login` has kept say where the pool is (`from_environment`).
    Every method raises ClientError: RequestError when the pool says no, UnreachableError when it does not answer.
    """

    def __init__(self, settings: Settings | None = None, *, timeout_s: float = 30.0) -> None:
        """`timeout_s`: longest silence of the pool within one exchange."""
        self.settings = settings or from_environment(os.environ)
        self._transport = Transport(self.settings, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        await self._transport.close()

    async def submit(
        self,
        uploads: Sequence[Upload],
        manifest: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> SubmitAnswer:
        """Submit a job. When this returns, the pool keeps it durably.

        With an `idempotency_key` a lost answer is no danger: the same submit is sent again and means the same job.
        Without one it is sent once.
        """
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
        data = {} if manifest is None else {"manifest": msgspec.json.encode(manifest).decode()}
        tries = _SUBMIT_TRIES if idempotency_key else 1
        for attempt in range(1, tries + 1):
            body = {"data": data, "files": multipart_files(list(uploads), on_progress)}
            try:
                return await self._transport.ask(
                    "POST", "/submit", SubmitAnswer, headers=headers, body=body, silence_s=_SUBMIT_SILENCE_S
                )
            except ClientError as error:
                # Nobody listens and nothing was sent: say so at once. After an earlier try, it may be restarting.
                refused_at_once = attempt == 1 and isinstance(error.__cause__, _CONNECT_ERRORS)
                if attempt == tries or not error.retryable or refused_at_once:
                    raise
                pause_s = error.retry_after_s if isinstance(error, RequestError) else None
                await asyncio.sleep(min(pause_s or _PAUSE_S * attempt, 10.0))
        raise AssertionError  # the last try returned or raised

    async def try_submit(self, uploads: Sequence[Upload], manifest: Mapping[str, Any] | None = None) -> DryRunAnswer:
        """Ask what would become of such a submit. Nothing is kept."""
        data = {} if manifest is None else {"manifest": msgspec.json.encode(manifest).decode()}
        return await self.dry_run({"data": data, "files": multipart_files(list(uploads), None)})

    async def status(self, job_id: str, *, wait_s: float | None = None) -> StatusAnswer:
        """Ask for a job's state. With `wait_s` the answer comes with its next change, or after that time."""
        params: Params = {} if wait_s is None else {"wait": f"{wait_s:g}"}
        silence_s = None if wait_s is None else wait_s + _LONG_POLL_S
        return await self._transport.ask(
            "GET", f"/status/{quote(job_id, safe='')}", StatusAnswer, params=params, silence_s=silence_s
        )

    async def wait(self, job_id: str, *, timeout_s: float | None = None, patience_s: float = 120.0) -> StatusAnswer:
        """Wait until the job is completed, failed or cancelled. Outages of up to `patience_s` are sat out.

        Raises:
            NoLongerWaitingError: `timeout_s` is over.
        """
        began = heard_at = time.monotonic()
        poll_s = 0.0  # the first answer at once: the job may be final, or unknown
        while True:
            trouble: ClientError | None = None
            try:
                answer = await self.status(job_id, wait_s=poll_s or None)
                heard_at = time.monotonic()
                if answer.state in JOB_FINAL:
                    return answer
            except ClientError as error:
                if not error.retryable or time.monotonic() - heard_at > patience_s:
                    raise
                trouble = error
            left_s = None if timeout_s is None else began + timeout_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise NoLongerWaitingError(f"{job_id} has not ended within {timeout_s:g} s; it goes on") from trouble
            if trouble is not None:
                await asyncio.sleep(min(_PAUSE_S, left_s or _PAUSE_S))
            poll_s = _LONG_POLL_S if left_s is None else min(_LONG_POLL_S, left_s)

    async def logs(self, job_id: str) -> LogsAnswer:
        """Ask for what a job has printed so far, as text."""
        return await self._transport.ask("GET", f"/logs/{quote(job_id, safe='')}", LogsAnswer)

    async def raw_log(self, job_id: str, stream: str) -> AsyncGenerator[bytes, None]:
        """Yield what a job has printed so far to `stdout` or `stderr`, byte for byte."""
        async with self._transport.stream(
            "GET", f"/logs/{quote(job_id, safe='')}/{stream}", headers={"Accept": "*/*"}
        ) as response:
            async for piece in response.aiter_bytes():
                yield piece

    async def follow(
        self, job_id: str, *, after: str = "", patience_s: float = 120.0
    ) -> AsyncGenerator[LogPiece | EndEvent, None]:
        """Yield a job's log while it is written, then its end, over lost connections."""
        pieces = follow(self._transport, quote(job_id, safe=""), after=after, patience_s=patience_s)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def outputs(self, job_id: str) -> OutputsAnswer:
        """List the files that a job left."""
        return await self._transport.ask("GET", f"/outputs/{quote(job_id, safe='')}", OutputsAnswer)

    async def download(
        self,
        job_id: str,
        into: Path,
        *,
        paths: Sequence[str] | None = None,
        on_bytes: OnBytes | None = None,
    ) -> list[Fetched]:
        """Fetch a job's outputs, or those named, into a directory. Each is checked and then put in place whole.

        Raises:
            ClientError: code `no_such_output` when a named one is not there; UnsafePathError; IntegrityError.
        """
        entries = (await self.outputs(job_id)).files
        if paths is not None:
            known = {entry.path: entry for entry in entries}
            for path in paths:
                if path not in known:
                    hint = f"see what there is: tpool outputs {job_id}"
                    raise ClientError(f"{job_id} has no output {path!r}", code="no_such_output", hint=hint)
            entries = [known[path] for path in dict.fromkeys(paths)]
        return await fetch_all(self._transport, quote(job_id, safe=""), entries, into, on_bytes)

    async def download_archive(self, job_id: str, file: Path, *, on_bytes: OnBytes | None = None) -> int:
        """Fetch all outputs as one .tar.gz and return its size. It is put in place whole."""
        size = 0
        with new_file(file.parent, file.name, job_id) as new:
            async with self._transport.stream(
                "GET", f"/download/{quote(job_id, safe='')}", headers={"Accept": "*/*"}
            ) as response:
                async for piece in response.aiter_raw():
                    new.write(piece)
                    size += len(piece)
                    if on_bytes is not None:
                        on_bytes(len(piece))
            new.put(executable=False)
        return size

    async def cancel(self, job_id: str) -> CancelAnswer:
        """Ask that a job be cancelled."""
        return await self._transport.ask("POST", f"/cancel/{quote(job_id, safe='')}", CancelAnswer)

    async def jobs(
        self,
        *,
        state: Sequence[str] = (),
        owner: str | None = None,
        name: str | None = None,
        worker: str | None = None,
        labels: Sequence[str] = (),
        since: float | None = None,
        until: float | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> JobsAnswer:
        """Ask for one page of jobs, newest first. `since` and `until`: submitted then, seconds since the epoch.

        `labels`: each as `name=value`.
        """
        given = {
            "state": ",".join(state) or None,
            "owner": owner,
            "name": name,
            "worker": worker,
            "since": since,
            "until": until,
            "limit": limit,
            "after": after,
        }
        params: dict[str, str | int | float | list[str]] = {k: v for k, v in given.items() if v is not None}
        if labels:
            params["label"] = list(labels)
        return await self._transport.ask("GET", "/jobs", JobsAnswer, params=params)

    async def pool(self) -> PoolAnswer:
        """Ask how the pool and its workers are."""
        return await self._transport.ask("GET", "/pool", PoolAnswer)

    async def health(self) -> ServiceAnswer:
        """Ask whether the coordinator answers."""
        return await self._transport.ask("GET", "/health", ServiceAnswer)
