"""A wire tap between a coordinator and a worker: it passes bytes on, counts them, and knows what is connected."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

from support.real_pool import free_port

_PIECE = 65536


class Tap:
    """Listens on a port of its own for one worker's. Use as `with`; everything about it may be read at any time."""

    def __init__(self, port: int) -> None:
        """`port`: the worker's."""
        self.port = free_port()
        self.opened = 0  #: connections, ever
        self.ended = 0  #: those of them that the coordinator has ended
        self.told = 0  #: bytes that came from the coordinator
        self.said = 0  #: bytes that came from the worker and could be passed on
        self.stalls_at = 2**40  #: a connection over which so much came is not read any further until `go_on`
        self.go_on = threading.Event()
        self._target = port
        self._server = socket.create_server(("127.0.0.1", self.port))
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def endpoint(self) -> str:
        """Where the coordinator is to dial."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """How many connections the coordinator keeps."""
        return self.opened - self.ended

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on.set()
        for sock in (self._server, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(10)

    def _spawn(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._server.accept()
                try:
                    there = socket.create_connection(("127.0.0.1", self._target), timeout=10)
                except OSError:  # it does not listen yet
                    here.close()
                    continue
                there.settimeout(None)
                self._sockets += [here, there]
                self.opened += 1
                self._spawn(self._from_coordinator, here, there)
                self._spawn(self._from_worker, there, here)

    def _from_coordinator(self, here: socket.socket, there: socket.socket) -> None:
        came = 0
        with contextlib.suppress(OSError):
            while piece := here.recv(_PIECE):
                came += len(piece)
                self.told += len(piece)
                there.sendall(piece)
                if came >= self.stalls_at:
                    self.go_on.wait()
        self.ended += 1
        with contextlib.suppress(OSError):
            there.shutdown(socket.SHUT_WR)

    def _from_worker(self, there: socket.socket, here: socket.socket) -> None:
        """Pass on what the worker says, even to who has hung up: whether it is heard is what a test is about."""
        with contextlib.suppress(OSError):
            while piece := there.recv(_PIECE):
                here.sendall(piece)
                self.said += len(piece)
        with contextlib.suppress(OSError):
            here.shutdown(socket.SHUT_WR)
