"""Errors as people and scripts see them: one line on stderr, or one JSON object."""

import sys

import typer

from trusted_pool.cli.escape import one_line
from trusted_pool.cli.exits import Exit, of_error
from trusted_pool.cli.screen import print_json
from trusted_pool.client.errors import ClientError
from trusted_pool.core.words import Fault
from trusted_pool.protocol.errors import ErrorBody, PoolError


def explain(prog: str, error: Exception, *, as_json: bool) -> int:
    """Say what went wrong and what to do next; return the exit code."""
    body, code = _read(prog, error)
    if as_json:
        print_json(error=body)
    hint = f"; {body.hint}" if body.hint else ""
    print(one_line(f"{prog}: {body.message}{hint}"), file=sys.stderr)  # noqa: T201 - to the one who typed it
    return code


def _read(prog: str, error: Exception) -> tuple[ErrorBody, int]:
    if isinstance(error, ClientError):
        body = ErrorBody(
            code=error.code, message=error.message, hint=error.hint, fault=error.fault, retryable=error.retryable
        )
        return body, of_error(error)
    if isinstance(error, PoolError):
        return error.body, Exit.USAGE if error.fault is Fault.USER else Exit.INFRASTRUCTURE
    if isinstance(error, typer.TyperException):  # Typer's own: wrong options and arguments
        message = error.format_message().rstrip(".")
        message = message[:1].lower() + message[1:]
        return ErrorBody(code="usage", message=message, hint=f"type: {prog} --help"), Exit.USAGE
    if isinstance(error, typer.Abort):
        return ErrorBody(code="interrupted", message="interrupted"), Exit.INTERRUPTED
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        return ErrorBody(
            code="system", message=f"{what}{error.strerror or error}", fault=Fault.OPERATOR
        ), Exit.INFRASTRUCTURE
    body = ErrorBody(
        code="internal",
        message=f"a defect of tpool: {type(error).__name__}: {error}",
        hint="with TRUSTED_POOL_DEBUG=1 it shows where",
        fault=Fault.COORDINATOR,
    )
    return body, Exit.INFRASTRUCTURE
