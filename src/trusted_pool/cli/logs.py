"""`tpool logs`."""

from typing import Annotated

import typer

from trusted_pool.cli import options, screen
from trusted_pool.cli.logview import LogView
from trusted_pool.cli.session import connect, find_job
from trusted_pool.client.sync import PoolClient
from trusted_pool.protocol.answers import EndEvent


def logs(
    job: options.Job = "last",
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    only: Annotated[str | None, typer.Option("--stream", metavar="stdout|stderr", help="Only this stream.")] = None,
    raw: options.Raw = False,
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> None:
    """Print what a job has printed: its stdout to stdout, its stderr to stderr.

    Byte for byte where the output is no terminal; on a terminal control sequences other than colours are made visible.
    With -f it is text: bytes that are no UTF-8 come as U+FFFD. With -f --json: one JSON object a line.
    """
    if only not in (None, "stdout", "stderr"):
        raise typer.BadParameter(f"--stream is stdout or stderr, not {only!r}")
    with connect(addr) as pool:
        job_id = find_job(pool, job)
        if follow:
            _follow(pool, job_id, only, raw=raw, as_json=as_json)
        elif as_json:
            screen.print_json(logs=pool.logs(job_id))
        else:
            view = LogView(raw=raw)
            for name in (only,) if only else ("stdout", "stderr"):
                for data in pool.raw_log(job_id, name):
                    view.raw_bytes(name, data)
            view.end()


def _follow(pool: PoolClient, job_id: str, only: str | None, *, raw: bool, as_json: bool) -> None:
    view = LogView(raw=raw)
    try:
        for piece in pool.follow(job_id):
            if isinstance(piece, EndEvent):
                if as_json:
                    screen.print_json(event="end", state=piece.state, reason=piece.reason, detail=piece.detail)
                continue
            if only not in (None, piece.stream):
                continue
            if as_json:
                screen.print_json(event=piece.stream, at=piece.at, text=piece.text, offset=piece.offset)
            else:
                view.show(piece)
    finally:
        view.end()
