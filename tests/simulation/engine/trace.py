"""What a run leaves to read: its trace, and what it found to be wrong."""

import asyncio
import hashlib
import logging

SHOWN_LINES = 250


class Finding(AssertionError):  # noqa: N818 - it is what the run is for, not an error of the run
    """Something that must never be true was true. `kind` says in one word what was promised."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(kind, sentence)
        self.kind = kind
        self.sentence = sentence

    def __str__(self) -> str:
        return f"{self.kind}: {self.sentence}"


class Trace:
    """Lines of (time, actor, what)."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, actor: str, what: str) -> None:
        """Write a line."""
        now = asyncio.get_running_loop().time() - 1_000_000.0
        self.lines.append(f"{now:10.3f}  {actor:<12} {what}")

    @property
    def digest(self) -> str:
        """Return a digest of all of it."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def text(self, lines: int = SHOWN_LINES) -> str:
        """Return the newest lines."""
        left_out = len(self.lines) - lines
        head = [f"… {left_out} lines before (all of them: python -m simulation SEED --full)"] if left_out > 0 else []
        return "\n".join([*head, *self.lines[-lines:]])


class Ears(logging.Handler):
    """Hears the product's log: lines go into the trace, an error with a traceback is a finding."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(logging.INFO)
        self._trace = trace
        self.heard: Finding | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Take one line."""
        try:
            self._trace("log", f"{record.levelname.lower()}: {record.getMessage()}")
        except RuntimeError:
            return  # after the loop has ended
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            self.heard = self.heard or Finding("error", f"{record.getMessage()}: {error!r}")
