"""`tpool jobs`, also said `tpool list`."""

from typing import Annotated

import typer

from trusted_pool.cli import options, screen
from trusted_pool.cli.session import connect
from trusted_pool.core.words import JobState


def jobs(
    *,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", "-s", help="queued, running, completed, …; may be given again.", show_default=False),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Only jobs of this name.", show_default=False)] = None,
    worker: Annotated[
        str | None, typer.Option("--worker", metavar="ID", help="Only jobs that this worker has or had.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many.")] = 20,
    after: Annotated[
        str | None, typer.Option("--after", metavar="CURSOR", help="The page after this one.", show_default=False)
    ] = None,
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> None:
    """List jobs, newest first."""
    states = [_state(word) for given in state or [] for word in given.split(",")]
    with connect(addr) as pool:
        answer = pool.jobs(state=states, name=name, worker=worker, limit=limit, after=after)
    if as_json:
        screen.print_json(jobs=answer.jobs, next=answer.next)
        return
    rows = [
        [
            job.job_id,
            str(job.state),
            "" if job.reason is None or str(job.reason) == str(job.state) else str(job.reason),
            job.name,
            (job.worker_id or "-")[:12],
            screen.moment(job.submitted_at),
            "-" if job.completed_at is None else screen.span(max(0.0, job.completed_at - job.submitted_at)),
        ]
        for job in answer.jobs
    ]
    screen.print_table(["JOB", "STATE", "REASON", "NAME", "WORKER", "SUBMITTED", "TOOK"], rows, right=["TOOK"])
    if answer.next is not None:
        screen.note(f"more: tpool jobs --after {answer.next}")


def _state(word: str) -> str:
    try:
        return JobState(word.strip().lower()).value
    except ValueError:
        raise typer.BadParameter(f"no state {word!r}; states: {', '.join(JobState)}") from None
