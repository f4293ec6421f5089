"""`tpool restore`: make a data directory from a backup."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from trusted_pool.cli.backup import counts, progress
from trusted_pool.cli.coordinator import INFRASTRUCTURE
from trusted_pool.cli.options import AsJson
from trusted_pool.cli.screen import moment, note, plural, print_json, print_line, size


def restore(
    source: Annotated[Path, typer.Argument(metavar="DIR|FILE.tar", help="The backup.", show_default=False)],
    data: Annotated[Path, typer.Option(help="The new data directory; must be empty or missing.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Check a backup byte for byte and make a data directory from it.

    Stop the old coordinator for good first: two with one key would both give work to the same workers.
    """
    from trusted_pool.compose.backup import BackupError  # noqa: PLC0415 - heavy, and not needed for --help
    from trusted_pool.compose.backup import restore as put_back  # noqa: PLC0415

    try:
        with ExitStack() as stack:
            made = put_back(source, data, progress(stack))
    except BackupError as error:
        note(f"tpool restore: {error}")
        raise typer.Exit(INFRASTRUCTURE) from None
    if as_json:
        print_json(backup=made, path=str(data))
        return
    print_line(f"Restored {counts(made.jobs)} and {plural(made.blobs, 'file')} ({size(made.blob_bytes)}) to {data},")
    print_line(
        f"as they were at {moment(made.made_at)}. Everything was checked. Start: tpool coordinator --data {data}"
    )
