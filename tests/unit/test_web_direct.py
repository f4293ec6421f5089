"""A submit is answered the same, whether the framework is around it (a parameter is said) or not."""

import asyncio
from typing import Any

import httpx
import pytest

from support.archives import tar_gz
from support.fake_pool import FakePool
from support.virtual_time import LoopClock
from trusted_pool.coordinator.metrics import Metrics
from trusted_pool.web.app import create_app

MAIN = tar_gz({"main.py": b"pass\n"})
FILES = {"files": ("project.tar.gz", MAIN)}
FORM = {"content-type": "multipart/form-data; boundary=b"}
KEY = {"idempotency-key": "one"}

REQUESTS: dict[str, dict[str, Any]] = {
    "a job": {"files": FILES},
    "a key that was used": {"files": FILES, "headers": KEY},
    "a key too long": {"files": FILES, "headers": {"idempotency-key": "k" * 256}},
    "an empty key": {"files": FILES, "headers": {"idempotency-key": ""}},
    "no body": {},
    "no form": {"json": {}},
    "an empty form": {"content": b"", "headers": FORM},
    "a form cut short": {"content": b"--b\r\nContent-Dis", "headers": FORM},
    "an unknown field": {"files": {**FILES, "more": ("x", b"")}},
    "a bad archive": {"files": {"files": ("project.tar.gz", b"none")}},
    "a bad manifest": {"files": FILES, "data": {"manifest": '{"entrypoint": 1}'}},
    "an unknown word": {"files": FILES, "data": {"manifest": '{"entrypoit":"main.py"}'}},
    "no worker for it": {"files": FILES, "data": {"manifest": '{"entrypoint":"main.py","constraints":{"zone":"x"}}'}},
    "a foreign page": {"files": FILES, "headers": {"origin": "http://example.com"}},
}


def both(ask: dict[str, Any], method: str = "POST") -> tuple[httpx.Response, httpx.Response]:
    """Return the answer of the short way and of the framework; as the pool counted them."""

    async def main() -> tuple[httpx.Response, httpx.Response]:
        async with FakePool("w1") as pool:
            await pool.coordinator.pause(paused=True)
            metrics = Metrics(
                store=pool.store, roster=pool.coordinator.roster, bulletin=pool.coordinator.bulletin, clock=LoopClock()
            )
            app = create_app(pool.coordinator, metrics, loopback_only=True)
            transport = httpx.ASGITransport(app, raise_app_exceptions=True)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                await client.post("/submit", files=FILES, headers=KEY)
                direct = await client.request(method, "/submit", **ask)
                counted = await metrics.expose()
                framed = await client.request(method, "/submit?dry_run=0", **ask)
                twice = await metrics.expose()
        assert _count(twice) >= _count(counted)
        if direct.status_code not in (403, 405):  # not refused before there was a route
            assert _count(twice) == _count(counted) + 1 == 3
        return direct, framed

    return asyncio.run(main())


def _count(exposed: bytes) -> float:
    """Return how many submits were answered."""
    word = b'trusted_pool_http_requests_total{route="/submit"'
    return sum(float(line.rsplit(b" ", 1)[1]) for line in exposed.splitlines() if line.startswith(word))


@pytest.mark.parametrize("name", REQUESTS)
def test_the_short_way_answers_as_the_framework_does(name: str) -> None:
    direct, framed = both(REQUESTS[name])
    assert direct.status_code == framed.status_code
    same = {k: v for k, v in framed.headers.items() if k != "content-length"}
    assert {k: v for k, v in direct.headers.items() if k != "content-length"} == same
    if name == "a job":
        assert direct.status_code == 200
        assert direct.json().keys() == framed.json().keys()
        assert direct.json()["job_id"] != framed.json()["job_id"]
    else:
        assert direct.content == framed.content


def test_another_method_is_the_frameworks() -> None:
    direct, framed = both({}, "PUT")
    assert direct.status_code == framed.status_code == 405
    assert direct.content == framed.content
