"""`tpool doctor`: find out how well this machine holds jobs."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from trusted_pool.cli.escape import one_line
from trusted_pool.cli.exits import Exit
from trusted_pool.cli.options import AsJson
from trusted_pool.cli.screen import coloured, note, print_json, print_line, span

#: How a finding is marked, and in which colour on a terminal.
_MARKS = {True: ("ok", "green"), False: ("NO", "bold red"), None: ("?", "yellow")}
_SECTIONS = {"wall": "Walls", "filter": "Filter", "limit": "Limits", "own_uid": "Users", "note": "Notes"}
_NO_LEVEL = 1


def doctor(
    data: Annotated[
        Path | None,
        typer.Option(help="A worker's data directory: its disk is the one examined.", show_default=False),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only what a worker looks at when it starts.")] = False,
    policy: Annotated[
        bool, typer.Option("--policy", help="Print what is laid on every job, whose sha256 is the policy's name.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find out how well this machine holds jobs, by running jobs that try to get out and to take too much.

    Says what holds, what does not, why, and the command that mends it. Takes a few seconds and leaves nothing. Run it
    as the user that the worker runs as. Exit code 0: a worker starts here; 1: it does not, and the last line says why.
    """
    from trusted_pool.compose import doctor as compose  # noqa: PLC0415 - heavy, and not needed for --help
    from trusted_pool.compose.system import StartError  # noqa: PLC0415

    try:
        report = compose.examined(data, overrun=not (policy or quick))
    except StartError as error:
        note(f"tpool doctor: {error}")
        raise typer.Exit(Exit.USAGE if error.usage else Exit.INFRASTRUCTURE) from None
    if policy:
        print(report.policy_text, end="")  # noqa: T201 - byte for byte what the name is the sha256 of
    elif as_json:
        print_json(**_fields(report, compose.machine()))
    else:
        _show(report, compose.machine())
    if not report.starts:
        raise typer.Exit(_NO_LEVEL)


def _fields(report: Any, machine: str) -> dict[str, Any]:
    return {
        "isolation": report.level,
        "required": report.required,
        "starts": report.starts,
        "refusal": report.refusal,
        "machine": machine,
        "uid": os.geteuid(),
        "policy": report.policy,
        "seccomp": report.seccomp,
        "seconds": report.seconds,
        "findings": [
            {
                "name": f.name,
                "title": f.title,
                "kind": str(f.kind),
                "holds": f.holds,
                "seen": f.seen,
                "why": f.why,
                "mend": f.mend,
            }
            for f in report.findings
        ],
    }


def _show(report: Any, machine: str) -> None:
    write = _writer()
    write(f"{machine}, as {'root' if os.geteuid() == 0 else f'uid {os.geteuid()}'}", "bold")
    for kind, title in _SECTIONS.items():
        found = [f for f in report.findings if f.kind == kind]
        if not found:
            continue
        write("", "")
        write(title, "bold")
        for finding in found:
            mark, style = _MARKS[finding.holds] if kind != "note" or finding.holds else ("no", "yellow")
            seen = f" ({finding.seen})" if finding.seen else ""
            write(f"  {mark:<3} {finding.title}{seen}", style if finding.holds is not True else "", mark=style)
            if finding.why:
                write(f"      why:  {finding.why}", "")
            if finding.mend:
                write(f"      mend: {finding.mend}", "bold")
    write("", "")
    if report.policy is not None:
        write(f"policy {report.policy}", "")
    write(f"examined in {span(report.seconds)}", "")
    if report.starts:
        write(f"Isolation level {report.level}: a worker starts here.", "bold green")
    else:
        write(f"Isolation level {report.level}: a worker refuses to start: {report.refusal}", "bold red")


def _writer() -> Any:
    """Return what writes a line: with colours on a terminal, plain elsewhere."""
    if not sys.stdout.isatty():

        def plain(text: str, _style: str, mark: str = "") -> None:  # noqa: ARG001 - the other one's
            print_line(text)

        return plain
    from rich.console import Console  # noqa: PLC0415 - 40 ms that only a terminal pays
    from rich.text import Text  # noqa: PLC0415 - the same

    console = Console(no_color=not coloured(), highlight=False)

    def rich(text: str, style: str, mark: str = "") -> None:
        line = Text(one_line(text), style=style)
        if mark:
            line.stylize(mark, 2, 4)
        console.print(line, soft_wrap=True)

    return rich
