"""A worker's end as an ASGI application: what the real link talks to in its contract tests.

Every request is refused unless the pool that it names proved its key in the handshake.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec
from multipart import MultipartSegment, PushMultipartParser, parse_options_header  # type: ignore[import-untyped]

from trusted_pool.core.job import InputFile
from trusted_pool.link.fake_worker import Parcel, WorkerEnd
from trusted_pool.ports.link import Order
from trusted_pool.protocol.certificates import PEER
from trusted_pool.protocol.errors import ErrorAnswer, ForbiddenError, NotFoundError, PoolError
from trusted_pool.protocol.messages import ATTEMPT_HEADER, EPOCH_HEADER, JOB_HEADER, POOL_HEADER, OutputsAnswer

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def application(end: WorkerEnd) -> Callable[[Any, Receive, Send], Awaitable[None]]:
    """Return the application."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            await _answer(end, scope, receive, send)
        except PoolError as error:
            headers = [(b"retry-after", str(int(error.retry_after_s)).encode())] if error.retry_after_s else []
            await _whole(send, msgspec.json.encode(ErrorAnswer(error.body)), error.status, headers)

    return app


async def _answer(end: WorkerEnd, scope: Any, receive: Receive, send: Send) -> None:
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    if scope["state"][PEER] is None or headers.get(POOL_HEADER) != scope["state"][PEER]:
        raise ForbiddenError("this pool did not prove its key", hint="type: tpool worker --pool ID")
    said = parse_qs(scope["query_string"].decode())
    query = {name: values[0] for name, values in said.items()}
    path = [unquote(part) for part in scope["raw_path"].decode().strip("/").split("/")]
    match scope["method"], path:
        case "GET", ["health"]:
            await _whole(send, msgspec.json.encode(await end.health()))
        case "GET", ["attempts"]:
            await _whole(send, msgspec.json.encode(await end.attempts()))
        case "POST", ["submit"]:
            parcel = await _parcel(headers, receive)
            await _whole(send, msgspec.json.encode(await end.submit(parcel)))
        case "POST", ["cancel", remote_id]:
            await end.cancel(remote_id)
            await _whole(send, b"{}")
        case "POST", ["release", remote_id]:
            await end.release(remote_id)
            await _whole(send, b"{}")
        case "POST", ["release"]:
            for remote_id in said["job"]:
                with suppress(NotFoundError):
                    await end.release(remote_id)
            await _whole(send, b"{}")
        case "GET", ["events"]:
            messages = end.events(query.get("journal", ""), int(query.get("after", "0")))
            await _pieces(send, (msgspec.json.encode(message) + b"\n" async for message in messages))
        case "GET", ["logs", remote_id, "frames"]:
            log = end.log(remote_id, int(query["start"]), follow=query["follow"] == "1")
            await _pieces(send, log)
        case "GET", ["outputs", remote_id]:
            listed = OutputsAnswer(job_id=remote_id, files=list(await end.outputs(remote_id)))
            await _whole(send, msgspec.json.encode(listed))
        case "GET", ["outputs", remote_id, *rest]:
            await _pieces(send, end.output(remote_id, "/".join(rest)))
        case _:
            raise NotFoundError("there is no such path")


async def _parcel(headers: dict[str, str], receive: Receive) -> Parcel:
    boundary = parse_options_header(headers["content-type"])[1]["boundary"]
    parts: list[tuple[MultipartSegment, bytearray]] = []
    with PushMultipartParser(boundary, content_length=int(headers["content-length"]), strict=True) as parser:
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            for event in parser.parse(message.get("body", b"")) if message.get("body") else ():
                if isinstance(event, MultipartSegment):
                    parts.append((event, bytearray()))
                elif event is not None:
                    parts[-1][1].extend(event)
    files = tuple((part.filename or "", bytes(data)) for part, data in parts if part.name == "files")
    order = Order(
        job_id=headers[JOB_HEADER],
        attempt=int(headers[ATTEMPT_HEADER]),
        manifest=next(data.decode() for part, data in parts if part.name == "manifest"),
        inputs=tuple(InputFile(name=name, size=len(data), sha256="") for name, data in files),
    )
    return Parcel(pool_id=headers[POOL_HEADER], epoch=int(headers[EPOCH_HEADER]), order=order, files=files)


async def _whole(send: Send, body: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *(headers or [])]})
    await send({"type": "http.response.body", "body": body})


async def _pieces(send: Send, pieces: AsyncIterator[bytes]) -> None:
    """Send the pieces as they come. Raises what the first of them raises."""
    first = await anext(pieces, b"")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": first, "more_body": True})
    async for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
