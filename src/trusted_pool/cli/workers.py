"""`tpool workers list|cordon|uncordon|drain`; add, remove and reload are in `allowlist`."""

from typing import Annotated

import typer

from trusted_pool.cli import options, screen
from trusted_pool.cli.pool import print_workers
from trusted_pool.cli.session import connect
from trusted_pool.client.errors import ClientError
from trusted_pool.client.sync import PoolClient
from trusted_pool.core.words import Duty
from trusted_pool.protocol.answers import WorkerAnswer
from trusted_pool.protocol.manifest import duration_s

Worker = Annotated[str, typer.Argument(metavar="WORKER", help="Worker id, or the beginning of it.")]


def workers(*, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """List the workers."""
    with connect(addr) as pool:
        answer = pool.workers()
    if as_json:
        screen.print_json(workers=answer.workers, removed=answer.removed)
        return
    print_workers(answer.workers)
    for gone in answer.removed:
        held, again = screen.plural(gone.held, "job"), f"tpool workers add {gone.worker_id} {gone.endpoint}"
        screen.print_line(
            f"{gone.worker_id[:12]}… was removed and holds {held}: tpool jobs --worker {gone.worker_id};"
            f" to have it back: {again}"
        )


def cordon(worker: Worker, *, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """Give a worker no new jobs; what it has goes on. Kept over restarts."""
    with connect(addr) as pool:
        _say(pool.set_duty(find_worker(pool, worker).worker_id, "cordon"), as_json=as_json)


def uncordon(worker: Worker, *, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """Give a worker jobs again; ends a drain as well."""
    with connect(addr) as pool:
        _say(pool.set_duty(find_worker(pool, worker).worker_id, "uncordon"), as_json=as_json)


def drain(
    worker: Worker,
    *,
    deadline: Annotated[
        str | None,
        typer.Option(
            "--deadline", metavar="DURATION", help="Then what still runs goes elsewhere: 10m.", show_default=False
        ),
    ] = None,
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> None:
    """Let a worker finish what it has and give it nothing new. Kept over restarts."""
    deadline_s = None if deadline is None else duration_s(deadline, "--deadline")
    with connect(addr) as pool:
        _say(pool.set_duty(find_worker(pool, worker).worker_id, "drain", deadline_s), as_json=as_json)


def find_worker(pool: PoolClient, text: str) -> WorkerAnswer:
    """Return the worker that is meant by its id or the beginning of it. Raises ClientError."""
    meant = [w for w in pool.workers().workers if w.worker_id.startswith(text.rstrip("…"))]
    if len(meant) == 1:
        return meant[0]
    words = "several workers' ids begin" if meant else "no worker's id begins"
    raise ClientError(f"{words} with {text!r}", code="no_such_worker", hint="list them: tpool workers list")


def _say(worker: WorkerAnswer, *, as_json: bool) -> None:
    if as_json:
        screen.print_json(worker=worker)
        return
    name = f"{worker.worker_id[:12]}…"
    match worker.duty:
        case Duty.ACTIVE:
            screen.print_line(f"{name} gets jobs")
        case Duty.CORDONED:
            screen.print_line(f"{name} gets no new jobs; undo: tpool workers uncordon {worker.worker_id}")
        case Duty.DRAINING if worker.drained:
            screen.print_line(f"{name} is drained: it has no jobs and gets none")
        case Duty.DRAINING:
            screen.print_line(f"{name} finishes {screen.plural(worker.active_jobs, 'job')} and gets none")
