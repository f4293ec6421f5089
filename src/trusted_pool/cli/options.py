"""Options and arguments that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

Job = Annotated[str, typer.Argument(metavar="JOB", help="Job id, the beginning of one, or `last`.", show_default=False)]
Addr = Annotated[
    str | None,
    typer.Option(
        "--addr",
        envvar="TRUSTED_POOL_ADDR",
        metavar="URL",
        help="The pool; if not said, that of `tpool login`, or http://127.0.0.1:9000.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON (versioned).")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        envvar="TRUSTED_POOL_OUTPUT",
        metavar="DIR",
        help="Where files are put; tpool-outputs/JOB if not said.",
        show_default=False,
    ),
]
PropagateExit = Annotated[bool, typer.Option("--propagate-exit", help="Exit with the job's own exit code.")]
Raw = Annotated[bool, typer.Option("--raw", help="Pass control sequences of the job on to the terminal.")]

Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE", help="A directory, a program, or an archive (.tar.gz, .zip …).", show_default=False
    ),
]
Args = Annotated[
    list[str] | None,
    typer.Argument(metavar="-- [ARGS]…", help="Arguments of the program.", show_default=False),
]
ManifestOption = Annotated[
    str | None, typer.Option("--manifest", metavar="FILE|JSON", help="The manifest.", show_default=False)
]
Fields = Annotated[
    list[str] | None,
    typer.Option(
        "-m",
        "--set",
        metavar="KEY=VALUE",
        help="A field of the manifest, e.g. cpus=2 or retry.max_attempts=1.",
        show_default=False,
    ),
]
Env = Annotated[
    list[str] | None,
    typer.Option("--env", "-e", metavar="NAME=VALUE", help="A variable of the job's environment.", show_default=False),
]
Name = Annotated[str | None, typer.Option("--name", help="A name for the job.", show_default=False)]
Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="DURATION", help="Wall-clock limit: 30s, 5m.", show_default=False)
]
Memory = Annotated[
    str | None, typer.Option("--memory", metavar="SIZE", help="Memory limit: 512M, 2G.", show_default=False)
]
Interpreter = Annotated[str | None, typer.Option("--interpreter", help="python3, node, bash, …", show_default=False)]
Entrypoint = Annotated[
    str | None, typer.Option("--entrypoint", metavar="PATH", help="The program to start.", show_default=False)
]
