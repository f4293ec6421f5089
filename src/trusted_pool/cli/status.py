"""`tpool status`."""

from typing import Annotated

import typer

from trusted_pool.cli import options, screen
from trusted_pool.cli.report import lines
from trusted_pool.cli.session import connect, find_job


def status(
    job: options.Job = "last",
    *,
    wait: Annotated[
        float | None,
        typer.Option("--wait", metavar="SECONDS", help="Answer with the job's next change.", min=0, max=60),
    ] = None,
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> None:
    """Say where a job is and why."""
    with connect(addr) as pool:
        answer = pool.status(find_job(pool, job), wait_s=wait)
    if as_json:
        screen.print_json(job=answer)
        return
    for word, text in lines(answer):
        screen.print_line(f"{word:<10} {text}")
