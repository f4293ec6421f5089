"""Server-sent events: bytes in, events out."""

from collections.abc import Iterator

import msgspec

from trusted_pool.client.errors import AnswerError

#: Longest event that is kept.
MAX_EVENT_BYTES = 4 * 1024 * 1024


class ServerEvent(msgspec.Struct, frozen=True):
    """One event. `id` is the newest id that was given so far."""

    name: str
    data: str
    id: str


class Parser:
    """Feed it pieces of any size. An event that the stream's end cut off is never yielded."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []
        self._held = 0
        self.last_id = ""
        self._next_id = ""

    def feed(self, piece: bytes) -> Iterator[ServerEvent]:
        """Yield the events that are whole now.

        Raises:
            AnswerError: an event longer than the limit.
        """
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) + self._held > MAX_EVENT_BYTES:
            raise AnswerError(f"an event of the log is longer than {MAX_EVENT_BYTES} bytes")
        for line in lines:
            event = self._line(line.removesuffix(b"\r").decode("utf-8", "replace"))
            if event is not None:
                yield event

    def _line(self, line: str) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._held += len(value)
            if self._held > MAX_EVENT_BYTES:
                raise AnswerError(f"an event of the log is longer than {MAX_EVENT_BYTES} bytes")
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self._next_id = value
        return None  # a comment keeps the line alive; other fields mean nothing here

    def _dispatch(self) -> ServerEvent | None:
        name, data = self._name or "message", self._data
        self._name, self._data, self._held = "", [], 0
        if not data:
            return None
        self.last_id = self._next_id
        return ServerEvent(name, "\n".join(data), self.last_id)
