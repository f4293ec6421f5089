"""A stand-in for a coordinator: each test says what it answers, lost answers and lies included."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, get_origin
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import pytest

from trusted_pool.protocol.answers import StatusAnswer


class Asked:
    """One request that came."""

    def __init__(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        parts = urlsplit(handler.path)
        self.method = handler.command
        self.path = unquote(parts.path)
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.headers = {key.lower(): value for key, value in handler.headers.items()}
        self.body = body


class Answer:
    """What is answered. `cut`: the connection breaks after so many bytes of the body; 0 means without any answer."""

    def __init__(
        self,
        body: bytes | dict[str, Any] = b"",
        status: int = 200,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
        length: int | None = None,
    ) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = {"Content-Type": "application/json", **(headers or {})}
        self.cut = cut
        self.length = length


class StandIn:
    """Answers by `routes`: path to a function, or to the answers for one request after another."""

    def __init__(self) -> None:
        self.routes: dict[str, Callable[[Asked], Answer] | list[Answer]] = {}
        self.asked: list[Asked] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args: object) -> None:
                """Say nothing."""

            def handle_any(self) -> None:
                size = int(self.headers.get("Content-Length", "0"))
                asked = Asked(self, self.rfile.read(size))
                stand_in.asked.append(asked)
                answer = stand_in.answer(asked)
                if answer.cut == 0:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body) if answer.length is None else answer.length))
                self.end_headers()
                self.wfile.write(answer.body if answer.cut is None else answer.body[: answer.cut])
                if answer.cut is not None or answer.length is not None:
                    self.close_connection = True

            do_GET = do_POST = handle_any  # noqa: N815 - http.server's names

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_args: object) -> None:
                """Say nothing of clients that went away: some tests are about that."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, asked: Asked) -> Answer:
        route = self.routes.get(asked.path)
        if route is None:
            return error(404, "not_found", f"there is no {asked.path}")
        if isinstance(route, list):
            return route.pop(0) if len(route) > 1 else route[0]
        return route(asked)

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def error(status: int, code: str, message: str, *, retryable: bool = False, hint: str = "") -> Answer:
    body = {"code": code, "message": message, "hint": hint, "fault": "user", "retryable": retryable, "detail": {}}
    return Answer({"error": body}, status=status)


def whole(kind: type[msgspec.Struct], fields: dict[str, Any]) -> dict[str, Any]:
    """Fill in the fields of an answer that a test does not care about: false, empty or null."""
    empty = {bool: False, int: 0, str: "", float: 0.0}
    for field in msgspec.structs.fields(kind):
        if field.required and field.name not in fields:
            origin = get_origin(field.type) or field.type
            fields[field.name] = [] if origin is list else {} if origin is dict else empty.get(origin)
    return fields


def status_of(job_id: str = "pool-0123456789abcdef", state: str = "completed", **fields: Any) -> dict[str, Any]:
    """Write what `/status` answers."""
    final = state not in ("queued", "running", "dispatched")
    known = {
        "job_id": job_id,
        "pool_status": state,
        "status": state,
        "state": state,
        "submitted_at": 1000.0,
        "completed_at": 1002.5 if final else None,
        "owner": "local",
        **fields,
    }
    return whole(StatusAnswer, known)


class Kit:
    """What tests of the client work with."""

    Answer = Answer
    Asked = Asked
    error = staticmethod(error)
    status_of = staticmethod(status_of)
    whole = staticmethod(whole)


@pytest.fixture
def kit() -> type[Kit]:
    return Kit


@pytest.fixture
def pool_server() -> Iterator[StandIn]:
    stand_in = StandIn()
    yield stand_in
    stand_in.close()
