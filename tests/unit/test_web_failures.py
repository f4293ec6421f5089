"""What is asked too widely is refused, and no answer tells where the coordinator keeps its files."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest

from support.fake_pool import FakePool
from support.virtual_time import LoopClock
from trusted_pool.coordinator.metrics import Metrics
from trusted_pool.ports.store import JobPage, JobQuery, StoreError, StoreSlowError
from trusted_pool.store.memory import MemoryStore
from trusted_pool.web.app import create_app


def asked(ask: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]) -> httpx.Response:
    """Ask a coordinator in this process."""

    async def main() -> httpx.Response:
        async with FakePool("w1") as pool:
            metrics = Metrics(
                store=pool.store, roster=pool.coordinator.roster, bulletin=pool.coordinator.bulletin, clock=LoopClock()
            )
            app = create_app(pool.coordinator, metrics, loopback_only=True)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:  # type: ignore[arg-type]
                return await ask(client)

    return asyncio.run(main())


@pytest.mark.parametrize("count", [9, 1200])
def test_a_filter_names_few_labels(count: int) -> None:
    query = "&".join(f"label=n{n}=v" for n in range(count))
    answer = asked(lambda client: client.get(f"/jobs?{query}"))
    assert answer.status_code == 400
    assert answer.json()["error"]["hint"] == "name 8 at most"
    labels = {f"n{n}": "v" for n in range(count)}
    assert asked(lambda client: client.post("/jobs/cancel", json={"labels": labels})).status_code == 400
    assert asked(lambda client: client.get("/jobs?" + "&".join(query.split("&")[:8]))).status_code == 200


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (StoreError("the database /home/me/data/coordinator.db failed: too many terms"), "unavailable", "again"),
        (StoreSlowError("the list of jobs takes too long"), "too_slow", "narrow the filter"),
    ],
)
def test_an_error_of_the_store_names_no_file(
    monkeypatch: pytest.MonkeyPatch, error: StoreError, code: str, word: str
) -> None:
    async def fail(_store: MemoryStore, _query: JobQuery) -> JobPage:
        raise error

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        with monkeypatch.context() as patch:
            patch.setattr(MemoryStore, "jobs", fail)
            return await client.get("/jobs")

    answer = asked(ask)
    assert answer.status_code == 503
    found = answer.json()["error"]
    assert (found["code"], found["retryable"]) == (code, True)
    assert word in found["hint"]
    assert "/" not in answer.text
