"""What stands on the wire for every kind of answer, and in how many pieces it comes."""

import asyncio
import socket
from typing import Any

import pytest

from trusted_pool.serve import Server

LENGTH = (b"content-length", b"5")
START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [(b"X-Name", b"value"), LENGTH]}
HELLO: dict[str, Any] = {"type": "http.response.body", "body": b"hello"}
FIRST: dict[str, Any] = {"type": "http.response.body", "body": b"he", "more_body": True}
REST: dict[str, Any] = {"type": "http.response.body", "body": b"llo"}
PLAIN = b"HTTP/1.1 200 OK\r\nx-name: value\r\ncontent-length: 5\r\n\r\nhello"


def without(message: dict[str, Any], *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {**message, "headers": list(headers)}


def answer(*messages: dict[str, Any], request: bytes = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") -> tuple[bytes, int]:
    """Return what a client reads until the connection is closed (a second request asks for that) and the writes."""
    writes: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for word in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{word}.complete"})
            return
        for message in messages:
            await send(message)

    async def main() -> bytes:
        server = Server(app, host="127.0.0.1", port=0)
        await server.start()
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
                sock.settimeout(0)
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(sock, request)
                got = b""
                async with asyncio.timeout(5):
                    while piece := await loop.sock_recv(sock, 65536):
                        writes.append(piece)
                        got += piece
                        if got.endswith((b"hello", b"0\r\n\r\n")):
                            break
                return got
        finally:
            await server.stop(1.0)

    return asyncio.run(main()), len(writes)


def test_a_plain_answer_is_one_piece() -> None:
    assert answer(START, HELLO) == (PLAIN, 1)


def test_a_body_in_pieces_is_the_same_answer() -> None:
    assert answer(START, FIRST, REST)[0] == PLAIN


def test_an_answer_of_unknown_length_is_chunked() -> None:
    got, _ = answer(without(START), FIRST, REST)
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert body == b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"


def test_who_wants_the_connection_closed_is_told_so() -> None:
    got, _ = answer(START, HELLO, request=b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert got == PLAIN.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")


def test_a_head_alone_has_no_body() -> None:
    got, _ = answer(START, HELLO, request=b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert got.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("bad", [(b"x-name", b"a\r\nset-cookie: b"), (b"x\r\nset-cookie", b"b"), (b"x y", b"b")])
def test_no_header_holds_another(bad: tuple[bytes, bytes]) -> None:
    got, _ = answer(without(START, bad, LENGTH), HELLO)
    assert b"set-cookie" not in got
    assert b"hello" not in got


@pytest.mark.parametrize("body", [b"hell", b"hello!"])
def test_a_body_of_another_length_than_said_closes_the_connection(body: bytes) -> None:
    got, _ = answer(START, {**HELLO, "body": body})
    assert not got.endswith(b"hello")


def test_an_application_that_ends_behind_the_head_closes_the_connection() -> None:
    got, _ = answer(START)
    assert b"hello" not in got


def test_an_answer_before_the_end_of_a_body_says_that_the_line_is_no_good_any_more() -> None:
    """What is left of the body may never be read: the next request on that line would be reset."""
    half = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345"
    closing = PLAIN.replace(b"length: 5\r\n", b"length: 5\r\nconnection: close\r\n")
    assert answer(START, HELLO, request=half) == (closing, 1)
    whole = half + b"67890"
    assert answer(START, HELLO, request=whole) == (PLAIN, 1), "the control: there is nothing left"
