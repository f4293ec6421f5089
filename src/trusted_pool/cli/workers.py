"""`tpool workers list|cordon|uncordon|drain`."""

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
        screen.print_json(workers=answer.workers)
    else:
        print_workers(answer.workers)


def cordon(worker: Worker, *, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """Give a worker no new jobs; what it has goes on. Kept over restarts."""
    with connect(addr) as pool:
        _say(pool.set_duty(_find(pool, worker), "cordon"), as_json=as_json)


def uncordon(worker: Worker, *, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """Give a worker jobs again; ends a drain as well."""
    with connect(addr) as pool:
        _say(pool.set_duty(_find(pool, worker), "uncordon"), as_json=as_json)


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
        _say(pool.set_duty(_find(pool, worker), "drain", deadline_s), as_json=as_json)


def _find(pool: PoolClient, text: str) -> str:
    """Return the id of the worker that is meant."""
    known = [w.worker_id for w in pool.workers().workers]
    meant = [k for k in known if k.startswith(text.rstrip("…"))]
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
