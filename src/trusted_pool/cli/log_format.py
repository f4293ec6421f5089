"""How daemons log: for people, for machines, or in the plain form of Python's own logging."""

import logging
import sys
from enum import StrEnum


class LogFormat(StrEnum):
    """`--log-format`."""

    CONSOLE = "console"
    JSON = "json"
    PLAIN = "plain"


def configure(form: LogFormat) -> None:
    """Send the log to standard error in this form."""
    handler = logging.StreamHandler(sys.stderr)
    if form is LogFormat.PLAIN:
        handler.setFormatter(logging.Formatter("%(levelname)s:__main__:%(message)s"))
    else:
        handler.setFormatter(_structured(form))
    # Nothing here prints threads, processes or lines of source; not looking for them makes a record twice as fast.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("trusted_pool").setLevel(logging.INFO)


def _structured(form: LogFormat) -> logging.Formatter:
    import structlog  # noqa: PLC0415 - not needed for --help

    colors = sys.stderr.isatty()
    renderer = (
        structlog.processors.JSONRenderer()
        if form is LogFormat.JSON
        else structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0)
    )
    before: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=before,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
