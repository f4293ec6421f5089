"""`tpool cancel`."""

from trusted_pool.cli import options, screen
from trusted_pool.cli.session import connect, find_job
from trusted_pool.core.words import JOB_FINAL


def cancel(job: options.Job, *, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """Cancel a job. A running program gets SIGTERM, and SIGKILL 10 s later."""
    with connect(addr) as pool:
        answer = pool.cancel(find_job(pool, job))
    if as_json:
        screen.print_json(job_id=answer.job_id, status=answer.status, cancelled=answer.cancelled)
    elif answer.cancelled:
        screen.print_line(f"{answer.job_id}: cancelled")
    elif answer.status in JOB_FINAL:
        screen.print_line(f"{answer.job_id}: has ended before ({answer.status})")
    else:
        screen.print_line(f"{answer.job_id}: its program is being ended now")
