"""`tpool download`."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from trusted_pool.cli import options, screen
from trusted_pool.cli.session import connect, find_job
from trusted_pool.client.errors import ClientError
from trusted_pool.client.fetch import Fetched
from trusted_pool.client.sync import PoolClient

#: Where files go when nobody says: a directory that is never packed.
OUTPUTS = Path("tpool-outputs")


def download(
    job: options.Job = "last",
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH]…", help="Only these outputs.", show_default=False)
    ] = None,
    *,
    output: options.Output = None,
    archive: Annotated[
        Path | None,
        typer.Option("--archive", metavar="FILE", help="Fetch all as one .tar.gz.", show_default=False),
    ] = None,
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> None:
    """Fetch the files that a job left, each checked by its sha256. `-o -` writes one file to stdout."""
    with connect(addr) as pool:
        job_id = find_job(pool, job)
        if archive is not None:
            size = pool.download_archive(job_id, archive)
            if as_json:
                screen.print_json(job_id=job_id, archive=str(archive), size=size)
            else:
                screen.print_line(f"{archive}  {screen.size(size)}")
            return
        if output is not None and str(output) == "-":
            _to_stdout(pool, job_id, paths or [])
            return
        fetched = fetch(pool, job_id, output, paths=paths or None)
    if as_json:
        files = [{"path": f.path, "file": str(f.file), "size": f.size, "sha256": f.sha256} for f in fetched]
        screen.print_json(job_id=job_id, files=files)
    elif not fetched:
        screen.note(f"{job_id} has no outputs")
    for file in fetched if not as_json else ():
        screen.print_line(f"{file.file}  {screen.size(file.size)}")


def fetch(pool: PoolClient, job_id: str, output: Path | None, *, paths: Sequence[str] | None) -> list[Fetched]:
    """Fetch outputs with a bar."""
    into = output or OUTPUTS / job_id
    wanted = pool.outputs(job_id).files
    total = sum(f.size for f in wanted if paths is None or f.path in paths)
    done = 0
    with screen.bar("fetching", total) as show:

        def arrived(n: int) -> None:
            nonlocal done
            done += n
            show(done)

        return pool.download(job_id, into, paths=paths, on_bytes=arrived)


def _to_stdout(pool: PoolClient, job_id: str, paths: Sequence[str]) -> None:
    if len(paths) != 1:
        raise ClientError("-o - takes one output", code="usage", hint="type: tpool download JOB PATH -o -")
    # By a file, so that not a byte is passed on before all of them are checked.
    with tempfile.TemporaryDirectory() as directory:
        (fetched,) = pool.download(job_id, Path(directory), paths=paths)
        with fetched.file.open("rb") as file:
            while piece := file.read(1024 * 1024):
                sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
