"""`tpool keygen`: make a worker's key."""

from pathlib import Path
from typing import Annotated

import typer

USAGE = 2
INFRASTRUCTURE = 125


def generate(path: Path, prog: str) -> None:
    """Make a key file and say whose id it is. Raises typer.Exit."""
    from trusted_pool.protocol.identity import create_key_file, identity_of  # noqa: PLC0415 - not needed for --help

    try:
        key = create_key_file(path)
    except FileExistsError:
        hint = "a key is never overwritten: choose another path, or move that file away"
        typer.echo(f"{prog}: {path} exists already; {hint}", err=True)
        raise typer.Exit(USAGE) from None
    except OSError as error:
        typer.echo(f"{prog}: {path} cannot be written: {error.strerror}; choose another path", err=True)
        raise typer.Exit(INFRASTRUCTURE) from None
    typer.echo(f"✅ Saved worker key to: {path}")
    typer.echo(f"   Worker ID: {identity_of(key)}")


def keygen(path: Annotated[Path, typer.Argument(metavar="PATH", help="The new file.", show_default=False)]) -> None:
    """Make a worker's key; the id that it prints goes into the pool's workers.json."""
    generate(path, "tpool keygen")
