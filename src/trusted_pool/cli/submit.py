"""`tpool submit`."""

from typing import Annotated

import typer

from trusted_pool.cli import options, screen, state
from trusted_pool.cli.explain import verdict_lines
from trusted_pool.cli.sending import Sending, Wish, prepared
from trusted_pool.cli.session import connect, new_key
from trusted_pool.client.sync import PoolClient
from trusted_pool.protocol.answers import DryRunAnswer

_REFUSED = 3


def submit(
    source: options.Source,
    args: options.Args = None,
    *,
    manifest: options.ManifestOption = None,
    fields: options.Fields = None,
    env: options.Env = None,
    name: options.Name = None,
    timeout: options.Timeout = None,
    memory: options.Memory = None,
    interpreter: options.Interpreter = None,
    entrypoint: options.Entrypoint = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would become of it.")] = False,
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> int:
    """Submit a project and print its job id.

    A directory is packed, without what .gitignore and .tpoolignore name; a job.json in it is its manifest. Options win
    over the manifest.
    """
    wish = Wish(
        source=source,
        args=args,
        manifest=manifest,
        fields=fields or [],
        env=env or [],
        name=name,
        timeout=timeout,
        memory=memory,
        interpreter=interpreter,
        entrypoint=entrypoint,
    )
    with connect(addr) as pool, prepared(wish) as sending:
        if dry_run:
            return _say(pool.try_submit(sending.uploads, sending.manifest), as_json=as_json)
        job_id = send(pool, sending)
    if as_json:
        screen.print_json(job_id=job_id, status="queued")
    else:
        screen.print_line(job_id)
    return 0


def _say(answer: DryRunAnswer, *, as_json: bool) -> int:
    """Print the verdict; 3 when it would be refused."""
    if as_json:
        screen.print_json(dry_run=answer)
    else:
        screen.print_line(f"{answer.verdict.replace('_', ' ')}: {answer.message}")
        for line in verdict_lines(answer.workers):
            screen.print_line(f"  {line}")
    return 0 if answer.admitted else _REFUSED


def send(pool: PoolClient, sending: Sending) -> str:
    """Send it with a bar, remember it as `last`, and return the job's id."""
    with screen.bar(f"sending {sending.words}", sum(u.size for u in sending.uploads)) as done:
        answer = pool.submit(
            sending.uploads,
            sending.manifest,
            idempotency_key=new_key(),
            on_progress=lambda sent, _total: done(sent),
        )
    trouble = state.remember(pool.settings.address, answer.job_id)
    if trouble is not None:
        screen.note(trouble)
    return answer.job_id
