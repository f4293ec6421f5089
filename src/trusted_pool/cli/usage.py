"""`tpool usage` and `tpool limits`: what owners have of the pool, and may have."""

from typing import Annotated

import typer

from trusted_pool.cli import options, screen
from trusted_pool.cli.session import connect
from trusted_pool.client.errors import ClientError
from trusted_pool.core.limits import Limits, LimitsChange
from trusted_pool.protocol import limits as written
from trusted_pool.protocol.answers import UsageAnswer

_COLUMNS = ("OWNER", "QUEUED", "RUNNING", "BYTES", "SUBMITS A MINUTE", "TRANSFERS", "WAITS")


def usage(
    owner: Annotated[
        str | None, typer.Argument(metavar="[OWNER]", help="Whose; yours if not said.", show_default=False)
    ] = None,
    *,
    everybody: Annotated[bool, typer.Option("--all", help="Of all owners.")] = False,
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what you have of the pool, and may have."""
    with connect(addr) as pool:
        answer = pool.usage(owner, everybody=everybody)
    if as_json:
        screen.print_json(owners=answer.owners)
        return
    screen.print_table(_COLUMNS, [_row(one) for one in answer.owners], right=_COLUMNS[1:])


def _row(one: UsageAnswer) -> list[str]:
    limits = one.limits
    kept = screen.size(one.bytes + one.staged_bytes)
    left = "" if one.submits_left is None else f" ({one.submits_left} now)"
    return [
        one.owner,
        _of(one.queued, limits.queued),
        _of(one.running, limits.running),
        kept if not limits.bytes else f"{kept} of {screen.size(limits.bytes)}",
        f"{written.say('submits_per_minute', limits.submits_per_minute)}{left}",
        _of(one.transfers, limits.transfers),
        _of(one.waits, limits.waits),
    ]


def _of(has: int, limit: int) -> str:
    return f"{has} of {limit}" if limit else f"{has}"


def show(*, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """List the usual limits, and those of single owners."""
    with connect(addr) as pool:
        answer = pool.limits()
    if as_json:
        screen.print_json(usual=answer.usual, owners=answer.owners)
        return
    rows = [["(everybody)", *_written(answer.usual)]]
    rows += [[owner, *_written(change)] for owner, change in sorted(answer.owners.items())]
    screen.print_table(("OWNER", *(name.upper() for name in written.NAMES)), rows)


def _written(limits: Limits | LimitsChange) -> list[str]:
    values = ((field, getattr(limits, field)) for field in written.NAMES.values())
    return ["-" if value is None else written.say(field, value) for field, value in values]


def set_limits(
    owner: Annotated[str, typer.Argument(metavar="OWNER", help="Whose.", show_default=False)],
    said: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE…", help=f"{', '.join(written.NAMES)}; `none`, `usual`.", show_default=False),
    ],
    *,
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> None:
    """Set what one owner may have, from now on: tpool limits set ada queued=500 bytes=20GB running=usual."""
    values: dict[str, int | None] = {}
    try:
        for text in said:
            field, value = written.split(text)
            values[field] = None if value == written.USUAL else written.amount(field, value)
    except written.BadLimitError as error:
        raise ClientError(str(error), code="usage", hint="see them: tpool limits") from None
    with connect(addr) as pool:
        answer = pool.set_limits(owner, values)
    if as_json:
        screen.print_json(usage=answer)
    else:
        screen.print_table(_COLUMNS, [_row(answer)], right=_COLUMNS[1:])
