"""`tpool jobs`, also said `tpool list`."""

import time
from datetime import datetime
from typing import Annotated

import typer

from trusted_pool.cli import options, screen
from trusted_pool.cli.session import connect
from trusted_pool.core.words import JobState
from trusted_pool.protocol.errors import BadManifestError
from trusted_pool.protocol.manifest import duration_s


def jobs(
    *,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", "-s", help="queued, running, completed, …; may be given again.", show_default=False),
    ] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="Only jobs of this owner.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option("--name", help="Only jobs of this name.", show_default=False)] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME=VALUE", help="Only jobs with this label.", show_default=False),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="WHEN", help="Submitted since: 2h ago, or 2026-01-31.", show_default=False),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="WHEN", help="Submitted before.", show_default=False)
    ] = None,
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
        answer = pool.jobs(
            state=states,
            owner=owner,
            name=name,
            worker=worker,
            labels=label or (),
            since=None if since is None else _moment(since, "--since"),
            until=None if until is None else _moment(until, "--until"),
            limit=limit,
            after=after,
        )
    if as_json:
        screen.print_json(jobs=answer.jobs, next=answer.next)
        return
    several = len({job.owner for job in answer.jobs}) > 1
    rows = [
        [
            job.job_id,
            *([job.owner] if several else []),
            str(job.state),
            "" if job.reason is None or str(job.reason) == str(job.state) else str(job.reason),
            job.name,
            (job.worker_id or "-")[:12],
            screen.moment(job.submitted_at),
            "-" if job.completed_at is None else screen.span(max(0.0, job.completed_at - job.submitted_at)),
        ]
        for job in answer.jobs
    ]
    columns = ["JOB", *(["OWNER"] if several else []), "STATE", "REASON", "NAME", "WORKER", "SUBMITTED", "TOOK"]
    screen.print_table(columns, rows, right=["TOOK"])
    if answer.next is not None:
        screen.note(f"more: tpool jobs --after {answer.next}")


def _moment(text: str, option: str) -> float:
    """Read a time: a date, with or without a time of day, in the machine's zone; or how long ago."""
    try:
        return time.mktime(datetime.fromisoformat(text.strip()).timetuple())
    except ValueError:
        pass
    try:
        return time.time() - duration_s(text, option)  # noqa: TID251 - "ago" is by the clock of whoever asks
    except BadManifestError:
        words = f"{option} {text!r} is no time; write 2h, 30m, 2026-01-31 or 2026-01-31T12:00"
        raise typer.BadParameter(words) from None


def _state(word: str) -> str:
    try:
        return JobState(word.strip().lower()).value
    except ValueError:
        raise typer.BadParameter(f"no state {word!r}; states: {', '.join(JobState)}") from None
