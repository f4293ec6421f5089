"""`tpool wait`."""

from typing import Annotated

import typer

from trusted_pool.cli import options, screen
from trusted_pool.cli.exits import of_job
from trusted_pool.cli.report import ending
from trusted_pool.cli.session import connect, find_job
from trusted_pool.protocol.manifest import duration_s


def wait(
    job: options.Job = "last",
    *,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="DURATION", help="Wait no longer than: 30s, 5m.")
    ] = None,
    propagate_exit: options.PropagateExit = False,
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> int:
    """Wait until a job has ended; the exit code says how. 124: it has not ended in time."""
    limit_s = None if timeout is None else duration_s(timeout, "--timeout")
    with connect(addr) as pool:
        answer = pool.wait(find_job(pool, job), timeout_s=limit_s)
    if as_json:
        screen.print_json(job=answer)
    else:
        screen.print_line(f"{answer.job_id}: {ending(answer)}")
    return of_job(answer, propagate=propagate_exit)
