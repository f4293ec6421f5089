"""`tpool backup`: copy all that a coordinator keeps, while it serves."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from trusted_pool.cli.coordinator import INFRASTRUCTURE, default_data
from trusted_pool.cli.options import AsJson
from trusted_pool.cli.screen import bar, note, plural, print_json, print_line, size


def progress(stack: ExitStack) -> Callable[[str, int, int], None]:
    """Return what shows progress: a bar for each kind of thing, on a terminal."""
    bars: dict[str, Callable[[int], None]] = {}

    def told(what: str, done: int, total: int) -> None:
        if what not in bars:
            bars[what] = stack.enter_context(bar(what, total))
        bars[what](done)

    return told


def counts(jobs: dict[str, int]) -> str:
    """Write counts of jobs by state."""
    some = ", ".join(f"{n} {state}" for state, n in jobs.items() if n)
    return f"{plural(sum(jobs.values()), 'job')} ({some or 'none'})"


def backup(
    target: Annotated[Path, typer.Argument(metavar="DIR|FILE.tar", help="The backup to make.", show_default=False)],
    data: Annotated[Path | None, typer.Option(help="The coordinator's data directory.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Copy database, files and key of a coordinator, which may be running, as they are at one moment.

    The backup holds the pool's private key: who can read it can act as this pool. It is readable by you alone.
    """
    from trusted_pool.compose.backup import BackupError, back_up  # noqa: PLC0415 - heavy, and not needed for --help

    try:
        with ExitStack() as stack:
            made = back_up(data or default_data(), target, progress(stack))
    except BackupError as error:
        note(f"tpool backup: {error}")
        raise typer.Exit(INFRASTRUCTURE) from None
    if as_json:
        print_json(backup=made, path=str(target))
        return
    print_line(f"Saved {counts(made.jobs)} and {plural(made.blobs, 'file')} ({size(made.blob_bytes)}) to {target}")
    note("It holds the pool's private key: keep it where only you can read it.")
