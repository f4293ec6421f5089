"""What `tpool` shows: tables and bars on a terminal, plain lines elsewhere, JSON when asked."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from trusted_pool.cli.escape import one_line
from trusted_pool.protocol import sizes

#: Of all machine output. It grows when a field changes its meaning or goes; new fields do not count.
JSON_VERSION = 1


def print_json(**fields: Any) -> None:
    """Print one line of JSON: the version, then the fields."""
    sys.stdout.write(msgspec.json.encode({"version": JSON_VERSION, **fields}).decode() + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Say something to the person; never part of the output."""
    sys.stderr.write(one_line(text) + "\n")
    sys.stderr.flush()


def print_line(text: str) -> None:
    """Print one line of output."""
    sys.stdout.write(one_line(text) + "\n")


def coloured() -> bool:
    """Whether colours are wanted."""
    return not os.environ.get("NO_COLOR")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a table: with rich on a terminal, else columns with two spaces between, a header first."""
    safe = [[one_line(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415 - 40 ms that only a terminal pays
        from rich.table import Table  # noqa: PLC0415 - the same
        from rich.text import Text  # noqa: PLC0415 - the same

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, justify="right" if column in right else "left", overflow="fold")
        for row in safe:
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
        Console(no_color=not coloured(), highlight=False).print(table)
        return
    widths = [max([len(column), *(len(row[n]) for row in safe)]) for n, column in enumerate(columns)]
    for row in [list(columns), *safe]:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


_STYLES = {
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "dispatched": "cyan",
    "healthy": "green",
    "suspect": "yellow",
    "lost": "red",
}


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr when that is a terminal. The yielded function takes the bytes done so far."""
    if not sys.stderr.isatty() or total <= 0:
        yield lambda _done: None
        return
    from rich.console import Console  # noqa: PLC0415 - 40 ms that only a terminal pays
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True, no_color=not coloured()), transient=True) as progress:
        task = progress.add_task(one_line(what), total=total)
        yield lambda done: progress.update(task, completed=done)


def size(n: float) -> str:
    """Write a number of bytes for people: 0 B, 4.1 kB, 52 MB."""
    return sizes.say(n)


def moment(at: float | None) -> str:
    """Write a time for people, in the machine's zone."""
    return "-" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def span(seconds: float) -> str:
    """Write a duration for people: 0.24 s, 75.0 s, 12 min."""
    if seconds < 10:  # noqa: PLR2004 - below, hundredths matter
        return f"{seconds:.2f} s"
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 60:.0f} min"  # noqa: PLR2004 - ten minutes


def plural(n: int, noun: str) -> str:
    """Write a count: 1 file, 3 files."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
