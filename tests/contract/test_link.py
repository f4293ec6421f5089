"""The contract of `WorkerLink`, over the pinned link (asyncio and uvloop) and over the fake one."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trusted_pool.core.job import InputFile, Outcome, OutputFile
from trusted_pool.core.words import AttemptState, Reason
from trusted_pool.core.worker import Worker
from trusted_pool.link.fake import FakeLink, Fate, Wire
from trusted_pool.link.fake_http import application
from trusted_pool.link.fake_worker import FakeWorker, Parcel
from trusted_pool.link.pinned import PinnedLink
from trusted_pool.ports.blobs import BlobsError
from trusted_pool.ports.link import (
    FencedError,
    FullError,
    GoneError,
    LinkError,
    NotSentError,
    OpenInput,
    Order,
    RefusedError,
    UnansweredError,
    WorkerLink,
    WrongIdentityError,
)
from trusted_pool.protocol.certificates import server_context
from trusted_pool.protocol.errors import (
    BadManifestError,
    BusyError,
    ConflictError,
    PoolError,
    StaleEpochError,
    UnavailableError,
)
from trusted_pool.protocol.frames import STDOUT, Decoder, encode
from trusted_pool.protocol.identity import identity_of
from trusted_pool.protocol.messages import AcceptedAnswer, EndedEvent, Hello, InterruptedEvent, StartedEvent
from trusted_pool.serve import Server

LONG = 20.0


class SystemClock:
    def now(self) -> float:
        return time.time()  # noqa: TID251 - certificates are checked by the machine's clock

    def monotonic(self) -> float:
        return time.monotonic()


class Bench:
    """One worker, one link to it, and a way to break what lies between."""

    def __init__(self, worker: FakeWorker, link: WorkerLink, break_line: Callable[[], Awaitable[None]]) -> None:
        self.worker = worker
        self.link = link
        self.break_line = break_line


@contextlib.asynccontextmanager
async def fake_bench(claimed_id: str | None = None) -> AsyncIterator[Bench]:
    worker = FakeWorker(identity_of(Ed25519PrivateKey.generate()))
    wire = Wire(worker)
    listed = Worker(worker_id=claimed_id or worker.worker_id, endpoint="https://fake:1")
    link = FakeLink(listed, wire, identity_of(Ed25519PrivateKey.generate()))

    async def break_line() -> None:
        wire.cut()

    yield Bench(worker, link, break_line)
    await link.close()


@contextlib.asynccontextmanager
async def pinned_bench(claimed_id: str | None = None) -> AsyncIterator[Bench]:
    clock, key, pool = SystemClock(), Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    worker = FakeWorker(identity_of(key))
    server = Server(application(worker), host="127.0.0.1", port=0, ssl_context=server_context(key, clock.now))
    await server.start()
    listed = Worker(worker_id=claimed_id or worker.worker_id, endpoint=f"http://127.0.0.1:{server.port}")
    link = PinnedLink(listed, pool, 7, clock)

    async def break_line() -> None:
        await server.stop(0)

    try:
        yield Bench(worker, link, break_line)
    finally:
        await link.close()
        await server.stop(0)


Test = Callable[[Bench], Coroutine[Any, Any, None]]
On = Callable[..., None]
ADAPTERS = {
    "fake": (fake_bench, asyncio.new_event_loop),
    "pinned": (pinned_bench, asyncio.new_event_loop),
    "pinned-uvloop": (pinned_bench, uvloop.new_event_loop),
}


@pytest.fixture(params=list(ADAPTERS))
def on(request: pytest.FixtureRequest) -> On:
    """Run a test body on a bench of each adapter."""
    make, loop = ADAPTERS[request.param]

    def run(test: Test, **how: Any) -> None:
        async def main() -> None:
            async with asyncio.timeout(LONG), make(**how) as bench:
                await test(bench)

        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(main())

    return run


def files(**contents: bytes) -> tuple[tuple[InputFile, ...], OpenInput]:
    inputs = tuple(InputFile(name=name, size=len(data), sha256="") for name, data in contents.items())

    async def open_input(file: InputFile) -> AsyncIterator[bytes]:
        data = contents[file.name]
        for start in range(0, len(data), 70_000):
            yield data[start : start + 70_000]

    return inputs, open_input


def order(job_id: str = "pool-0123456789abcdef", attempt: int = 1, inputs: tuple[InputFile, ...] = ()) -> Order:
    return Order(job_id=job_id, attempt=attempt, manifest='{"entrypoint":"main.py"}', inputs=inputs)


NOTHING, READ_NOTHING = files()


async def taken(bench: Bench) -> str:
    return (await bench.link.submit(order(), READ_NOTHING)).job_id


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


def test_health_says_what_the_worker_offers(on: On) -> None:
    async def body(bench: Bench) -> None:
        answer = await bench.link.health()
        assert (answer.status, answer.worker_id, answer.capacity.slots) == ("healthy", bench.worker.worker_id, 4)

    on(body)


def test_submit_brings_every_byte_and_who_sent_it(on: On) -> None:
    async def body(bench: Bench) -> None:
        contents = {"project.tar.gz": bytes(range(256)) * 1500, "leer": b"", "ümlaut b.txt": b"\r\n--x\r\n"}
        inputs, open_input = files(**contents)
        answer = await bench.link.submit(order(attempt=3, inputs=inputs), open_input)
        assert answer.job_id in bench.worker.held
        (parcel,) = bench.worker.parcels
        assert dict(parcel.files) == contents
        assert [name for name, _ in parcel.files] == list(contents)
        assert (parcel.order.job_id, parcel.order.attempt) == ("pool-0123456789abcdef", 3)
        assert parcel.order.manifest == '{"entrypoint":"main.py"}'

    on(body)


def test_the_same_attempt_again_is_the_same_remote_job(on: On) -> None:
    async def body(bench: Bench) -> None:
        first = await bench.link.submit(order(), READ_NOTHING)
        bench.worker.start(first.job_id, at=5.0)
        again = await bench.link.submit(order(), READ_NOTHING)
        other = await bench.link.submit(order(attempt=2), READ_NOTHING)
        assert again.job_id == first.job_id
        assert again.started_at == 5.0
        assert other.job_id != first.job_id
        assert len(bench.worker.held) == 2

    on(body)


@pytest.mark.parametrize(
    ("refusal", "expected", "wait_s"),
    [
        (BadManifestError("no such interpreter", hint="use python3"), RefusedError, None),
        (PoolError("gone", status=404), RefusedError, None),
        (PoolError("slow", status=408), FullError, None),
        (BusyError("full", retry_after_s=30), FullError, 30.0),
        (UnavailableError("draining"), FullError, None),
        (PoolError("broken", status=500), UnansweredError, None),
        (PoolError("disk full", status=507), UnansweredError, None),
        (ConflictError("it contradicts", hint="do otherwise"), RefusedError, None),
        (StaleEpochError("another coordinator has it", hint="stop one"), FencedError, None),
    ],
)
def test_what_an_answer_to_submit_means(
    on: On, refusal: PoolError, expected: type[LinkError], wait_s: float | None
) -> None:
    async def body(bench: Bench) -> None:
        bench.worker.refusal = refusal
        with pytest.raises(LinkError) as caught:
            await bench.link.submit(order(), READ_NOTHING)
        assert type(caught.value) is expected
        assert refusal.message in str(caught.value)
        assert getattr(caught.value, "retry_after_s", None) == wait_s
        if isinstance(caught.value, RefusedError):
            assert caught.value.status == refusal.status
            assert refusal.hint in caught.value.words

    on(body)


def test_words_of_a_refusal_are_one_line_of_500_characters(on: On) -> None:
    async def body(bench: Bench) -> None:
        bench.worker.refusal = BadManifestError("no\r\n\x1b[31m" + "n" * 9000)
        with pytest.raises(RefusedError) as caught:
            await bench.link.submit(order(), READ_NOTHING)
        assert len(caught.value.words) == 500
        assert caught.value.words.isprintable()

    on(body)


def test_an_input_that_cannot_be_read_leaves_no_job_behind(on: On) -> None:
    async def unreadable(_: InputFile) -> AsyncIterator[bytes]:
        yield b"x" * 200_000
        raise BlobsError("the disk is on fire")

    async def shorter(_: InputFile) -> AsyncIterator[bytes]:
        yield b"x"

    async def longer(_: InputFile) -> AsyncIterator[bytes]:
        yield b"x" * 400_001

    async def body(bench: Bench) -> None:
        inputs = (InputFile(name="a", size=400_000, sha256=""),)
        with pytest.raises(BlobsError, match="on fire"):
            await bench.link.submit(order(inputs=inputs), unreadable)
        for wrong in (shorter, longer):
            with pytest.raises(BlobsError, match="promised"):
                await bench.link.submit(order(inputs=inputs), wrong)
        assert bench.worker.parcels == []
        assert (await bench.link.attempts()).attempts == []

    on(body)


def test_another_key_at_the_endpoint_gets_nothing(on: On) -> None:
    async def body(bench: Bench) -> None:
        inputs, open_input = files(secret=b"secret" * 1000)
        for call in (
            bench.link.health(),
            bench.link.attempts(),
            bench.link.submit(order(inputs=inputs), open_input),
            anext(bench.link.events("", 0)),
        ):
            with pytest.raises(WrongIdentityError):
                await call
        assert bench.worker.parcels == []

    on(body, claimed_id=identity_of(Ed25519PrivateKey.generate()))


def test_nobody_there_means_not_sent(on: On) -> None:
    async def body(bench: Bench) -> None:
        await bench.break_line()
        for call in (bench.link.health(), bench.link.submit(order(), READ_NOTHING), bench.link.release("remote-1")):
            with pytest.raises(NotSentError):
                await call

    on(body)


def test_events_begin_with_hello_then_what_came_after_then_live(on: On) -> None:
    async def body(bench: Bench) -> None:
        remote = await taken(bench)
        bench.worker.start(remote, at=5.0)
        outcome = Outcome(reason=Reason.EXIT_CODE, exit_code=3, detail="it said no")
        bench.worker.say(remote, encode(5.5, STDOUT, b"hello\n"))
        events = bench.link.events("journal", 0)
        assert await anext(events) == Hello(journal_id="journal", seq=1)
        began = await anext(events)
        assert isinstance(began, StartedEvent)
        assert (began.seq, began.remote_id, began.at) == (1, remote, 5.0)
        live = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        bench.worker.end(remote, outcome, {"results/a": b"\x00\xff"}, inline=True)
        ended = await live
        assert isinstance(ended, EndedEvent)
        assert ended.outcome == outcome
        assert ended.files == {"results/a": b"\x00\xff"}
        assert ended.log == encode(5.5, STDOUT, b"hello\n")
        await events.aclose()
        resumed = bench.link.events("journal", 1)
        assert [type(await anext(resumed)) for _ in range(2)] == [Hello, EndedEvent]
        await resumed.aclose()

    on(body)


def test_an_unknown_journal_is_told_nothing_of_the_past(on: On) -> None:
    async def body(bench: Bench) -> None:
        remote = await taken(bench)
        bench.worker.start(remote)
        events = bench.link.events("another", 40)
        assert await anext(events) == Hello(journal_id="journal", seq=1)
        live = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        bench.worker.interrupt(remote, "restarted")
        message = await live
        assert isinstance(message, InterruptedEvent)
        assert (message.seq, message.words) == (2, "restarted")
        await events.aclose()

    on(body)


def test_a_broken_line_ends_the_events_with_an_error(on: On) -> None:
    async def body(bench: Bench) -> None:
        events = bench.link.events("", 0)
        assert isinstance(await anext(events), Hello)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        await bench.break_line()
        with pytest.raises(LinkError):
            await waiting

    on(body)


def test_attempts_report_all(on: On) -> None:
    async def body(bench: Bench) -> None:
        remote = await taken(bench)
        bench.worker.start(remote, at=9.0)
        answer = await bench.link.attempts()
        assert (answer.journal_id, answer.seq) == ("journal", 1)
        (report,) = answer.attempts
        assert (report.remote_id, report.state, report.started_at) == (remote, AttemptState.RUNNING, 9.0)

    on(body)


def test_outputs_by_any_path_byte_for_byte(on: On) -> None:
    async def body(bench: Bench) -> None:
        remote = await taken(bench)
        big = bytes(range(256)) * 4000
        outputs = {"results/big": big, "empty": b"", "a b/ü%2f?#&.txt": b"odd", "a/..b": b"dots"}
        bench.worker.end(remote, Outcome(), outputs)
        for path, data in outputs.items():
            assert await whole(bench.link.output(remote, path)) == data
        with pytest.raises(GoneError, match="no output"):
            await whole(bench.link.output(remote, "nothing"))
        with pytest.raises(GoneError):
            await whole(bench.link.output("nobody/../x", "results/big"))

    on(body)


def test_log_from_any_byte_and_followed_to_the_end(on: On) -> None:
    async def body(bench: Bench) -> None:
        remote = await taken(bench)
        bench.worker.start(remote)
        first, second = encode(1.0, STDOUT, b"one\n"), encode(2.0, STDOUT, b"two\n")
        bench.worker.say(remote, first)
        assert await whole(bench.link.log(remote, 3, follow=False)) == first[3:]
        assert await whole(bench.link.log(remote, 10_000, follow=False)) == b""
        followed = bench.link.log(remote, 0, follow=True)
        assert await anext(followed) == first
        rest = asyncio.ensure_future(whole(followed))
        await asyncio.sleep(0)
        bench.worker.say(remote, second)
        bench.worker.end(remote, Outcome())
        assert [frame.data for frame in Decoder().feed(first + await rest)] == [b"one\n", b"two\n"]
        with pytest.raises(GoneError):
            await whole(bench.link.log("nobody", 0, follow=True))

    on(body)


def test_cancel_ends_it_and_release_forgets_it(on: On) -> None:
    async def body(bench: Bench) -> None:
        remote = await taken(bench)
        bench.worker.start(remote)
        await bench.link.cancel(remote)
        assert bench.worker.held[remote].report.state is AttemptState.ENDED
        await bench.link.release(remote)
        assert bench.worker.held == {}
        await bench.link.release(remote)
        with pytest.raises(GoneError):
            await bench.link.cancel(remote)

    on(body)


def test_releases_at_once_all_count_and_what_is_gone_is_no_error(on: On) -> None:
    async def body(bench: Bench) -> None:
        remotes = []
        for number in (1, 2, 3):
            remotes.append((await bench.link.submit(order(f"pool-{number}"), READ_NOTHING)).job_id)
            bench.worker.end(remotes[-1], Outcome())
        await asyncio.gather(*(bench.link.release(remote) for remote in (*remotes, "gone", *remotes[:1])))
        assert bench.worker.held == {}

    on(body)


def test_a_stream_left_early_leaves_the_link_usable(on: On) -> None:
    async def body(bench: Bench) -> None:
        remote = await taken(bench)
        bench.worker.end(remote, Outcome(), {"big": b"x" * 3_000_000})
        for _ in range(5):
            output = bench.link.output(remote, "big")
            assert await anext(output)
            await output.aclose()
        assert (await bench.link.health()).status == "healthy"

    on(body)


def test_a_cancelled_call_leaves_the_link_usable(on: On) -> None:
    async def body(bench: Bench) -> None:
        for _ in range(5):
            call = asyncio.ensure_future(bench.link.submit(order(), READ_NOTHING))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait({call})
        assert (await bench.link.health()).status == "healthy"

    on(body)


def test_close_cuts_all_that_is_under_way_at_once(on: On) -> None:
    async def body(bench: Bench) -> None:
        remote = await taken(bench)
        real, asked, answer = bench.worker.submit, asyncio.Event(), asyncio.Event()

        async def slow(parcel: Parcel) -> AcceptedAnswer:
            taken = await real(parcel)
            asked.set()
            await answer.wait()
            return taken

        bench.worker.submit = slow  # type: ignore[method-assign]
        events = bench.link.events("", 0)
        assert isinstance(await anext(events), Hello)
        bench.worker.say(remote, encode(1.0, STDOUT, b"x"))
        log = bench.link.log(remote, 0, follow=True)
        assert await anext(log)
        calls = [
            asyncio.ensure_future(anext(events)),
            asyncio.ensure_future(anext(log)),
            asyncio.ensure_future(bench.link.submit(order(attempt=2), READ_NOTHING)),
        ]
        await asked.wait()
        async with asyncio.timeout(2.0):  # long before anybody loses patience
            await bench.link.close()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, LinkError) for outcome in outcomes), outcomes
        assert isinstance(outcomes[2], UnansweredError), "the worker may have it"
        bench.worker.end(remote, Outcome(exit_code=0))
        answer.set()
        for call in (bench.link.health(), bench.link.attempts(), anext(bench.link.events("", 0))):
            with pytest.raises(NotSentError):
                await call

    on(body)


def test_a_submit_that_is_cut_in_the_middle_does_not_become_a_job(on: On) -> None:
    async def body(bench: Bench) -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow(_: InputFile) -> AsyncIterator[bytes]:
            yield b"x" * 300_000
            begun.set()
            await go_on.wait()
            yield b"x" * 300_000

        inputs = (InputFile(name="a", size=600_000, sha256=""),)
        call = asyncio.ensure_future(bench.link.submit(order(inputs=inputs), slow))
        await begun.wait()
        await bench.link.close()
        go_on.set()
        with pytest.raises(LinkError):
            await call
        assert bench.worker.parcels == []

    on(body)


def test_after_close_nothing_is_sent(on: On) -> None:
    async def body(bench: Bench) -> None:
        await bench.link.health()
        await bench.link.close()
        await bench.link.close()
        with pytest.raises(NotSentError):
            await bench.link.submit(order(), READ_NOTHING)
        assert bench.worker.parcels == []

    on(body)


def test_many_calls_at_once(on: On) -> None:
    async def body(bench: Bench) -> None:
        orders = [order(job_id=f"pool-{n:016x}") for n in range(50)]
        answers = await asyncio.gather(*(bench.link.submit(each, READ_NOTHING) for each in orders))
        assert len({answer.job_id for answer in answers}) == 50

    on(body)


@given(contents=st.dictionaries(st.text("abcé 0-_.;=", min_size=1, max_size=9), st.binary(max_size=200), max_size=4))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_survive_the_pinned_link(contents: dict[str, bytes]) -> None:
    async def main() -> None:
        async with pinned_bench() as bench:
            inputs, open_input = files(**contents)
            await bench.link.submit(order(inputs=inputs), open_input)
            assert dict(bench.worker.parcels[0].files) == contents

    asyncio.run(main())


def fated(fate: Callable[[str], Fate], test: Callable[[FakeWorker, FakeLink], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        worker = FakeWorker(identity_of(Ed25519PrivateKey.generate()))
        listed = Worker(worker_id=worker.worker_id, endpoint="https://fake:1")
        await test(worker, FakeLink(listed, Wire(worker, fate), "pool"))

    asyncio.run(main())


def test_fake_wire_loses_a_request_or_only_its_reply():
    fates = iter([Fate(arrives=False), Fate(answered=False), Fate()])

    async def body(worker: FakeWorker, link: FakeLink) -> None:
        with pytest.raises(NotSentError):
            await link.submit(order(), READ_NOTHING)
        assert worker.parcels == []
        with pytest.raises(UnansweredError):
            await link.submit(order(), READ_NOTHING)
        assert len(worker.held) == 1
        await link.submit(order(), READ_NOTHING)
        assert len(worker.held) == 1

    fated(lambda _: next(fates), body)


def test_fake_wire_delivers_twice():
    async def body(worker: FakeWorker, link: FakeLink) -> None:
        remote = (await link.submit(order(), READ_NOTHING)).job_id
        assert (len(worker.parcels), len(worker.held)) == (2, 1)
        worker.start(remote)
        events = link.events("journal", 0)
        assert [type(await anext(events)) for _ in range(4)] == [Hello, Hello, StartedEvent, StartedEvent]
        await events.aclose()

    fated(lambda _: Fate(copies=2), body)


def test_fake_wire_breaks_a_stream_between_messages():
    fates = iter([Fate(), Fate(), Fate(), Fate(arrives=False)])  # submit, events, hello, started

    async def body(worker: FakeWorker, link: FakeLink) -> None:
        remote = (await link.submit(order(), READ_NOTHING)).job_id
        worker.start(remote)
        events = link.events("journal", 0)
        assert isinstance(await anext(events), Hello)
        with pytest.raises(LinkError):
            await anext(events)

    fated(lambda _: next(fates), body)


def test_the_largest_outcome_that_a_job_can_cause_gets_through(on: On) -> None:
    """Else one job's file names would end the events of its worker for good."""
    paths = [f"{n:05}" + '"' * 99 for n in range(10_000)]
    outcome = Outcome(outputs=tuple(OutputFile(path=path, size=1, sha256="0" * 64) for path in paths))

    async def body(bench: Bench) -> None:
        remote = await taken(bench)
        bench.worker.end(remote, outcome)
        events = bench.link.events("journal", 0)
        await anext(events)
        ended = await anext(events)
        assert isinstance(ended, EndedEvent)
        assert ended.outcome == outcome
        await events.aclose()
        (report,) = (await bench.link.attempts()).attempts
        assert report.outcome == Outcome(more_outputs=10_000)
        assert await bench.link.outputs(remote) == outcome.outputs
        with pytest.raises(GoneError):
            await bench.link.outputs("nobody")

    on(body)


def test_however_much_a_worker_has_is_compared(on: On) -> None:
    """Else one burst of jobs with many files would make that impossible until somebody removed them by hand."""
    outputs = tuple(OutputFile(path=f"{n:05}".ljust(100, "x"), size=1, sha256="0" * 64) for n in range(10_000))

    async def body(bench: Bench) -> None:
        remotes = [(await bench.link.submit(order(f"pool-{n}"), READ_NOTHING)).job_id for n in range(20)]
        for remote in remotes:
            bench.worker.end(remote, Outcome(outputs=outputs))
        answer = await bench.link.attempts()
        assert [report.remote_id for report in answer.attempts] == remotes
        assert await bench.link.outputs(remotes[-1]) == outputs

    on(body)
