"""`tpool run`: submit, follow, fetch."""

import asyncio
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer

from trusted_pool.cli import options, screen
from trusted_pool.cli.download import fetch
from trusted_pool.cli.exits import Exit, of_job
from trusted_pool.cli.logview import LogView
from trusted_pool.cli.report import ending, waiting
from trusted_pool.cli.sending import Wish, prepared
from trusted_pool.cli.session import connect, connect_async
from trusted_pool.cli.submit import send
from trusted_pool.client.client import AsyncPoolClient
from trusted_pool.client.sync import PoolClient
from trusted_pool.core.words import JOB_FINAL, JobState
from trusted_pool.protocol.answers import EndEvent, StatusAnswer


def run(
    source: options.Source,
    args: options.Args = None,
    *,
    output: options.Output = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Submit only; print the job id.")] = False,
    no_fetch: Annotated[bool, typer.Option("--no-fetch", help="Leave the outputs in the pool.")] = False,
    raw: options.Raw = False,
    propagate_exit: options.PropagateExit = False,
    manifest: options.ManifestOption = None,
    fields: options.Fields = None,
    env: options.Env = None,
    name: options.Name = None,
    timeout: options.Timeout = None,
    memory: options.Memory = None,
    interpreter: options.Interpreter = None,
    entrypoint: options.Entrypoint = None,
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> int:
    """Submit a project, follow its log, fetch the files it leaves.

    What the job prints goes to stdout and stderr; all else that is said goes to stderr. Ctrl-C leaves: the job goes on,
    and the last lines say how to come back to it and how to end it.
    """
    wish = Wish(
        source=source,
        args=args,
        manifest=manifest,
        fields=fields or [],
        env=env or [],
        name=name,
        timeout=timeout,
        memory=memory,
        interpreter=interpreter,
        entrypoint=entrypoint,
    )
    with connect(addr) as pool:
        with prepared(wish) as sending:
            job_id = send(pool, sending)
            words = sending.words
        if detach:
            screen.print_json(job_id=job_id, status="queued") if as_json else screen.print_line(job_id)
            return Exit.OK
        screen.note(f"{job_id}: submitted ({words})")
        try:
            status = asyncio.run(_watch(addr, job_id, raw=raw, quiet=as_json))
            return _end(pool, status, output, fetching=not no_fetch, propagate=propagate_exit, as_json=as_json)
        except KeyboardInterrupt:
            screen.note(f"\n{job_id} goes on without you")
            screen.note(f"  come back:  tpool logs -f {job_id}")
            screen.note(f"  end it:     tpool cancel {job_id}")
            return Exit.INTERRUPTED


async def _watch(addr: str | None, job_id: str, *, raw: bool, quiet: bool) -> StatusAnswer:
    """Show the log, and until the job starts, why it waits. Returns its final status."""
    view = LogView(raw=raw, all_to_stderr=quiet)
    async with connect_async(addr) as pool:
        news = asyncio.ensure_future(_say_why(pool, job_id))
        try:
            async with aclosing(pool.follow(job_id)) as pieces:
                async for piece in pieces:
                    if not isinstance(piece, EndEvent):
                        view.show(piece)
        finally:
            view.end()
            news.cancel()
            await asyncio.gather(news, return_exceptions=True)
        # The stream's last word may come before the results are copied; the files are there once the job is final.
        return await pool.wait(job_id)


async def _say_why(pool: AsyncPoolClient, job_id: str) -> None:
    said = ""
    wait_s = 1.0  # most jobs start sooner than anything needs saying
    while True:
        await asyncio.sleep(wait_s)
        status = await pool.status(job_id)
        if status.state is not JobState.QUEUED or status.state in JOB_FINAL:
            return
        words = waiting(status)
        if words != said:
            screen.note(f"{job_id}: {words}")
            said = words
        wait_s = 2.0


def _end(
    pool: PoolClient, status: StatusAnswer, output: Path | None, *, fetching: bool, propagate: bool, as_json: bool
) -> int:
    fetched = []
    if fetching and status.attempts:
        fetched = fetch(pool, status.job_id, output, paths=None)
    if as_json:
        files = [{"path": f.path, "file": str(f.file), "size": f.size, "sha256": f.sha256} for f in fetched]
        screen.print_json(job=status, files=files)
    sys.stdout.flush()
    screen.note(f"{status.job_id}: {ending(status)}")
    for file in fetched[:10]:
        screen.note(f"  {file.file}  {screen.size(file.size)}")
    if len(fetched) > 10:  # noqa: PLR2004 - a screen, not a scroll
        screen.note(f"  … and {len(fetched) - 10} more")
    return of_job(status, propagate=propagate)
