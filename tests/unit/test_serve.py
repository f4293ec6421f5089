"""The server's lifecycle, its limits, and what it tells the application about the peer."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import httpx
import pytest
import uvloop

from trusted_pool.protocol.certificates import PEER
from trusted_pool.serve import Limits, ServeError, Server
from trusted_pool.serve.connection import address_of

LONG = 20.0
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    loop = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def runs(body: Coroutine[Any, Any, None]) -> None:
        async def main() -> None:
            async with asyncio.timeout(LONG):
                await body

        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(main())

    return runs


class App:
    """Answers the scope it saw; `/wait` waits for `go`; `/deaf` ignores that its reader is gone."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []
        self.bodies: list[bytes] = []
        self.started = self.stopped = False
        self.waiting = asyncio.Event()
        self.go = asyncio.Event()
        self.ends: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            self.started = True
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.stopped = True
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.scopes.append(scope)
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.ends.append("disconnect")
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        if scope["path"] in ("/wait", "/deaf"):
            self.waiting.set()
            try:
                await self.go.wait() if scope["path"] == "/wait" else await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.ends.append("cancelled")
                raise
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def serving(app: Callable[..., Awaitable[None]], **limits: Any) -> AsyncIterator[Server]:
    server = Server(app, host="127.0.0.1", port=0, limits=Limits(**limits))
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


async def ask(server: Server, raw: bytes) -> bytes:
    """Write raw bytes, and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(raw)
    answer = await until_closed(reader)
    writer.close()
    return answer


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            answer += piece
    return answer


GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
GET_AND_CLOSE = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


def test_start_answer_stop(run: Run) -> None:
    async def body() -> None:
        app, said = App(), []
        server = Server(app, host="127.0.0.1", port=0, ready=lambda host, port: said.append((host, port)))
        await server.start()
        assert said == [("127.0.0.1", server.port)]
        assert app.started
        answer = await ask(server, GET_AND_CLOSE)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nok")
        assert b"server:" not in answer
        assert app.scopes[0]["state"][PEER] is None
        assert "tls" not in app.scopes[0]["extensions"]
        await server.stop()
        await server.stop()
        assert app.stopped
        with pytest.raises(OSError, match=r".+"):
            await asyncio.open_connection("127.0.0.1", server.port)

    run(body())


def test_localhost_on_a_free_port_is_one_port(run: Run) -> None:
    async def body() -> None:
        server = Server(App(), host="localhost", port=0)
        await server.start()
        assert server.port > 0
        assert len(server._listeners) == 1
        await server.stop()

    run(body())


def test_a_taken_port_is_said_in_one_line_before_anything_starts(run: Run) -> None:
    async def body() -> None:
        async with serving(App()) as first:
            app = App()
            with pytest.raises(ServeError) as caught:
                await Server(app, host="127.0.0.1", port=first.port).start()
            assert str(caught.value) == f"port {first.port} is taken; choose another with --port"
            assert not app.started

    run(body())


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("203.0.113.7", 0, "this machine has no such address; choose another with --host"),
        ("no-such-host.invalid", 0, "this machine has no such address; choose another with --host"),
        ("x" * 70 + ".invalid", 0, "--host"),
        ("127.0.0.1", 65_536, "there is no port 65536"),
    ],
)
def test_what_cannot_be_bound_is_said_in_one_line(host: str, port: int, words: str) -> None:
    with pytest.raises(ServeError, match=words) as caught:
        asyncio.run(Server(App(), host=host, port=port).start())
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may bind every port")
def test_a_privileged_port_is_said_in_one_line() -> None:
    with pytest.raises(ServeError, match="choose one above 1023"):
        asyncio.run(Server(App(), host="127.0.0.1", port=1).start())


def test_an_application_that_does_not_start_frees_the_port(run: Run) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async def body() -> None:
        server = Server(broken, host="127.0.0.1", port=0)
        with pytest.raises(ServeError, match="did not start"):
            await server.start()
        async with serving(App()):
            again = Server(App(), host="127.0.0.1", port=server.port)
            await again.start()
            await again.stop()

    run(body())


def test_a_head_that_does_not_end_is_closed(run: Run) -> None:
    """Both at the start of a connection and after an answer; a whole head is left alone."""

    async def body() -> None:
        async with serving(App(), header_timeout_s=0.2, keep_alive_s=60) as server:
            assert await ask(server, b"") == b""
            assert (await ask(server, b"GET / HTTP/1.1\r\nx-slow: ")).startswith(b"HTTP/1.1 408 ")
            second = await ask(server, GET + b"GET / HT")
            assert second.count(b"HTTP/1.1 200 OK") == 1
            assert b"HTTP/1.1 408 " in second
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(GET)
            assert await reader.readuntil(b"\r\n\r\nok")
            writer.write(b"\r\n")  # ends the wait of an idle connection without beginning a head
            assert await until_closed(reader) == b""
            writer.close()

    run(body())


def test_one_byte_now_and_then_does_not_keep_a_head_open(run: Run) -> None:
    async def body() -> None:
        async with serving(App(), header_timeout_s=0.3, keep_alive_s=60) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

            async def drip() -> None:
                writer.write(b"GET / HTTP/1.1\r\nx: ")
                while not writer.is_closing():
                    writer.write(b"a")
                    await asyncio.sleep(0.02)

            dripping = asyncio.ensure_future(drip())
            assert (await until_closed(reader)).startswith(b"HTTP/1.1 408 ")
            dripping.cancel()
            writer.close()

    run(body())


def test_a_slow_body_and_a_long_answer_are_not_the_heads_timer(run: Run) -> None:
    async def body() -> None:
        app = App()
        async with serving(app, header_timeout_s=0.1) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST /wait HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
            await asyncio.sleep(0.25)
            writer.write(b"cd")
            await app.waiting.wait()
            await asyncio.sleep(0.25)
            app.go.set()
            assert await reader.readuntil(b"\r\n\r\nok")
            assert app.bodies == [b"abcd"]
            writer.close()

    run(body())


def test_an_idle_connection_is_closed_after_keep_alive(run: Run) -> None:
    async def body() -> None:
        async with serving(App(), keep_alive_s=1, header_timeout_s=30) as server:
            assert (await ask(server, GET)).count(b"200 OK") == 1

    run(body())


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000, id="one endless value"),
        pytest.param(b"GET /" + b"a" * 70_000, id="endless path"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000, id="endless headers"),
        pytest.param(b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000 + b"\r\n\r\n", id="large but whole"),
    ],
)
def test_a_head_is_bounded(run: Run, raw: bytes) -> None:
    async def body() -> None:
        app = App()
        async with serving(app, max_head_bytes=64 * 1024) as server:
            answer = await ask(server, raw)
            assert answer.startswith(b"HTTP/1.1 431 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "head_too_large"
            assert app.scopes == []

    run(body())


def test_a_head_below_the_bound_and_a_large_body_pass(run: Run) -> None:
    async def body() -> None:
        app = App()
        async with serving(app, max_head_bytes=64 * 1024) as server:
            large = b"b" * 3_000_000
            head = b"POST / HTTP/1.1\r\nconnection: close\r\nx: %s\r\ncontent-length: %d\r\n\r\n" % (
                b"a" * 60_000,
                len(large),
            )
            assert (await ask(server, head + large)).startswith(b"HTTP/1.1 200 ")
            assert app.bodies == [large]

    run(body())


def test_trailers_are_bounded_and_are_no_headers(run: Run) -> None:
    async def body() -> None:
        app = App()
        async with serving(app, max_head_bytes=16 * 1024) as server:
            head = b"POST / HTTP/1.1\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"
            assert (await ask(server, head + b"trusted-pool-id: me\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            assert b"trusted-pool-id" not in dict(app.scopes[0]["headers"])
            endless = await ask(server, head + b"x: y\r\n" * 200_000)
            assert b" 200 " not in endless
            assert app.bodies == [b"abc"]

    run(body())


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nx\r\n\r\n",
    ],
)
def test_what_is_no_request_gets_400_and_nothing_else(run: Run, raw: bytes) -> None:
    async def body() -> None:
        app = App()
        async with serving(app, header_timeout_s=1) as server:
            answer = await ask(server, raw)
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "bad_request"
            assert app.scopes == []

    run(body())


def test_connections_are_bounded(run: Run) -> None:
    async def body() -> None:
        async with serving(App(), max_connections=2) as server:
            first = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
            for reader, writer in first:
                writer.write(GET)
                assert await reader.readuntil(b"ok")
            assert (await ask(server, b"")).startswith(b"HTTP/1.1 503 ")
            first[0][1].close()
            await first[0][1].wait_closed()
            while len(server._state.connections) > 1:  # noqa: ASYNC110 - the other end notices in its own time
                await asyncio.sleep(0.01)
            assert (await ask(server, GET_AND_CLOSE)).startswith(b"HTTP/1.1 200 ")
            first[1][1].close()

    run(body())


def test_connections_of_one_address_are_bounded(run: Run) -> None:
    async def body() -> None:
        async with serving(App(), max_per_address=2) as server:
            first = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
            for reader, writer in first:
                writer.write(GET)
                assert await reader.readuntil(b"ok")
            for _ in range(3):
                refused = await ask(server, b"")
                assert refused.startswith(b"HTTP/1.1 429 ")
                assert b"retry-after: 1\r\n" in refused
                assert json.loads(refused.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections"
            other = await asyncio.open_connection("127.0.0.1", server.port, local_addr=("127.0.0.2", 0))
            other[1].write(GET)
            assert await other[0].readuntil(b"ok"), "another address has its own"
            other[1].close()
            first[0][1].close()
            await first[0][1].wait_closed()
            while server._state.by_address["127.0.0.1"] > 1:  # noqa: ASYNC110 - the other end notices in its own time
                await asyncio.sleep(0.01)
            assert (await ask(server, GET_AND_CLOSE)).startswith(b"HTTP/1.1 200 ")
            first[1][1].close()
            await first[1][1].wait_closed()
            while server._state.connections:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.01)
            assert not server._state.by_address, "nobody is remembered"

    run(body())


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 1, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::9", 1, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7"),
        (("not:an:address", 1), "not:an:address"),
        (None, ""),
        ("", ""),
    ],
)
def test_whom_a_connection_counts_for(peer: object, counted: str) -> None:
    class Transport(asyncio.BaseTransport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return peer if name == "peername" else default

    assert address_of(Transport()) == counted


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Answer without a look at the body."""
    if scope["type"] == "lifespan":
        for word in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{word}.complete"})
        return
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})


@pytest.mark.parametrize("bounded", [True, False])
def test_a_refused_body_is_not_read_for_ever_and_its_sender_still_hears_why(run: Run, bounded: bool) -> None:
    async def body() -> None:
        limits = {} if bounded else {"max_leftover_bytes": 10**9}
        async with serving(refuse, **limits) as server:
            sent, answer = await asyncio.to_thread(send_it_all, server.port)
            assert (sent < 30_000_000) is bounded, "without the bound all of it is read"
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert answer.endswith(b"no")
            while server._state.connections:  # noqa: ASYNC110 - the other end notices in its own time
                await asyncio.sleep(0.01)
            answer = await asyncio.to_thread(httpx_sends, server.port)
            assert answer == b"413 no", "so does a common client"

    run(body())


def send_it_all(port: int) -> tuple[int, bytes]:
    """Send a large body, as far as it is taken, and only then look at the answer."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 60000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while sent < 60_000_000:
                sent += sock.send(bytes(100_000))
        return sent, sock.recv(1000)


def httpx_sends(port: int) -> bytes:
    answer = httpx.post(f"http://127.0.0.1:{port}/", content=bytes(60_000_000), timeout=10, trust_env=False)
    return b"%d " % answer.status_code + answer.content


def test_an_answer_before_the_end_of_a_body_is_the_last_on_its_line(run: Run) -> None:
    async def body() -> None:
        async with serving(refuse) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n")
            answer = await reader.readuntil(b"no")
            assert b"connection: close\r\n" in answer
            writer.write(bytes(200_000))
            assert await reader.read() == b"", "it is closed in peace as soon as the rest has come"
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n" + bytes(10))
            assert b"connection: close\r\n" in await reader.readuntil(b"no")
            assert await until_closed(reader) == b"", "and soon, when it does not"
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            for _ in range(3):  # what came whole is no reason to part
                writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + bytes(1000))
                assert b"connection: close" not in await reader.readuntil(b"no")
            writer.close()

    run(body())


def test_stop_lets_an_answer_finish(run: Run) -> None:
    async def body() -> None:
        app = App()
        async with serving(app) as server:
            asking = asyncio.ensure_future(ask(server, b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n"))
            idle, idle_writer = await asyncio.open_connection("127.0.0.1", server.port)
            idle_writer.write(GET)
            await idle.readuntil(b"ok")
            await app.waiting.wait()
            stopping = asyncio.ensure_future(server.stop(10))
            assert await until_closed(idle) == b""  # idle ones go at once
            app.go.set()
            await stopping
            assert (await asking).endswith(b"ok")
            idle_writer.close()

    run(body())


def test_stop_ends_what_takes_longer(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A request that listens ends by itself; a deaf one is cancelled; neither leaves a traceback."""

    async def body() -> None:
        app = App()
        async with serving(app) as server:
            deaf = asyncio.ensure_future(ask(server, b"GET /deaf HTTP/1.1\r\nhost: x\r\n\r\n"))
            await app.waiting.wait()
            slow = asyncio.ensure_future(ask(server, b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nab"))
            while len(app.scopes) < 2:  # noqa: ASYNC110 - the server reads in its own time
                await asyncio.sleep(0.01)
            await server.stop(0.1)
            assert await deaf == b""
            assert await slow == b""
            assert sorted(app.ends) == ["cancelled", "disconnect"]
            assert app.stopped
            assert not server._state.tasks

    run(body())
    assert "Traceback" not in caplog.text


def test_starting_and_stopping_under_load_leaves_nothing_behind(run: Run) -> None:
    async def body() -> None:
        for _ in range(20):
            app = App()
            async with serving(app) as server:
                asks = [asyncio.ensure_future(ask(server, GET_AND_CLOSE)) for _ in range(5)]
                await asyncio.sleep(0)
                await server.stop(5)
                await asyncio.wait(asks, timeout=5)
                for each in asks:
                    each.cancel()
                await asyncio.gather(*asks, return_exceptions=True)
                assert not server._state.connections
                assert not server._state.tasks
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", server.port))

    run(body())
