"""`tpool priority`."""

from typing import Annotated

import typer

from trusted_pool.cli import options, screen
from trusted_pool.cli.report import waiting
from trusted_pool.cli.session import connect, find_job

Priority = Annotated[
    int, typer.Argument(metavar="PRIORITY", min=-1000, max=1000, help="A step is worth 60 s of waiting; default 0.")
]


def priority(
    job: options.Job, priority: Priority, *, addr: options.Addr = None, as_json: options.AsJson = False
) -> None:
    """Give a waiting job another priority among its owner's. Below zero: type `--` before it."""
    with connect(addr) as pool:
        answer = pool.set_priority(find_job(pool, job), priority)
    if as_json:
        screen.print_json(job=answer)
    else:
        screen.print_line(f"{answer.job_id}: priority {answer.priority}, {waiting(answer)}")
