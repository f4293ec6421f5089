"""`tpool pool`."""

from collections import Counter

from trusted_pool.cli import options, screen
from trusted_pool.cli.session import connect
from trusted_pool.core.words import Duty
from trusted_pool.protocol.answers import WorkerAnswer


def pool(*, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """Show the pool and its workers."""
    with connect(addr) as client:
        answer = client.pool()
    if as_json:
        screen.print_json(pool=answer)
        return
    screen.print_line(
        f"{answer.healthy_workers} of {screen.plural(answer.total_workers, 'worker')} healthy,"
        f" {screen.plural(answer.total_jobs, 'job')}, {answer.queued_jobs} queued"
    )
    if answer.paused:
        screen.print_line("the pool is paused; go on with: tpool resume")
    print_workers(answer.workers)


def print_workers(workers: list[WorkerAnswer]) -> None:
    """Print workers as a table, and below it why some are not well."""
    rows = [_row(worker) for worker in workers]
    columns = ["WORKER", "ENDPOINT", "HEALTH", "JOBS", "ISOLATION", "MEMORY", "INTERPRETERS", "CHECKED"]
    screen.print_table(columns, rows, right=["JOBS", "MEMORY"])
    for worker in workers:
        if worker.identity != "proven":
            screen.print_line(
                f"{worker.worker_id[:12]}…: unproven: anybody can claim its name, and read on the way what it is sent"
            )
        if lent := _lent(worker):
            screen.print_line(f"{worker.worker_id[:12]}…: {lent}")
        if worker.words:
            screen.print_line(f"{worker.worker_id[:12]}…: {worker.words}")


def _lent(worker: WorkerAnswer) -> str:
    """Say which GPUs and binds a worker lends."""
    kinds = Counter((gpu.name or "gpu", gpu.memory_mb) for gpu in worker.capacity.gpus or ())
    words = [f"{n} x {name}" + (f" ({mb} MB)" if mb else "") for (name, mb), n in sorted(kinds.items())]
    if worker.capacity.binds:
        words.append("binds " + ", ".join(worker.capacity.binds))
    return "; ".join(words)


def _row(worker: WorkerAnswer) -> list[str]:
    capacity = worker.capacity
    duty = "drained" if worker.drained else str(worker.duty)
    health = str(worker.health) if worker.duty is Duty.ACTIVE else f"{worker.health}, {duty}"
    return [
        f"{worker.worker_id[:12]}…" + ("" if worker.identity == "proven" else " (unproven)"),
        worker.endpoint,
        health,
        f"{worker.active_jobs}/{worker.max_concurrent_jobs}",
        "?" if capacity.isolation is None else str(capacity.isolation),
        "?" if capacity.memory_mb is None else screen.size(capacity.memory_mb * 1024 * 1024),
        "?" if capacity.interpreters is None else " ".join(sorted(capacity.interpreters)),
        screen.moment(worker.last_health_check),
    ]
