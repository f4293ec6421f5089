"""`tpool whoami`."""

from trusted_pool.cli import options, screen
from trusted_pool.cli.session import settings
from trusted_pool.client.errors import ClientError
from trusted_pool.client.settings import Settings
from trusted_pool.client.sync import PoolClient
from trusted_pool.core.access import Scope
from trusted_pool.protocol.answers import WhoAnswer

_NOT_FOUND = 404
_WHOSE = {Scope.OWN: "own jobs", Scope.ALL: "everybody's jobs"}


def whoami(*, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """Say whom the pool takes you for, and what you may do there."""
    target = settings(addr)
    answer = ask(target)
    if as_json:
        screen.print_json(whoami=answer, pool=target.address)
        return
    screen.print_line(f"{answer.owner}: {what_it_may(answer)}")
    screen.print_line(f"pool       {target.address}")
    screen.print_line(f"key        {answer.key_id or 'none was needed'}")


def ask(target: Settings) -> WhoAnswer:
    """Ask the pool who the bearer of the key is. Raises ClientError."""
    with PoolClient(target) as pool:
        try:
            return pool.whoami()
        except ClientError as error:
            if error.status != _NOT_FOUND:
                raise
            raise ClientError(
                f"the pool at {target.address} does not know whoami: it is older than API keys",
                code="no_whoami",
                hint="it needs no key; say where it is by TRUSTED_POOL_ADDR",
            ) from error


def what_it_may(answer: WhoAnswer) -> str:
    """Write what a key may do and until when."""
    until = f", until {screen.moment(answer.expires_at)}" if answer.expires_at else ""
    return f"{answer.role}, {_WHOSE[answer.scope]}{until}"
