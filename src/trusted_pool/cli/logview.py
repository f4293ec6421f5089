"""A job's log on this process's stdout and stderr."""

import codecs
import sys
from typing import TextIO

from trusted_pool.cli.escape import Screened
from trusted_pool.cli.screen import coloured
from trusted_pool.client.follow import LogPiece


class LogView:
    """Shows pieces of a log: made safe where it goes to a terminal, as they are elsewhere."""

    def __init__(self, *, raw: bool, all_to_stderr: bool = False) -> None:
        """`raw`: nothing is made safe."""
        self._raw = raw
        self._out = {"stdout": sys.stderr if all_to_stderr else sys.stdout, "stderr": sys.stderr, "mark": sys.stderr}
        self._screens = {name: Screened(colour=coloured()) for name in self._out}
        self._bytes = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in self._out}

    def _safe(self, stream: TextIO) -> bool:
        return stream.isatty() and not self._raw

    def show(self, piece: LogPiece) -> None:
        """Show a piece of the live log."""
        self.text(piece.stream, f"[worker] {piece.text.rstrip()}\n" if piece.stream == "mark" else piece.text)

    def text(self, name: str, text: str) -> None:
        """Show text of one stream."""
        stream = self._out[name]
        if self._safe(stream):
            stream.write(self._screens[name].feed(text))
        else:
            _write(stream, text.encode("utf-8", "replace"))
        stream.flush()

    def raw_bytes(self, name: str, data: bytes) -> None:
        """Show bytes of one stream: byte for byte where it is no terminal."""
        stream = self._out[name]
        if self._safe(stream):
            self.text(name, self._bytes[name].decode(data))
        else:
            _write(stream, data)

    def end(self) -> None:
        """Show what was held back; end colours."""
        for name, stream in self._out.items():
            if self._safe(stream):
                stream.write(self._screens[name].feed(self._bytes[name].decode(b"", final=True)))
                stream.write(self._screens[name].end())
            stream.flush()


def _write(stream: TextIO, data: bytes) -> None:
    stream.flush()
    stream.buffer.write(data)
    stream.buffer.flush()
