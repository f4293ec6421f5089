"""`tpool submit`."""

from trusted_pool.cli import options, screen, state
from trusted_pool.cli.sending import Sending, Wish, prepared
from trusted_pool.cli.session import connect, new_key
from trusted_pool.client.sync import PoolClient


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
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> None:
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
        job_id = send(pool, sending)
    if as_json:
        screen.print_json(job_id=job_id, status="queued")
    else:
        screen.print_line(job_id)


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
