"""How much of a request's body is read, and for how long it is waited for."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from support.fake_pool import FakePool
from support.virtual_time import LoopClock
from trusted_pool.coordinator.metrics import Metrics
from trusted_pool.serve import Server
from trusted_pool.web import bodies
from trusted_pool.web.app import create_app

PIECE = b" " * 64 * 1024
#: What a JSON route must not have read in full.
PIECES = 400


def asked(ask: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]) -> httpx.Response:
    """Ask a coordinator in this process."""

    async def main() -> httpx.Response:
        async with FakePool("w1") as pool:
            metrics = Metrics(
                store=pool.store, roster=pool.coordinator.roster, bulletin=pool.coordinator.bulletin, clock=LoopClock()
            )
            app = create_app(pool.coordinator, metrics, loopback_only=True)
            transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await ask(client)

    return asyncio.run(main())


@pytest.mark.parametrize("path", ["/priority/x", "/jobs/cancel"])
@pytest.mark.parametrize("announced", [False, True])
def test_a_body_of_json_is_read_up_to_a_mebibyte(path: str, announced: bool) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(PIECES):
            read += len(PIECE)
            yield PIECE

    headers = {"content-type": "application/json"}
    if announced:
        headers["content-length"] = str(PIECES * len(PIECE))
    answer = asked(lambda client: client.post(path, content=body(), headers=headers))
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert (error["code"], error["fault"], error["retryable"]) == ("too_large", "user", False)
    assert "1 MiB" in error["message"]
    assert error["hint"]
    assert read <= 2**20 + len(PIECE)


def test_an_upload_may_be_larger() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="main.py"\r\n\r\n'
        for _ in range(32):
            yield PIECE
        yield b"\r\n--b--\r\n"

    form = {"content-type": "multipart/form-data; boundary=b"}
    for path in ("/submit", "/submit?dry_run=0"):
        answer = asked(lambda client, path=path: client.post(path, content=body(), headers=form))  # type: ignore[misc]
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "head",
    [
        b"POST /submit HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\n",
        b"POST /submit?dry_run=1 HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\n",
        b"POST /priority/x HTTP/1.1\r\nContent-Type: application/json\r\n",
    ],
)
def test_a_body_that_does_not_come_is_given_up_and_its_line_closed(
    head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "SILENCE_S", 0.2)

    async def main() -> None:
        async with FakePool("w1") as pool:
            metrics = Metrics(
                store=pool.store, roster=pool.coordinator.roster, bulletin=pool.coordinator.bulletin, clock=LoopClock()
            )
            app = create_app(pool.coordinator, metrics, loopback_only=True)
            server = Server(app, host="127.0.0.1", port=0)
            await server.start()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(head + b"Host: localhost\r\nContent-Length: 100\r\n\r\n--b")
                async with asyncio.timeout(20):
                    said, _, body = (await reader.read()).partition(b"\r\n\r\n")
                writer.close()
            finally:
                await server.stop(0)
            assert said.startswith(b"HTTP/1.1 408 ")
            error = json.loads(body)["error"]
            assert (error["code"], error["retryable"], error["hint"]) == ("too_slow", True, "send it again")

    asyncio.run(main())


def test_an_answer_may_take_longer_than_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SILENCE_S", 0.1)

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        files = {"files": ("main.py", b"pass")}
        manifest = {"manifest": '{"entrypoint": "main.py"}'}
        job_id = (await client.post("/submit", files=files, data=manifest)).json()["job_id"]
        return await client.get(f"/status/{job_id}?wait=0.5")

    assert asked(ask).json()["pool_status"] in ("queued", "dispatched")
