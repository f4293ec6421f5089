"""`tpool workers add|remove|reload`: who may be a worker."""

import sys
from typing import Annotated

import typer

from trusted_pool.cli import options, screen
from trusted_pool.cli.cancel import label_of
from trusted_pool.cli.exits import Exit
from trusted_pool.cli.session import connect
from trusted_pool.cli.workers import Worker, find_worker
from trusted_pool.protocol.answers import LeftJobs, RemovedAnswer, WorkerAnswer


def add(  # noqa: PLR0917 - one parameter for each option
    worker_id: Annotated[
        str,
        typer.Argument(metavar="WORKER_ID", help="As `tpool worker --generate-key` printed it.", show_default=False),
    ],
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="https://HOST:PORT", show_default=False)],
    slots: Annotated[
        int | None, typer.Option("--slots", min=1, help="Jobs at once; what it offers if not said.", show_default=False)
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="A label; may be repeated.")
    ] = None,
    claimed: Annotated[
        bool, typer.Option("--claimed", help="It cannot prove its key: plain HTTP, trusted by name, shown as unproven.")
    ] = False,
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> None:
    """List one more worker: it is written into the coordinator's file, and gets jobs once it has proved its key."""
    labels = dict(label_of(text) for text in label or [])
    with connect(addr) as pool:
        worker = pool.add_worker(worker_id, endpoint, slots=slots, labels=labels, claimed=claimed)
    if as_json:
        screen.print_json(worker=worker)
        return
    screen.print_line(f"{worker.worker_id[:12]}… is listed at {worker.endpoint}")
    screen.note("see how it is: tpool workers list" + ("; nobody proves who answers there" if claimed else ""))


def remove(
    worker: Worker,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> None:
    """Take a worker off the list, at once: its connections are cut, what runs there is lost or held.

    To let its jobs finish first: tpool workers drain WORKER.
    """
    with connect(addr) as pool:
        meant = find_worker(pool, worker)
        if meant.active_jobs and not yes and sys.stdin.isatty() and not _sure(meant):
            screen.note("nothing was changed")
            raise typer.Exit(Exit.INTERRUPTED)
        answer = pool.remove_worker(meant.worker_id)
    if as_json:
        screen.print_json(removed=answer)
        return
    _say(answer)


def reload(*, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """Read the allowlist again. The coordinator does so by itself soon after the file was changed."""
    with connect(addr) as pool:
        answer = pool.reload_workers()
    if as_json:
        screen.print_json(reload=answer)
        return
    changes = [
        f"{len(ids)} {word}"
        for ids, word in ((answer.added, "added"), (answer.removed, "removed"), (answer.changed, "changed"))
        if ids
    ]
    screen.print_line(f"{screen.plural(answer.workers, 'worker')} listed; {', '.join(changes) or 'nothing changed'}")
    for gone in answer.removed:
        _say(gone)


def _sure(worker: WorkerAnswer) -> bool:
    jobs = screen.plural(worker.active_jobs, "job")
    screen.note(f"{jobs} at {worker.worker_id[:12]}… will be lost or held, as each job's retry policy says.")
    screen.note(f"To let them finish first: tpool workers drain {worker.worker_id}")
    return typer.confirm("Remove it now?", default=False, err=True)


def _say(gone: RemovedAnswer) -> None:
    screen.print_line(f"{gone.worker_id[:12]}… is removed{_fate(gone.jobs)}")
    if gone.jobs.held:
        screen.note(
            f"held jobs stay assigned to it: tpool jobs --worker {gone.worker_id}; cancel them, or list it again:"
            f" tpool workers add {gone.worker_id} {gone.endpoint}"
        )


def _fate(jobs: LeftJobs) -> str:
    if not jobs.settled:
        return "; what becomes of its jobs takes longer: tpool jobs"
    counts = (
        (jobs.retried, "goes to another worker", "go to other workers"),
        (jobs.held, "is held", "are held"),
        (jobs.failed, "failed", "failed"),
        (jobs.cancelled, "is cancelled", "are cancelled"),
    )
    parts = [f"{n} {one if n == 1 else more}" for n, one, more in counts if n]
    total = sum(n for n, _, _ in counts)
    if not total:
        return "; it had no jobs"
    return f"; {screen.plural(total, 'job')} {'was' if total == 1 else 'were'} running there: {', '.join(parts)}"
