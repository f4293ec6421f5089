"""`tpool keys`: who may use the pool."""

from pathlib import Path
from typing import Annotated

import typer

from trusted_pool.cli import options, screen
from trusted_pool.cli.session import connect
from trusted_pool.core.access import BY_CONSOLE, KeyWish, Role, Scope
from trusted_pool.protocol.answers import KeyAnswer, NewKeyAnswer
from trusted_pool.protocol.manifest import duration_s

INFRASTRUCTURE = 125

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Without a running coordinator: in its data directory, for the first key or when all are lost.",
        show_default=False,
    ),
]


def create(
    *,
    owner: Annotated[str, typer.Option("--owner", help="Whose jobs are submitted with it.", show_default=False)],
    role: Annotated[Role, typer.Option("--role", help="What it may do.", case_sensitive=False)] = Role.SUBMITTER,
    scope: Annotated[
        Scope | None,
        typer.Option(
            "--scope",
            help="To whose jobs; own for viewers and submitters, else all.",
            case_sensitive=False,
            show_default=False,
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What it is for.", show_default=False)] = "",
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="DURATION", help="When it ends: 30d. Never if not said.", show_default=False),
    ] = None,
    data: Data = None,
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> None:
    """Make an API key and print it, this once. From the first one on, the pool asks everybody for a key."""
    if data is not None:
        expires_in_s = None if expires is None else duration_s(expires, "--expires")
        made = _create_in(data, KeyWish(owner=owner, role=role, scope=scope, name=name, expires_in_s=expires_in_s))
    else:
        with connect(addr) as pool:
            made = pool.create_key(owner, role, scope=scope, name=name, expires_in=expires)
    if as_json:
        screen.print_json(token=made.token, key=made.key)
        return
    key = made.key
    until = f"until {screen.moment(key.expires_at)}" if key.expires_at else "without an end"
    screen.note(f"{key.key_id}: a key of {key.owner}, {key.role}, for {_WHOSE[key.scope]}, {until}.")
    screen.note("It is shown this once; keep it like a password. To use it: tpool login, or TRUSTED_POOL_TOKEN=…")
    screen.print_line(made.token)


_WHOSE = {Scope.OWN: "own jobs", Scope.ALL: "everybody's jobs"}


def _create_in(data: Path, wish: KeyWish) -> NewKeyAnswer:
    from trusted_pool.compose.keys import with_keys  # noqa: PLC0415 - heavy, and needed without a coordinator only
    from trusted_pool.compose.system import StartError  # noqa: PLC0415 - the same
    from trusted_pool.coordinator.keys import Keys  # noqa: PLC0415 - the same

    async def make(keys: Keys) -> NewKeyAnswer:
        return await keys.create(BY_CONSOLE, wish)

    try:
        return with_keys(data, make)
    except StartError as error:
        screen.note(f"tpool keys create: {error}")
        raise typer.Exit(INFRASTRUCTURE) from None


def keys(*, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """List the API keys. No list ever shows a key itself."""
    with connect(addr) as pool:
        answer = pool.keys()
    if as_json:
        screen.print_json(keys=answer.keys)
        return
    if not answer.keys:
        screen.print_line("no keys: whoever reaches the pool may use it")
        screen.note("make one: tpool keys create --owner YOU --role admin")
        return
    screen.print_table(
        ("KEY", "OWNER", "ROLE", "SCOPE", "STATE", "ENDS", "LAST USED", "NAME"),
        [
            (
                key.key_id,
                key.owner,
                key.role,
                key.scope,
                key.state,
                screen.moment(key.expires_at),
                screen.moment(key.last_used_at),
                key.name,
            )
            for key in answer.keys
        ],
    )


def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its id, as `tpool keys` lists it.", show_default=False)],
    *,
    addr: options.Addr = None,
    as_json: options.AsJson = False,
) -> None:
    """Let a key open nothing any more, from this moment."""
    with connect(addr) as pool:
        answer: KeyAnswer = pool.revoke_key(key)
    if as_json:
        screen.print_json(key=answer)
    else:
        screen.print_line(f"{answer.key_id} of {answer.owner} is revoked")
