"""What goes over the loopback interface of the calling thread's network, put together again. Needs root."""

import socket
import struct
import threading
from typing import Self

_ALL = 0x0003
_OUTGOING = 4  #: on a loopback interface each packet is seen twice
_IPV4, _TCP = 0x0800, 6
_RCVBUFFORCE = 33
_PIECE = 8  #: bytes of a secret that count as a part of it


class Capture:
    """All TCP payload of one port, by direction and connection. Use as `with`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._flows: dict[tuple[int, int], dict[int, bytes]] = {}
        self._ending = threading.Event()

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 64 << 20)
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.1)
        self._thread = threading.Thread(target=self._listen, name="capture")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while True:
            try:
                packet, address = self._socket.recvfrom(1 << 17)
            except TimeoutError:
                if self._ending.is_set():  # and nothing more is on its way
                    return
                continue
            if address[2] != _OUTGOING:
                self._take(packet)

    def _take(self, packet: bytes) -> None:
        if struct.unpack_from("!H", packet, 12)[0] != _IPV4 or packet[23] != _TCP:
            return
        segment = 14 + (packet[14] & 15) * 4
        source, target, seq = struct.unpack_from("!HHI", packet, segment)
        if self.port in (source, target):
            end = 14 + struct.unpack_from("!H", packet, 16)[0]
            payload = packet[segment + (packet[segment + 12] >> 4) * 4 : end]
            if payload:
                self._flows.setdefault((source, target), {})[seq] = payload

    def streams(self) -> list[bytes]:
        """Return what was said on each connection in each direction, in order."""
        return [b"".join(flow[seq] for seq in sorted(flow)) for flow in self._flows.values()]

    def parts_of(self, secret: bytes) -> list[bytes]:
        """Return all pieces of 8 bytes of a secret that can be read in what went over the wire."""
        said = self.streams()
        pieces = {secret[at : at + _PIECE] for at in range(len(secret) - _PIECE + 1)}
        return [piece for piece in pieces if any(piece in stream for stream in said)]
