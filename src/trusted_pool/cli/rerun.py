"""`tpool rerun`."""

from trusted_pool.cli import options, screen, state
from trusted_pool.cli.session import connect, find_job


def rerun(job: options.Job = "last", *, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """Submit a job's files and manifest again, as a new job."""
    with connect(addr) as pool:
        answer = pool.rerun(find_job(pool, job))
        trouble = state.remember(pool.settings.address, answer.job_id)
    if as_json:
        screen.print_json(job_id=answer.job_id, status=answer.status)
    else:
        screen.print_line(answer.job_id)
    if trouble is not None:
        screen.note(trouble)
