"""`tpool audit`: what was done with the pool, by whom, and the proof that nothing of it was changed."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from trusted_pool.cli import options, screen
from trusted_pool.cli.session import connect
from trusted_pool.protocol.audit import AuditEntry, AuditError, Head, Verified, decode, verify_export

FAILED = 1


def audit(
    *,
    after: Annotated[int, typer.Option("--after", min=0, help="Begin behind the entry of this number.")] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Entries at most.")] = 100,
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> None:
    """List who did what, oldest first."""
    with connect(addr) as pool:
        answer = pool.audit(after=after, limit=limit)
    if as_json:
        screen.print_json(entries=answer.entries, head=answer.head)
        return
    screen.print_table(
        ("NO", "WHEN", "WHO", "KEY", "WHAT", "TO"), [_row(entry) for entry in answer.entries], right=("NO",)
    )
    if answer.entries and answer.entries[-1].seq < answer.head.seq:
        screen.note(f"more: tpool audit list --after {answer.entries[-1].seq}")


def _row(entry: AuditEntry) -> tuple[str, ...]:
    facts = " ".join(
        f"{name}={value}" for name, value in entry.data.items() if name != "signature" and value is not None
    )
    what = f"{entry.action} {facts}".strip()
    return str(entry.seq), screen.moment(entry.at), entry.actor or "-", entry.key_id or "-", what, entry.subject or "-"


def export(
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to; stdout if not said.", show_default=False),
    ] = None,
    addr: options.Addr = None,
) -> None:
    """Write the whole trail, one JSON object a line, its signed head last. Check it: tpool audit verify FILE."""
    with connect(addr) as pool:
        if output is None:
            for piece in pool.export_audit():
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
        new = output.with_name(output.name + ".part")
        with new.open("wb") as file:
            for piece in pool.export_audit():
                file.write(piece)
    new.replace(output)
    screen.note(f"saved {output}; check it: tpool audit verify {output}")


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An export.", show_default=False)],
    *,
    pool_id: Annotated[
        str | None,
        typer.Option(
            "--pool-id", metavar="ID", help="Whose trail it must be: tpool coordinator --show-id.", show_default=False
        ),
    ] = None,
    older: Annotated[
        Path | None,
        typer.Option("--contains", metavar="FILE", help="An earlier export, which it must hold.", show_default=False),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Check an export without asking anybody: nothing was changed, removed or put elsewhere, and the pool signed it."""
    try:
        before = None if older is None else _head_of(older)
        with file.open("rb") as lines:
            found = verify_export(lines, pool_id, before)
    except AuditError as error:
        if as_json:
            screen.print_json(verified=False, message=str(error))
        screen.note(f"tpool audit verify: {file}: {error}")
        raise typer.Exit(FAILED) from None
    _say(found, pool_id, as_json=as_json)


def _head_of(file: Path) -> Head:
    """Return the head of an earlier export. Raises AuditError, OSError."""
    last = file.read_bytes().rstrip().rsplit(b"\n", 1)[-1]
    line = decode(last, 0)
    if not isinstance(line, Head):
        raise AuditError(f"{file} has no signed head at its end")
    return line


def _say(found: Verified, pool_id: str | None, *, as_json: bool) -> None:
    if as_json:
        screen.print_json(verified=True, **msgspec.to_builtins(found))
        return
    what = f"{found.entries} entries since {screen.moment(found.first_at)}"
    signed = f"{screen.plural(found.checkpoints, 'checkpoint')}, signed at {screen.moment(found.head.at)}"
    screen.print_line(f"whole: {what}, {signed} by {found.pool_id}")
    if pool_id is None:
        screen.note(
            "whether that is your pool only you can say: compare it with tpool coordinator --show-id, or give --pool-id"
        )
