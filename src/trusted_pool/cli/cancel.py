"""`tpool cancel`."""

from typing import Annotated

import typer

from trusted_pool.cli import options, screen
from trusted_pool.cli.session import connect, find_job
from trusted_pool.client.errors import ClientError
from trusted_pool.client.sync import PoolClient
from trusted_pool.core.words import JOB_FINAL

OneJob = Annotated[
    str | None,
    typer.Argument(metavar="[JOB]", help="Job id, the beginning of one, or `last`; or a filter.", show_default=False),
]


def cancel(
    job: OneJob = None,
    *,
    state: Annotated[
        list[str] | None, typer.Option("--state", "-s", help="All jobs in this state: queued, running.")
    ] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="All jobs of this owner.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option("--name", help="All jobs of this name.", show_default=False)] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="All jobs with this label.")
    ] = None,
    worker: Annotated[str | None, typer.Option("--worker", metavar="ID", help="All jobs of this worker.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All jobs that have not ended.")] = False,
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> None:
    """Cancel a job, or all that a filter meets. A running program gets SIGTERM, and SIGKILL 10 s later."""
    labels = dict(label_of(text) for text in label or [])
    filtered = bool(state or owner or name or labels or worker or everything)
    if (job is None) != filtered:
        raise ClientError(
            "name one job or a filter, not both" if filtered else "no job is named",
            code="usage",
            hint="type: tpool cancel JOB, tpool cancel last, or tpool cancel --state queued",
        )
    with connect(addr) as pool:
        if job is not None:
            _one(pool, job, as_json=as_json)
            return
        answer = pool.cancel_all(
            states=[s.lower() for s in state or []],
            owner=owner,
            name=name,
            worker=worker,
            labels=labels,
            everything=everything,
        )
    if as_json:
        screen.print_json(cancelled=answer.cancelled, job_ids=answer.job_ids)
    else:
        screen.print_line(f"{screen.plural(answer.cancelled, 'job')} cancelled")


def label_of(text: str) -> tuple[str, str]:
    """Read `name=value`. Raises ClientError."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ClientError(f"--label {text!r} has no value", code="usage", hint="write it like --label name=value")
    return name, value


def _one(pool: PoolClient, job: str, *, as_json: bool) -> None:
    answer = pool.cancel(find_job(pool, job))
    if as_json:
        screen.print_json(job_id=answer.job_id, status=answer.status, cancelled=answer.cancelled)
    elif answer.cancelled:
        screen.print_line(f"{answer.job_id}: cancelled")
    elif answer.status in JOB_FINAL:
        screen.print_line(f"{answer.job_id}: has ended before ({answer.status})")
    else:
        screen.print_line(f"{answer.job_id}: its program is being ended now")
