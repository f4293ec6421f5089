"""A man in the middle: takes connections, passes on or answers itself, and keeps all that it can read."""

import asyncio
import contextlib
import ssl
import threading
from typing import Self

_PATIENCE_S = 20.0


class Proxy:
    """Listens on a port from a thread of its own. Use as `with`.

    With `target` it passes every byte on. With `tls` it takes connections as the server that this context makes it, and
    answers each request with `answer`.
    """

    def __init__(self, *, target: int | None = None, tls: ssl.SSLContext | None = None, answer: bytes = b"") -> None:
        self.target, self.answer = target, answer
        self._tls = tls
        self.port = 0
        self.connections = 0
        self.heard: list[bytearray] = []  #: what clients said, for each connection
        self.told: list[bytearray] = []  #: what they were told

    def __enter__(self) -> Self:
        up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(up)), name="proxy")
        self._thread.start()
        assert up.wait(_PATIENCE_S), "the proxy does not come up"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    async def _main(self, up: threading.Event) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        # A handshake that fails never comes to `_serve`.
        self.port = server.sockets[0].getsockname()[1]
        up.set()
        await self._ending.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        heard, told = bytearray(), bytearray()
        self.heard.append(heard)
        self.told.append(told)
        with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):  # cancelled: at the end
            if self.target is None:
                while piece := await reader.read(65536):
                    heard += piece
                    writer.write(self.answer)
            else:
                there, back = await asyncio.open_connection("127.0.0.1", self.target)
                await asyncio.gather(_pass(reader, back, heard), _pass(there, writer, told))
        writer.close()

    def all_heard(self) -> bytes:
        """Return all that clients said."""
        return b"".join(bytes(said) for said in self.heard)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            kept += piece
            writer.write(piece)
            await writer.drain()
    writer.close()
