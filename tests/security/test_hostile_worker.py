"""Cases 70 and 80, for workers of either kind: one that answers without end, by drops, or with a way to elsewhere."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from support.archives import tar_gz
from support.hostile import POOL, WORKER_ID, Hostile, SystemClock, claimed, pinned, proving, whole
from support.virtual_time import CountingDice
from trusted_pool.blobs.memory import MemoryBlobs
from trusted_pool.core.job import InputFile
from trusted_pool.core.words import Reason
from trusted_pool.core.worker import Worker
from trusted_pool.link import sandrun_fetch
from trusted_pool.link.pinned import PinnedLink
from trusted_pool.link.sandrun import SandrunLink
from trusted_pool.ports.link import LinkError, Order
from trusted_pool.protocol.endpoint import EndpointError
from trusted_pool.protocol.messages import EndedEvent, InterruptedEvent
from trusted_pool.sandbox.globs import Globs

ARCHIVE = tar_gz({"main.py": b"print(1)"})
INPUTS = (InputFile(name="project.tar.gz", size=len(ARCHIVE), sha256=""),)
MANIFEST = '{"entrypoint":"main.py","interpreter":"python3","disk_mb":1,"outputs":["out.txt"]}'
ORDER = Order(job_id="pool-0123456789abcdef", attempt=1, manifest=MANIFEST, inputs=INPUTS)
MIB = 1 << 20
Link = PinnedLink | SandrunLink
ADAPTERS: dict[str, tuple[Callable[[], Any], Callable[..., Any]]] = {
    "proven": (proving, pinned),
    "claimed": (lambda: None, claimed),
}


async def opened(_: InputFile) -> AsyncIterator[bytes]:
    yield ARCHIVE


async def submit(link: Link) -> None:
    await link.submit(ORDER, opened)


async def health(link: Link) -> None:
    await link.health()


async def attempts(link: Link) -> None:
    await link.attempts()


def play(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(limited())


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
#: What is said first, what is said for ever, with which pause; and whether only time ends it.
ENDLESS: dict[str, tuple[bytes, bytes, float, bool]] = {
    "header value": (b"HTTP/1.1 200 OK\r\nx: ", b"a" * 65536, 0.0, False),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 10_000, 0.0, False),
    "status line": (b"HTTP/1.1 200 ", b"O" * 65536, 0.0, False),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 0.0, True),
    "body in chunks": (CHUNKED, b"10000\r\n" + b"a" * 65536 + b"\r\n", 0.0, False),
    "body without length": (b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 65536, 0.0, False),
    "body longer than said": (b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n", b"a" * 65536, 0.0, False),
    "chunk extension": (CHUNKED + b"1;", b"x" * 65536, 0.0, True),
    "refusal": (b"HTTP/1.1 400 x\r\n\r\n", b"a" * 65536, 0.0, False),
    "head by drops": (b"HTTP/1.1 200 OK\r\nx: ", b"a", 0.02, True),
    "body by drops": (b"HTTP/1.1 200 OK\r\n\r\n{", b" ", 0.02, True),
    "silence": (b"", b"", 1.0, True),
}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", ENDLESS)
def test_80_an_endless_answer_ends(kind: str, adapter: str):
    first, again, pause_s, by_time = ENDLESS[kind]
    tls, link_to = ADAPTERS[adapter]

    async def main() -> None:
        calls = [("health", health, 8), ("submit", submit, 8)]
        for route, call, mib in [*calls, ("attempts", attempts, 40)] if adapter == "proven" else calls:
            async with Hostile(route, first, again, pause_s).serving(tls()) as worker:
                link = link_to(worker.port)
                began = time.monotonic()
                with pytest.raises(LinkError):
                    await call(link)
                assert time.monotonic() - began < 5, "0.4 s, on a machine that is busy"
                assert worker.asked == 1, "it is not asked again"
                assert by_time or worker.written < mib * MIB
                await link.close()

    play(main)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_80_control_the_same_worker_is_heard_when_it_is_honest(adapter: str):
    tls, link_to = ADAPTERS[adapter]

    async def main() -> None:
        async with Hostile("nothing of it", b"").serving(tls()) as worker:
            link = link_to(worker.port)
            assert (await link.health()).worker_id == WORKER_ID
            assert (await link.submit(ORDER, opened)).job_id == "job-1"
            await link.close()

    play(main)


@pytest.mark.parametrize(
    ("first", "again", "pause_s", "words"),
    [
        (b'{"type":"hello","journal_id":"j","seq":1}\n{"type":"', b"a" * 65536, 0.0, "more than"),
        (b'{"type":"hello","journal_id":"j","seq":1}\n{"type":"', b"a", 0.02, "silent"),
        (b'{"type":"hello","journal_id":"j","seq":1}\n', b"", 0.0, "ended|silent|broke"),
        (b"", b"\n", 0.02, "hello|silent"),
    ],
    ids=["a line without end", "a line by drops", "nothing more", "empty lines only"],
)
def test_80_an_endless_event_ends(first: bytes, again: bytes, pause_s: float, words: str):
    async def main() -> None:
        hostile = Hostile("events", b"HTTP/1.1 200 OK\r\n\r\n" + first, again, pause_s)
        async with hostile.serving(proving()) as worker:
            link = pinned(worker.port, silence_s=5.0 if len(again) > 1 else 0.4)

            async def follow() -> None:
                async for _ in link.events("", 0):
                    pass

            with pytest.raises(LinkError, match=words):
                await follow()
            assert hostile.written < 40 * MIB
            await link.close()

    play(main)


async def over(link: SandrunLink) -> EndedEvent | InterruptedEvent:
    async for message in link.events("", 0):
        if isinstance(message, EndedEvent | InterruptedEvent):
            return message
    raise AssertionError("the events ended")


RESULTS = ("logs", "outputs", "download")
IN_RESULTS = ("headers", "body in chunks", "body longer than said", "refusal", "body by drops", "silence")


@pytest.mark.parametrize("route", RESULTS)
@pytest.mark.parametrize("kind", IN_RESULTS)
def test_80_endless_results_of_a_claimed_worker_fail_its_job_and_fill_nothing(
    kind: str, route: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sandrun_fetch, "MAX_LOG_ANSWER", MIB)
    monkeypatch.setattr(sandrun_fetch, "MAX_LIST_ANSWER", MIB)
    monkeypatch.setattr("trusted_pool.link.sandrun.MAX_FAILURES", 2)
    first, again, pause_s, _ = ENDLESS[kind]

    async def main() -> None:
        async with Hostile(route, first, again, pause_s).serving(None) as worker:
            link = claimed(worker.port)
            await link.submit(ORDER, opened)
            told = await over(link)
            if isinstance(told, EndedEvent):
                assert route == "download", "only a file may be too large, or not handed out"
                assert told.outcome.reason in (Reason.OUTPUT_LIMIT, Reason.BAD_OUTPUT)
            assert worker.written < 8 * MIB
            assert worker.asked <= 2
            blobs = link._blobs
            await link.release(told.remote_id)
            await link.close()
            assert blobs.unended == 0  # type: ignore[attr-defined]

    play(main)


def test_80_control_results_of_an_honest_one_are_copied():
    async def main() -> None:
        async with Hostile("nothing of it", b"").serving(None) as worker:
            link = claimed(worker.port)
            await link.submit(ORDER, opened)
            told = await over(link)
            assert isinstance(told, EndedEvent)
            assert [(f.path, f.size) for f in told.outcome.outputs] == [("out.txt", 6)]
            await link.close()

    play(main)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x"])
def test_70_a_redirect_is_not_followed(status: str, adapter: str):
    tls, link_to = ADAPTERS[adapter]

    async def main() -> None:
        async with Hostile("*", whole(b"{}")).serving(None) as elsewhere:
            where = f"location: http://127.0.0.1:{elsewhere.port}/elsewhere\r\n"
            for route, call in (("health", health), ("submit", submit)):
                async with Hostile(route, whole(b"", status, where)).serving(tls()) as worker:
                    link = link_to(worker.port)
                    with pytest.raises(LinkError, match="redirect"):
                        await call(link)
                    await link.close()
            assert elsewhere.connections == 0
            async with (  # the control: who follows comes there
                Hostile("*", whole(b"", status, where)).serving(None) as worker,
                aiohttp.ClientSession() as session,
            ):
                await (await session.get(f"http://127.0.0.1:{worker.port}/health")).read()
            assert elsewhere.connections == 1

    play(main)


def pinned_at(endpoint: str) -> PinnedLink:
    return PinnedLink(Worker(worker_id=WORKER_ID, endpoint=endpoint), POOL, 1, SystemClock())


def claimed_at(endpoint: str) -> SandrunLink:
    listed = Worker(worker_id=WORKER_ID, endpoint=endpoint, proven=False)
    return SandrunLink(listed, MemoryBlobs(), SystemClock(), CountingDice(), lambda p: Globs(p).matches)


@pytest.mark.parametrize("make", [pinned_at, claimed_at], ids=list(ADAPTERS))
@pytest.mark.parametrize(
    "endpoint",
    [
        "file:///etc/passwd",
        "http://me:secret@127.0.0.1:8443",
        "http://me@127.0.0.1",
        "//127.0.0.1:8443",
        "ftp://worker",
    ],
)
def test_70_an_endpoint_that_is_no_workers_address_is_refused(endpoint: str, make: Callable[[str], Link]):
    with pytest.raises(EndpointError, match="it must"):
        make(endpoint)
    make("http://127.0.0.1:8443")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_proxy_of_the_environment_sees_nothing(adapter: str, monkeypatch: pytest.MonkeyPatch):
    tls, link_to = ADAPTERS[adapter]

    async def main() -> None:
        async with (
            Hostile("*", whole(b"{}")).serving(None) as proxy,
            Hostile("nothing of it", b"").serving(tls()) as worker,
        ):
            for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv("no_proxy", "")
            link = link_to(worker.port)
            await link.health()
            await link.submit(ORDER, opened)
            await link.close()
            assert proxy.connections == 0
            async with aiohttp.ClientSession(trust_env=True) as session:  # the control
                await (await session.get(f"http://127.0.0.1:{worker.port}/health")).read()
            assert proxy.connections == 1

    play(main)
