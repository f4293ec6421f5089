"""`tpool login` and `tpool logout`: an API key kept for a pool."""

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from trusted_pool.cli import options, screen
from trusted_pool.cli.session import settings
from trusted_pool.cli.whoami import ask, what_it_may
from trusted_pool.client import credentials
from trusted_pool.client.address import parse
from trusted_pool.client.errors import ClientError
from trusted_pool.client.settings import usable_token
from trusted_pool.client.tls import check_token

#: More than any key has; a file that is piped in by mistake is not read whole.
_MAX_KEY = 4096


def login(
    *,
    addr: options.Addr = None,
    token_stdin: Annotated[bool, typer.Option("--token-stdin", help="Read the API key from stdin.")] = False,
    cacert: Annotated[
        Path | None,
        typer.Option(
            "--cacert",
            envvar="TRUSTED_POOL_CACERT",
            metavar="FILE",
            help="PEM file of the authority that signed the pool's certificate.",
            show_default=False,
        ),
    ] = None,
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Let the key go over plain HTTP to another machine.")
    ] = False,
) -> None:
    """Keep an API key for a pool, once the pool has taken it; that pool is then meant when none is named."""
    said = settings(addr)
    target = msgspec.structs.replace(
        said,
        token="?",  # noqa: S106 - stands for a key: whether one may be sent there is known before it is typed
        cacert="" if cacert is None else str(cacert.expanduser().absolute()),
        insecure_http=insecure_http or said.insecure_http,
    )
    check_token(target)
    target = msgspec.structs.replace(target, token=usable_token(_read_key(target.address, piped=token_stdin)))
    answer = ask(target)
    kept = credentials.Login(token=target.token, cacert=target.cacert, insecure_http=target.insecure_http)
    path = credentials.keep(os.environ, target.address, kept)
    screen.print_line(f"logged in to {target.address} as {answer.owner}: {what_it_may(answer)}")
    screen.note(f"the key is kept in {path}; forget it: tpool logout")
    for name, wins in (("TRUSTED_POOL_TOKEN", "the key"), ("TRUSTED_POOL_ADDR", "the address")):
        if os.environ.get(name):
            screen.note(f"{name} is set and wins over {wins} that is kept; unset it to use this login")


def _read_key(address: str, *, piped: bool) -> str:
    if piped or not sys.stdin.isatty():
        return sys.stdin.readline(_MAX_KEY).strip()
    from getpass import getpass  # noqa: PLC0415 - for a terminal only

    try:
        return getpass(f"API key for {address}: ").strip()
    except EOFError:
        return ""


def logout(
    *,
    addr: options.Addr = None,
    everywhere: Annotated[bool, typer.Option("--all", help="Forget the keys of all pools.")] = False,
) -> None:
    """Forget the API key that is kept for a pool. The key itself stays good: `tpool keys revoke` ends it."""
    address = "" if everywhere else _meant(addr)
    gone = credentials.forget(os.environ, *([address] if address else []))
    for each in gone:
        screen.print_line(f"logged out of {each}; the key itself stays good until it is revoked")
    if not gone:
        screen.print_line(f"no key is kept for {address or 'any pool'}")


def _meant(addr: str | None) -> str:
    address = addr or os.environ.get("TRUSTED_POOL_ADDR") or credentials.load(os.environ).default
    if not address:
        raise ClientError("no pool is named, and none is kept", code="usage", hint="name it: tpool logout --addr URL")
    return parse(address).text
