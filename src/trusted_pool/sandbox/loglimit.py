"""The cap on what a job may write to its log."""

from trusted_pool.ports.sandbox import OnLog
from trusted_pool.protocol import frames

MIB = 1024 * 1024


class LogLimit:
    """Passes on what of stdout and stderr takes `limit_bytes` on the disk; says once that the rest was dropped."""

    def __init__(self, on_log: OnLog, limit_bytes: int) -> None:
        """`limit_bytes`: of both streams together, as frames: whoever writes byte by byte pays for the headers."""
        self._on_log = on_log
        self._left = limit_bytes
        self.limit_bytes = limit_bytes
        self.written = 0  #: bytes read from the job, dropped ones included
        self.kept = 0  #: bytes passed on
        self.cut = False

    def __call__(self, stream: int, data: bytes) -> None:
        """Take what was read from one stream."""
        self.written += len(data)
        kept = data[: _fits(self._left)] if len(data) + _headers(len(data)) > self._left else data
        self._left -= len(kept) + _headers(len(kept))
        self.kept += len(kept)
        if kept:
            self._on_log(stream, kept)
        if len(kept) < len(data) and not self.cut:
            self._left = 0  # what would fit into the rest came later than what did not
            self.cut = True
            self._on_log(frames.MARK, f"the log was cut after {_size(self.limit_bytes)}\n".encode())

    def mark(self, words: str) -> None:
        """Say something in the worker's own words."""
        self._on_log(frames.MARK, words.encode() + b"\n")


def _headers(n_bytes: int) -> int:
    return -(-n_bytes // frames.MAX_FRAME) * frames.HEADER.size


def _fits(left: int) -> int:
    """How many bytes fit into the rest, their headers included."""
    whole, rest = divmod(left, frames.MAX_FRAME + frames.HEADER.size)
    return whole * frames.MAX_FRAME + max(0, rest - frames.HEADER.size)


def _size(n_bytes: int) -> str:
    return f"{n_bytes // MIB} MiB" if n_bytes % MIB == 0 else f"{n_bytes} bytes"
