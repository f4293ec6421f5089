"""`tpool pause` and `tpool resume`."""

from trusted_pool.cli import options, screen
from trusted_pool.cli.session import connect


def pause(*, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """Dispatch nothing until it is resumed; what runs goes on. Kept over restarts."""
    _set(addr, paused=True, as_json=as_json)


def resume(*, addr: options.Addr = None, as_json: options.AsJson = False) -> None:
    """Dispatch again."""
    _set(addr, paused=False, as_json=as_json)


def _set(addr: str | None, *, paused: bool, as_json: bool) -> None:
    with connect(addr) as pool:
        answer = pool.pause(paused=paused)
    if as_json:
        screen.print_json(paused=answer.paused)
    else:
        screen.print_line("the pool is paused; go on with: tpool resume" if answer.paused else "the pool dispatches")
