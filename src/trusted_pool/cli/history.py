"""`tpool history`."""

import json

from trusted_pool.cli import options, screen
from trusted_pool.cli.session import connect, find_job

_SHOWN = 160


def history(job: options.Job = "last", *, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """Tell the whole story of a job, oldest first."""
    with connect(addr) as pool:
        answer = pool.history(find_job(pool, job))
    if as_json:
        screen.print_json(job_id=answer.job_id, events=answer.events)
        return
    rows = []
    for event in answer.events:
        facts = ", ".join(
            f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in event.data.items() if v not in ("", {})
        )
        short = facts if len(facts) <= _SHOWN else facts[: _SHOWN - 1] + "…"
        rows.append([screen.moment(event.at), event.kind, str(event.attempt or "-"), short])
    screen.print_table(["WHEN", "WHAT", "ATTEMPT", "FACTS"], rows, right=["ATTEMPT"])
