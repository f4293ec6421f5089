"""`tpool outputs`."""

from trusted_pool.cli import options, screen
from trusted_pool.cli.session import connect, find_job


def outputs(job: options.Job = "last", *, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """List the files that a job left."""
    with connect(addr) as pool:
        answer = pool.outputs(find_job(pool, job))
    if as_json:
        screen.print_json(job_id=answer.job_id, files=answer.files)
        return
    if not answer.files:
        screen.note(f"{answer.job_id} has no outputs")
        return
    rows = [[f.path, screen.size(f.size), f.type, f.sha256[:16]] for f in answer.files]
    screen.print_table(["PATH", "SIZE", "TYPE", "SHA256"], rows, right=["SIZE"])
