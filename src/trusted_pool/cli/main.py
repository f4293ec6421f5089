"""The `tpool` command: find the verb, run it, turn every end into an exit code and every error into one line."""

import difflib
import os
import sys
from collections.abc import Sequence

from trusted_pool import __version__
from trusted_pool.cli.verbs import ALL, GROUPS, Verb, load, top_help

_USAGE = 2
_INFRASTRUCTURE = 125
_INTERRUPTED = 130
_ABOUT = ("--help", "-h", "--version", "-V")


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run a command line and return its exit code. Never raises for what a user, a pool or a network can do."""
    try:
        code = _dispatch(list(argv))
        sys.stdout.flush()  # here, where a reader that went away is expected; at exit Python would complain
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `head` does. What is left of it goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _dispatch(argv: list[str]) -> int:
    group = ""
    verbs: dict[str, Verb] = ALL
    if argv and argv[0] in GROUPS:
        group, verbs, argv = f"{argv[0]} ", GROUPS[argv[0]], argv[1:]
        if "list" in verbs and (not argv or (argv[0].startswith("-") and argv[0] not in _ABOUT)):
            argv = ["list", *argv]
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    if not argv or argv[0] in ("--help", "-h"):
        print(top_help())  # noqa: T201 - what was asked for
        return 0 if argv else _USAGE
    if argv[0] in ("--version", "-V"):
        print(f"tpool {__version__}")  # noqa: T201 - what was asked for
        return 0
    name, rest = argv[0], argv[1:]
    verb = verbs.get(name.lower())
    if verb is None:
        return _complain(f"tpool {group}".strip(), _no_such_verb(name, group, verbs))
    return _run_verb(f"tpool {group}{name.lower()}", verb, rest)


def _no_such_verb(name: str, group: str, verbs: dict[str, Verb]) -> str:
    near = difflib.get_close_matches(name.lower(), verbs, 1)
    if name.startswith("-"):
        return f"options come after the verb; type: tpool {group}VERB {name!a} …, or: tpool --help"
    if near:
        return f"no verb {name!a}; did you mean: tpool {group}{near[0]}"
    return f"no verb {name!a}; type: tpool --help"


def _run_verb(prog: str, verb: Verb, args: list[str]) -> int:
    import typer  # noqa: PLC0415 - only a verb needs it; the help of `tpool` starts without

    from trusted_pool.cli.failures import explain  # noqa: PLC0415 - the same

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(load(verb))
    command = typer.main.get_command(app)
    try:
        code = command.main(args=args, prog_name=prog, standalone_mode=False)
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:  # the border to people: they get a line, not a traceback
        if os.environ.get("TRUSTED_POOL_DEBUG"):
            raise
        return explain(prog, error, as_json="--json" in args)
    return code if isinstance(code, int) else 0


def _complain(prog: str, line: str) -> int:
    print(f"{prog}: {line}", file=sys.stderr)  # noqa: T201 - to the one who typed it
    return _USAGE
