"""Answers whose length is known leave in one write: one system call and one packet, where uvicorn makes two.

One that leaves before the body of its request is whole says that it is the last on its line.
"""

from functools import lru_cache
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    RequestResponseCycle,
)

_CLOSE = b"connection: close\r\n\r\n"


class Cycle(RequestResponseCycle):
    """uvicorn's cycle of a request and its answer; what is no plain answer is left to it."""

    _held = b""  # a head that waits for its body
    early = False  #: it was answered before its body was whole

    @property
    def _may_hold(self) -> bool:
        return self.keep_alive and not self.disconnected and not self.default_headers and self.scope["method"] != "HEAD"

    async def send(self, message: Any) -> None:
        """Send one ASGI message."""
        if not self.response_started and message["type"] == "http.response.start":
            if self._may_hold:
                head, length = _head(message)
                if length is not None:
                    if self.more_body:  # it may never be read to its end: the line is no good for another request
                        self.early = True
                        head = head[:-2] + _CLOSE
                    self._held = head
                    self.expected_content_length = length
                    self.chunked_encoding = False
                    self.response_started = True
                    self.waiting_for_100_continue = False
                    return
        elif (head := self._held) and message["type"] == "http.response.body":
            self._held = b""
            body = message.get("body", b"")
            whole = len(body) == self.expected_content_length and not message.get("more_body", False)
            if whole and not self.disconnected and not self.flow.write_paused and self.keep_alive:
                self.transport.write(head + body)
                self.expected_content_length = 0
                self.response_complete = True
                self.message_event.set()
                self.on_response()
                return
            if not self.disconnected:
                self.transport.write(head)
        await super().send(message)


def _head(message: Any) -> tuple[bytes, int | None]:
    """Write a head; the length it promises is None where uvicorn must judge the headers."""
    lines = [STATUS_LINE[message["status"]]]
    length = None
    for name, value in message.get("headers", ()):
        line = _line(name, value)
        if line is None:
            return b"", None
        if line.startswith(b"content-length: "):
            length = int(value)
        lines.append(line)
    lines.append(b"\r\n")
    return b"".join(lines), length


@lru_cache(maxsize=4096)
def _line(name: bytes, value: bytes) -> bytes | None:
    """Write a header; None when it is malformed, or says how the message ends."""
    name = name.lower()
    if HEADER_RE.search(name) or HEADER_VALUE_RE.search(value) or name in (b"connection", b"transfer-encoding"):
        return None
    return b"%b: %b\r\n" % (name, value)
