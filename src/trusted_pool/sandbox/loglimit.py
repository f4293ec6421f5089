"""The cap on what a job may write to its log."""

from trusted_pool.ports.sandbox import OnLog
from trusted_pool.protocol import frames

MIB = 1024 * 1024


class LogLimit:
    """Passes on the first `limit_bytes` of stdout and stderr together; says once that the rest was dropped."""

    def __init__(self, on_log: OnLog, limit_bytes: int) -> None:
        """`limit_bytes`: of both streams together, without frame headers."""
        self._on_log = on_log
        self._limit = limit_bytes
        self._left = limit_bytes
        self.written = 0  #: bytes read from the job, dropped ones included
        self.cut = False

    def __call__(self, stream: int, data: bytes) -> None:
        """Take what was read from one stream."""
        self.written += len(data)
        kept = data[: self._left]
        self._left -= len(kept)
        if kept:
            self._on_log(stream, kept)
        if len(kept) < len(data) and not self.cut:
            self.cut = True
            self._on_log(frames.MARK, f"the log was cut after {_size(self._limit)}\n".encode())

    def mark(self, words: str) -> None:
        """Say something in the worker's own words."""
        self._on_log(frames.MARK, words.encode() + b"\n")


def _size(n_bytes: int) -> str:
    return f"{n_bytes // MIB} MiB" if n_bytes % MIB == 0 else f"{n_bytes} bytes"
