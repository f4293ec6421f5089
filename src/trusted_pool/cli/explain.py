"""`tpool explain`."""

from trusted_pool.cli import options, screen
from trusted_pool.cli.session import connect, find_job
from trusted_pool.protocol.answers import FailureRecord, WorkerVerdict


def explain(job: options.Job = "last", *, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """Say why a job is where it is: for each worker why not, or what failed and whose fault it was."""
    with connect(addr) as pool:
        answer = pool.explain(find_job(pool, job))
    if as_json:
        screen.print_json(explain=answer)
        return
    screen.print_line(f"{answer.job_id}: {answer.state}; {answer.message}")
    for line in [*verdict_lines(answer.workers), *(_failure_lines(answer.failure) if answer.failure else [])]:
        screen.print_line(f"  {line}")
    if answer.hint:
        screen.print_line(f"next: {answer.hint}")


def verdict_lines(workers: list[WorkerVerdict]) -> list[str]:
    """Write for each worker why not."""
    lines = []
    for worker in workers:
        impossible = [o.message for o in worker.obstacles if o.impossible]
        now = [o.message for o in worker.obstacles if not o.impossible]
        words = "could take it now"
        if impossible:
            words = f"impossible here: {'; '.join(impossible)}"
        elif now:
            words = f"no capacity now: {'; '.join(now)}"
        lines.append(f"{worker.worker_id[:12]}… {worker.endpoint}  {words}")
    return lines


def _failure_lines(failure: FailureRecord) -> list[str]:
    again = "running it again may help" if failure.retryable else "running it again as it is will not help"
    lines = [f"reason: {failure.reason}, fault: {failure.fault}; {again}"]
    if failure.limit:
        lines.append(f"limit: {failure.limit}")
    lines += [f"{name}: {value}" for name, value in failure.evidence.items()]
    lines += [f"worker's words: {words}" for words in failure.words]
    if failure.worker_last_answer_at is not None:
        lines.append(f"its worker last answered {screen.moment(failure.worker_last_answer_at)}")
    return lines
