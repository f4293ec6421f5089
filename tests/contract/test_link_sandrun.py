"""What of the contract of `WorkerLink` a worker of the sandrun API lets its line keep, over the stand-in."""

import asyncio
import contextlib
import gzip
import io
import tarfile
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from support.archives import tar_gz
from support.sandrun_worker import SandrunWorker, find_string, find_strings
from support.virtual_time import CountingDice
from trusted_pool.blobs.memory import MemoryBlobs
from trusted_pool.core.job import InputFile
from trusted_pool.core.words import AttemptState, Reason
from trusted_pool.core.worker import CLAIMED_OFFER, Worker
from trusted_pool.link.sandrun import Pace, SandrunLink
from trusted_pool.link.sandrun_answers import said
from trusted_pool.link.sandrun_manifest import Asked, flat
from trusted_pool.ports.blobs import BlobsError
from trusted_pool.ports.link import (
    FullError,
    GoneError,
    LinkError,
    NotSentError,
    OpenInput,
    Order,
    RefusedError,
    Sent,
    UnansweredError,
    WrongIdentityError,
)
from trusted_pool.protocol import frames
from trusted_pool.protocol.identity import identity_of
from trusted_pool.protocol.messages import EndedEvent, Hello, InterruptedEvent, StartedEvent, WorkerMessage
from trusted_pool.sandbox.globs import Globs

LONG = 30.0
PACE = Pace(poll_s=0.02, call_s=3.0, status_s=3.0, reply_s=3.0, idle_s=3.0)
SAY = b"import sys; print('out', *sys.argv[1:]); print('err', file=sys.stderr); open('new', 'wb').write(b'\\0\\xff')\n"


class SystemClock:
    def now(self) -> float:
        return time.time()  # noqa: TID251 - frames carry the machine's time

    def monotonic(self) -> float:
        return time.monotonic()


class Bench:
    """One stand-in, one line to it."""

    def __init__(self, worker: SandrunWorker, listed: Worker) -> None:
        self.worker = worker
        self.listed = listed
        self.blobs = MemoryBlobs()
        self.links: list[SandrunLink] = []
        self.link = self.another()

    def another(self, **pace: float) -> SandrunLink:
        """Return a line that knows nothing yet, as after a restart."""
        hurried = msgspec.structs.replace(PACE, **pace)
        link = SandrunLink(
            self.listed, self.blobs, SystemClock(), CountingDice(), lambda p: Globs(p).matches, pace=hurried
        )
        self.links.append(link)
        return link

    async def end(self, attempt: int = 1) -> EndedEvent | InterruptedEvent:
        """Follow until an attempt is over."""
        async with contextlib.aclosing(self.link.events("", 0)) as events:
            return await over(events, attempt)


async def over(events: AsyncIterator[WorkerMessage], attempt: int = 1) -> EndedEvent | InterruptedEvent:
    async for message in events:
        if isinstance(message, EndedEvent | InterruptedEvent) and message.attempt == attempt:
            return message
    raise AssertionError("the events ended")


Test = Callable[[Bench], Coroutine[Any, Any, None]]
On = Callable[..., None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def on(request: pytest.FixtureRequest, tmp_path: Path) -> On:
    """Run a test body on a bench; afterwards nothing is left staged."""

    def run(test: Test, *, claims: str | None = "", gap_s: float = 0.01) -> None:
        worker_id = identity_of(Ed25519PrivateKey.generate())
        with SandrunWorker(tmp_path, worker_id if claims == "" else claims, gap_s=gap_s) as worker:
            bench = Bench(worker, Worker(worker_id=worker_id, endpoint=worker.endpoint, proven=False))

            async def main() -> None:
                try:
                    async with asyncio.timeout(LONG):
                        await test(bench)
                finally:
                    for link in bench.links:
                        await link.close()

            with asyncio.Runner(loop_factory=request.param) as runner:
                runner.run(main())
            assert bench.blobs.unended == 0, "something is staged and nobody's"

    return run


def files(**contents: bytes) -> tuple[tuple[InputFile, ...], OpenInput]:
    inputs = tuple(InputFile(name=name, size=len(data), sha256="") for name, data in contents.items())

    async def open_input(file: InputFile) -> AsyncIterator[bytes]:
        data = contents[file.name]
        for start in range(0, len(data), 70_000):
            yield data[start : start + 70_000]

    return inputs, open_input


def project(program: bytes = SAY, **more: bytes) -> tuple[tuple[InputFile, ...], OpenInput]:
    return files(**{"project.tar.gz": tar_gz({"main.py": program, **more})})


def order(inputs: tuple[InputFile, ...] = (), attempt: int = 1, job: int = 1, **manifest: object) -> Order:
    fields = {"entrypoint": "main.py", "interpreter": "python3", **manifest}
    text = msgspec.json.encode(fields).decode()
    return Order(job_id=f"pool-{job:016x}", attempt=attempt, manifest=text, inputs=inputs)


async def sent(bench: Bench, program: bytes = SAY, attempt: int = 1, **manifest: object) -> str:
    inputs, open_input = project(program)
    return (await bench.link.submit(order(inputs, attempt, **manifest), open_input)).job_id


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def soon(holds: Callable[[], object]) -> None:
    """Wait for what the stand-in's thread does."""
    async with asyncio.timeout(LONG):
        while not holds():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)


def test_health_is_known_by_name_only_and_proves_nothing(on: On) -> None:
    async def body(bench: Bench) -> None:
        answer = await bench.link.health()
        assert (answer.status, answer.worker_id) == ("healthy", bench.worker.worker_id)
        assert answer.capacity == CLAIMED_OFFER
        assert (answer.capacity.slots, answer.capacity.isolation) == (1, 0)

    on(body)


@pytest.mark.parametrize("claims", [None, identity_of(Ed25519PrivateKey.generate())])
def test_another_name_at_the_endpoint_gets_nothing(on: On, claims: str | None) -> None:
    async def body(bench: Bench) -> None:
        with pytest.raises(WrongIdentityError, match="calls itself"):
            await bench.link.health()
        with pytest.raises(WrongIdentityError, match="calls itself"):
            await sent(bench)
        assert bench.worker.submits == []

    on(body, claims=claims)


def test_nobody_there_means_not_sent_and_it_may_be_sent_later(on: On) -> None:
    async def body(bench: Bench) -> None:
        await asyncio.to_thread(bench.worker.stop)
        for call in (bench.link.health(), sent(bench)):
            with pytest.raises(NotSentError):
                await call
        await asyncio.to_thread(bench.worker.start)
        assert await sent(bench) in bench.worker.knows()

    on(body)


def test_a_job_goes_through_and_its_results_outlive_the_worker(on: On) -> None:
    async def body(bench: Bench) -> None:
        inputs, open_input = project(**{"data": b"unchanged", "__pycache__/x.pyc": b"old"})
        remote = (await bench.link.submit(order(inputs, args=["a", "ü:,["]), open_input)).job_id
        async with contextlib.aclosing(bench.link.events("", 0)) as events:
            assert isinstance(await anext(events), Hello)
            began = await anext(events)
            assert isinstance(began, StartedEvent)
            ended = await over(events)
        assert isinstance(ended, EndedEvent)
        bench.worker.forget()
        await asyncio.to_thread(bench.worker.stop)
        outcome = ended.outcome
        assert (outcome.reason, outcome.exit_code) == (None, 0)
        assert [output.path for output in outcome.outputs] == ["new"]
        assert outcome.usage.memory_peak_bytes == 12 * 2**20
        assert outcome.usage.approximate
        assert await whole(bench.link.output(remote, "new")) == b"\0\xff"
        log = await whole(bench.link.log(remote, 0, follow=True))
        assert len(log) == outcome.log_bytes
        lines = [(frame.stream, frame.data.decode()) for frame in frames.Decoder().feed(log)]
        assert lines == [(frames.STDOUT, "out a ü:,[\n"), (frames.STDERR, "err\n")]
        assert await whole(bench.link.log(remote, 5, follow=False)) == log[5:]
        assert (ended.log, ended.files) == (log, {"new": b"\0\xff"})
        with pytest.raises(GoneError):
            await whole(bench.link.output(remote, "data"))
        await bench.link.release(remote)
        await bench.link.release(remote)
        with pytest.raises(GoneError):
            await whole(bench.link.output(remote, "new"))
        with pytest.raises(GoneError):
            await whole(bench.link.log(remote, 0, follow=False))

    on(body)


def test_large_results_stay_in_the_copy(on: On) -> None:
    program = b"open('big', 'wb').write(bytes(range(256)) * 4000); print('x' * 200_000)\n"

    async def body(bench: Bench) -> None:
        remote = await sent(bench, program)
        ended = await bench.end()
        assert isinstance(ended, EndedEvent)
        assert (ended.log, ended.files) == (None, None)
        assert await whole(bench.link.output(remote, "big")) == bytes(range(256)) * 4000
        log = await whole(bench.link.log(remote, 0, follow=False))
        assert b"".join(frame.data for frame in frames.Decoder().feed(log)) == b"x" * 200_000 + b"\n"
        assert await whole(bench.link.log(remote, 70_001, follow=False)) == log[70_001:]

    on(body)


def test_outputs_are_what_the_manifest_names_by_the_rules_of_the_pool(on: On) -> None:
    program = (
        b"import os; os.makedirs('results/deep'); open('results/deep/a', 'w'); open('b', 'w'); open('c.txt', 'w')\n"
    )

    async def body(bench: Bench) -> None:
        await sent(bench, program, outputs=["results/", "main.*"])
        ended = await bench.end()
        assert isinstance(ended, EndedEvent)
        assert [output.path for output in ended.outcome.outputs] == ["main.py", "results/deep/a"]

    on(body)


def test_how_a_job_failed(on: On) -> None:
    async def body(bench: Bench) -> None:
        await sent(bench, b"print('why'); raise SystemExit(3)\n")
        ended = await bench.end()
        assert isinstance(ended, EndedEvent)
        assert (ended.outcome.reason, ended.outcome.exit_code) == (Reason.EXIT_CODE, 3)
        assert ended.log is not None
        assert b"why" in ended.log
        await sent(bench, b"import os; os.kill(os.getpid(), 9)\n", attempt=2)
        ended = await bench.end(2)
        assert isinstance(ended, EndedEvent)
        assert (ended.outcome.reason, ended.outcome.signal) == (Reason.SIGNAL, 9)

    on(body)


def test_what_it_will_not_hand_out_or_is_too_much_fails_the_job_and_says_so(on: On) -> None:
    async def body(bench: Bench) -> None:
        await sent(bench, b"open('a', 'w'); open('not so', 'w')\n")
        ended = await bench.end()
        assert isinstance(ended, EndedEvent)
        assert ended.outcome.reason is Reason.BAD_OUTPUT
        assert "not so" in ended.outcome.detail
        assert [output.path for output in ended.outcome.outputs] == ["a"]
        await sent(bench, b"open('a', 'wb').write(bytes(2**20)); open('b', 'w').write('x')\n", attempt=2, disk_mb=1)
        ended = await bench.end(2)
        assert isinstance(ended, EndedEvent)
        assert (ended.outcome.reason, ended.outcome.limit) == (Reason.OUTPUT_LIMIT, "disk_mb")

    on(body)


def plain() -> tuple[tuple[InputFile, ...], OpenInput]:
    return files(**{"main.py": SAY, "leer": b"", "big": bytes(range(256)) * 3000})


def zipped() -> tuple[tuple[InputFile, ...], OpenInput]:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, data in (("main.py", SAY), ("leer", b""), ("big", bytes(range(256)) * 3000)):
            archive.writestr(file, data)
    return files(**{"job.zip": out.getvalue()})


def tarred() -> tuple[tuple[InputFile, ...], OpenInput]:
    contents = {"main.py": SAY, "leer": b"", "big": bytes(range(256)) * 3000}
    return files(**{"job.tar": gzip.decompress(tar_gz(contents))})


def misnamed() -> tuple[tuple[InputFile, ...], OpenInput]:
    _, open_input = tarred()
    data = asyncio.run(whole(open_input(InputFile(name="job.tar", size=0, sha256=""))))
    return files(**{"job.tgz": data})


@pytest.mark.parametrize("make", [plain, zipped, tarred, misnamed])
def test_whatever_was_uploaded_arrives_as_a_tarball(
    on: On, make: Callable[[], tuple[tuple[InputFile, ...], OpenInput]]
) -> None:
    inputs, open_input = make()

    async def body(bench: Bench) -> None:
        await bench.link.submit(order(inputs), open_input)
        (submit,) = bench.worker.submits
        ((name, data),) = submit.files.items()
        assert name == "project.tar.gz"
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            found = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
        assert found == {"main.py": SAY, "leer": b"", "big": bytes(range(256)) * 3000}
        ended = await bench.end()
        assert isinstance(ended, EndedEvent)
        assert ended.outcome.reason is None
        if make is not plain:  # whose digests these orders leave out
            assert [output.path for output in ended.outcome.outputs] == ["new"]

    on(body)


def test_the_same_attempt_again_is_the_same_remote_job(on: On) -> None:
    async def body(bench: Bench) -> None:
        first, again = await sent(bench), await sent(bench)
        assert first == again
        assert len(bench.worker.submits) == 1
        await bench.end()
        assert await sent(bench, attempt=2) != first

    on(body)


def test_a_lost_reply_is_never_sent_again(on: On) -> None:
    async def body(bench: Bench) -> None:
        bench.worker.lose_replies = 1
        with pytest.raises(UnansweredError):
            await sent(bench)
        await soon(lambda: bench.worker.submits)
        with pytest.raises(UnansweredError, match="not sent again"):
            await sent(bench)
        assert len(bench.worker.submits) == 1
        assert (await bench.link.attempts()).attempts == []
        assert await sent(bench, attempt=2) in bench.worker.knows()

    on(body)


def test_a_submit_given_up_half_way_is_not_sent_again(on: On) -> None:
    async def body(bench: Bench) -> None:
        bench.worker.holds_back = True
        first = await sent(bench, b"import time; time.sleep(0.5)\n")
        await soon(lambda: bench.worker.starts)
        call = asyncio.ensure_future(sent(bench, attempt=2))
        await asyncio.sleep(0.1)
        call.cancel()
        await asyncio.wait({call})
        with pytest.raises(UnansweredError, match="not sent again"):
            await sent(bench, attempt=2)
        ended = await bench.end()
        assert ended.remote_id == first

    on(body)


def test_429_is_full_and_asked_for_less_and_less_often(on: On) -> None:
    async def body(bench: Bench) -> None:
        bench.worker.hourly = 0
        link = bench.another(full_s=3.0, full_max_s=10.0)
        inputs, open_input = project()
        waits = []
        for _ in range(4):
            with pytest.raises(FullError, match="Hourly") as caught:
                await link.submit(order(inputs), open_input)
            waits.append(caught.value.retry_after_s)
        assert waits == [3.0, 6.0, 10.0, 10.0]
        bench.worker.hourly = 1
        await link.submit(order(inputs), open_input)
        with pytest.raises(FullError) as caught:
            await link.submit(order(inputs, attempt=2), open_input)
        assert caught.value.retry_after_s == 3.0

    on(body)


def test_what_it_cannot_be_told_is_refused_before_anything_is_sent(on: On) -> None:
    async def body(bench: Bench) -> None:
        for manifest, words in (
            ({"env": {"A": "b"}}, "env"),
            ({"cpu_seconds": 3}, "cpu_seconds"),
            ({"args": ['say "so"']}, "quote"),
            ({"args": ["a\nb"]}, "control"),
            ({"entrypoint": "a]b.py"}, "]"),
        ):
            with pytest.raises(RefusedError, match=words) as caught:
                await sent(bench, **manifest)
            assert "sandrun" in caught.value.words
        assert bench.worker.submits == []

    on(body)


words = st.text(max_size=12) | st.sampled_from(["args", "outputs", '"', "]", "environment", "interpreter", ":", "["])


@given(entrypoint=words.filter(bool), args=st.lists(words, max_size=5))
@example(entrypoint="args", args=["entrypoint", "x:y", "[z"])
@example(entrypoint="interpreter", args=["outputs", "environment", "a:[b"])
def test_a_manifest_is_read_as_meant_or_refused(entrypoint: str, args: list[str]) -> None:
    try:
        text = flat(Asked(entrypoint=entrypoint, interpreter="python3", args=args))
    except RefusedError:
        assert any(c in '"\\]' or ord(c) < 32 or ord(c) == 127 for word in (entrypoint, *args) for c in word)
        return
    except UnicodeEncodeError:
        raise AssertionError("half a surrogate pair came through") from None
    assert find_string(text, "entrypoint") == entrypoint
    assert find_string(text, "interpreter") == "python3"
    assert find_strings(text, "args") == args
    assert find_strings(text, "outputs") == []
    assert find_string(text, "environment") == ""


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_is_what_the_job_wrote_however_the_worker_escapes_it(text: str) -> None:
    raw = text.encode()
    assert said(raw.decode("latin-1")) == raw
    if not text.isascii() and any(ord(c) > 255 for c in text):
        assert said(text) == raw


def test_an_input_that_cannot_be_read_runs_nothing(on: On) -> None:
    async def unreadable(_: InputFile) -> AsyncIterator[bytes]:
        yield b"\x1f\x8b" + b"x" * 200_000
        raise BlobsError("the disk is on fire")

    async def shorter(_: InputFile) -> AsyncIterator[bytes]:
        yield b"\x1f\x8bx"

    async def body(bench: Bench) -> None:
        for name in ("a.tar.gz", "a.zip", "a"):
            inputs = (InputFile(name=name, size=400_000, sha256=""),)
            for wrong in (unreadable, shorter):
                with pytest.raises(BlobsError):
                    await bench.link.submit(order(inputs), wrong)
        assert all(submit.answered != 200 for submit in bench.worker.submits)
        assert bench.worker.knows() == set()
        assert await sent(bench) in bench.worker.knows()

    on(body)


def test_a_restarted_worker_has_lost_what_it_had(on: On) -> None:
    async def body(bench: Bench) -> None:
        await sent(bench, b"import time; time.sleep(30)\n")
        async with contextlib.aclosing(bench.link.events("", 0)) as events:
            assert isinstance(await anext(events), Hello)
            assert isinstance(await anext(events), StartedEvent)
            await asyncio.to_thread(bench.worker.stop)
            with pytest.raises(NotSentError):
                await over(events)
        await asyncio.to_thread(bench.worker.start)
        report = await bench.end()
        assert isinstance(report, InterruptedEvent)
        assert "restarted" in report.words

    on(body)


def test_events_resume_where_they_were_and_an_unknown_journal_is_told_nothing_of_the_past(on: On) -> None:
    async def body(bench: Bench) -> None:
        await sent(bench)
        ended = await bench.end()
        answer = await bench.link.attempts()
        assert answer.seq == ended.seq == 2
        assert [report.state for report in answer.attempts] == [AttemptState.ENDED]
        async with contextlib.aclosing(bench.link.events(answer.journal_id, 1)) as events:
            assert await anext(events) == Hello(journal_id=answer.journal_id, seq=2)
            assert await anext(events) == ended
        async with contextlib.aclosing(bench.link.events("another", 0)) as events:
            assert await anext(events) == Hello(journal_id=answer.journal_id, seq=2)
            waiting = asyncio.ensure_future(anext(events))
            await sent(bench, attempt=2)
            began = await waiting
            assert isinstance(began, StartedEvent)
            assert began.attempt == 2

    on(body)


def test_another_line_takes_over_what_was_sent(on: On) -> None:
    async def body(bench: Bench) -> None:
        inputs, open_input = project(data=b"unchanged")
        gone = Sent(order=order(inputs, job=2), remote_id="job_1_99")
        there = Sent(order=order(inputs), remote_id=(await bench.link.submit(order(inputs), open_input)).job_id)
        await bench.link.close()
        bench.link = bench.another()
        for _ in range(2):
            await bench.link.adopt([there, gone], open_input)
        answer = await bench.link.attempts()
        assert [report.remote_id for report in answer.attempts] == [there.remote_id, gone.remote_id]
        found: dict[str, WorkerMessage] = {}
        async with contextlib.aclosing(bench.link.events("", 0)) as events:
            while len(found) < 2:
                message = await anext(events)
                if isinstance(message, EndedEvent | InterruptedEvent):
                    found[message.remote_id] = message
        ended = found[there.remote_id]
        assert isinstance(ended, EndedEvent)
        assert ended.files == {"new": b"\0\xff"}
        assert isinstance(found[gone.remote_id], InterruptedEvent)
        assert len(bench.worker.submits) == 1
        await bench.link.adopt([there], open_input)
        states = {report.remote_id: report.state for report in (await bench.link.attempts()).attempts}
        assert states == {there.remote_id: AttemptState.ENDED, gone.remote_id: AttemptState.INTERRUPTED}

    on(body)


def test_a_worker_that_holds_back_its_answers_while_it_runs_is_no_lost_worker(on: On) -> None:
    async def body(bench: Bench) -> None:
        bench.worker.holds_back = True
        bench.link = bench.another(status_s=0.05, call_s=1.0)
        await sent(bench, b"import time; time.sleep(0.6)\n")
        await soon(lambda: bench.worker.starts)
        assert (await bench.link.health()).status == "healthy"
        ended = await bench.end()
        assert isinstance(ended, EndedEvent)
        assert ended.outcome.reason is None

    on(body)


def test_cancel_of_what_it_cannot_end_throws_the_result_away(on: On) -> None:
    async def body(bench: Bench) -> None:
        remote = await sent(bench, b"import time; time.sleep(0.4); open('late', 'w')\n")
        await soon(lambda: bench.worker.starts)
        await bench.link.cancel(remote)
        assert bench.worker.cancels == 1
        ended = await bench.end()
        assert isinstance(ended, EndedEvent)
        assert (ended.outcome.reason, ended.outcome.outputs) == (Reason.CANCELLED, ())
        await bench.link.cancel(remote)
        assert bench.worker.cancels == 1, "what has ended needs no cancel"
        await bench.link.release(remote)
        bench.worker.forget()
        with pytest.raises(GoneError):
            await bench.link.cancel(remote)

    on(body)


def test_a_stream_left_early_leaves_the_link_usable(on: On) -> None:
    async def body(bench: Bench) -> None:
        remote = await sent(bench, b"open('big', 'wb').write(bytes(3_000_000))\n")
        await bench.end()
        for _ in range(5):
            output = bench.link.output(remote, "big")
            assert await anext(output)
            await output.aclose()
        assert (await bench.link.health()).status == "healthy"

    on(body)


def test_after_close_nothing_is_sent(on: On) -> None:
    async def body(bench: Bench) -> None:
        remote = await sent(bench, b"import time; time.sleep(5)\n")
        following = asyncio.ensure_future(whole(bench.link.log(remote, 0, follow=True)))
        await asyncio.sleep(0)
        await bench.link.close()
        await bench.link.close()
        with pytest.raises(GoneError):
            await following
        for call in (sent(bench, attempt=2), bench.link.attempts()):
            with pytest.raises(NotSentError):
                await call
        events = bench.link.events("", 0)
        assert isinstance(await anext(events), Hello)
        with pytest.raises(NotSentError):
            await anext(events)
        assert len(bench.worker.submits) == 1

    on(body)


def test_close_cuts_all_that_is_under_way_at_once(on: On) -> None:
    async def body(bench: Bench) -> None:
        bench.worker.holds_back = True
        await sent(bench, b"import time; time.sleep(2)\n")
        await soon(lambda: bench.worker.starts)
        events = bench.link.events("", 0)
        assert isinstance(await anext(events), Hello)
        calls = [asyncio.ensure_future(anext(events)), asyncio.ensure_future(sent(bench, attempt=2))]
        await soon(lambda: bench.worker.waiting)
        async with asyncio.timeout(1.0):  # the worker answers later
            await bench.link.close()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, LinkError) for outcome in outcomes), outcomes
        assert isinstance(outcomes[1], UnansweredError), "the worker may have it"

    on(body)
