"""The worker's use cases over a sandbox whose jobs end when the test says so."""

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from trusted_pool.blobs.memory import MemoryBlobs
from trusted_pool.core.job import InputFile, Outcome, OutputFile
from trusted_pool.core.request import Capacity
from trusted_pool.core.words import AttemptState, Reason
from trusted_pool.journal.memory import MemoryJournal
from trusted_pool.ports.journal import Entry
from trusted_pool.ports.sandbox import OnLog, OpenInput, OutputMissingError, Task
from trusted_pool.protocol import frames, messages
from trusted_pool.protocol.errors import (
    BusyError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    PoolError,
    StaleEpochError,
    UnavailableError,
)
from trusted_pool.worker import daemon
from trusted_pool.worker.daemon import Daemon
from trusted_pool.worker.intake import FilePart, ManifestPart, Part
from trusted_pool.worker.logs import follow_log

POOL = "pool-a"
MANIFEST = b'{"entrypoint": "main.py", "interpreter": "python3"}'


class HeldSandbox:
    """A sandbox whose tasks run until `end` is called."""

    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        self.runs: list[str] = []
        self.tasks: dict[str, Task] = {}
        self.stopped: list[str] = []
        self.files: dict[str, dict[str, bytes]] = {}
        self.kept: frozenset[str] | None = None
        self._ends: dict[str, asyncio.Future[Outcome]] = {}
        self._logs: dict[str, OnLog] = {}

    async def start(self) -> None:
        pass

    def capacity(self) -> Capacity:
        return Capacity(slots=self.slots, memory_mb=1024, interpreters={"python3": "3"}, isolation=2)

    async def run(
        self, task: Task, open_input: OpenInput, on_log: OnLog, on_start: Callable[[], Awaitable[None]]
    ) -> Outcome:
        self.runs.append(task.key)
        self.tasks[task.key] = task
        end = self._ends[task.key] = asyncio.get_running_loop().create_future()
        self._logs[task.key] = on_log
        for file in task.inputs:
            data = b"".join([piece async for piece in open_input(file)])
            assert hashlib.sha256(data).hexdigest() == file.sha256
        await on_start()
        try:
            return await end
        finally:
            del self._ends[task.key]

    async def stop(self, key: str, grace_s: float) -> None:
        assert grace_s == 10.0
        if key in self._ends:
            self.stopped.append(key)
            self.end(key, Outcome(reason=Reason.CANCELLED))

    def say(self, key: str, text: bytes) -> None:
        self._logs[key](frames.STDOUT, text)

    def end(self, key: str, outcome: Outcome | None = None, files: dict[str, bytes] | None = None) -> None:
        self.files[key] = files or {}
        outputs = tuple(
            OutputFile(path=p, size=len(d), sha256=hashlib.sha256(d).hexdigest()) for p, d in self.files[key].items()
        )
        if not self._ends[key].done():
            self._ends[key].set_result(outcome or Outcome(exit_code=0, outputs=outputs))

    async def output(self, key: str, path: str) -> AsyncIterator[bytes]:
        if path not in self.files.get(key, {}):
            raise OutputMissingError(path)
        yield self.files[key][path]

    async def discard(self, key: str) -> None:
        self.files.pop(key, None)

    async def sweep(self, keep: frozenset[str]) -> list[str]:
        self.kept = keep
        return []

    async def close(self) -> None:
        for key in list(self._ends):
            self.end(key, Outcome(reason=Reason.CANCELLED))


class Ticks:
    """A clock that the test moves."""

    at = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Numbers:
    """Dice that count."""

    def __init__(self) -> None:
        self._next = itertools.count(1)

    def token(self, n_bytes: int) -> str:
        return f"{next(self._next):0{2 * n_bytes}x}"

    def jitter(self) -> float:
        return 0.5


class Remembered:
    """An enrolment in memory."""

    how_to_forget = "tpool worker --forget-pool --worker-key worker.pem"

    def __init__(self, pool_id: str | None = None) -> None:
        self.pool_id = pool_id

    def load(self) -> str | None:
        return self.pool_id

    def save(self, pool_id: str) -> None:
        self.pool_id = pool_id


class Rig:
    """A daemon over fakes."""

    def __init__(self, journal: MemoryJournal | None = None, slots: int = 2, dice: Numbers | None = None) -> None:
        self.sandbox = HeldSandbox(slots)
        self.journal = journal or MemoryJournal("j1")
        self.blobs = MemoryBlobs()
        self.dice = dice or Numbers()
        self.daemon = Daemon(
            worker_id="w1",
            sandbox=self.sandbox,
            journal=self.journal,
            blobs=self.blobs,
            enrolment=Remembered(),
            clock=Ticks(),
            dice=self.dice,
            anyone=True,
        )
        self.attempts = self.daemon.attempts

    async def submit(
        self,
        job: str = "pool-1",
        attempt: int = 1,
        *,
        manifest: bytes = MANIFEST,
        data: bytes = b"print(1)",
        pool: str = POOL,
        still: Callable[[], None] = lambda: None,
    ) -> Entry:
        admission = await self.attempts.admit((pool, job, attempt))
        admission.still = still
        if admission.known is not None:
            return admission.known
        try:
            return await self.daemon.intake.take(admission, parts(manifest, {"main.py": data}))
        finally:
            self.attempts.withdraw(admission)

    async def running(self, remote_id: str) -> None:
        await until(lambda: remote_id in self.sandbox.tasks)

    async def ended(self, remote_id: str) -> Entry:
        await until(lambda: self.attempts.log_bell(remote_id) is None)
        return self.attempts.get(POOL, remote_id)


async def parts(manifest: bytes, files: dict[str, bytes]) -> AsyncIterator[Part]:
    async def pieces(data: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(data), 50_000):
            yield data[start : start + 50_000]

    yield ManifestPart(manifest)
    for name, data in files.items():
        yield FilePart(name, pieces(data))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for belongs to others
            await asyncio.sleep(0)


async def follow(rig: Rig, pool_id: str, journal_id: str, after: int) -> AsyncIterator[messages.WorkerMessage]:
    async with aclosing(rig.daemon.events.follow(pool_id, journal_id, after)) as batches:
        async for together in batches:
            for message in together:
                yield message


def scenario(test: Callable[[Rig], Awaitable[None]], **kwargs: Any) -> None:
    async def play() -> None:
        rig = Rig(**kwargs)
        await rig.daemon.start()
        try:
            async with asyncio.timeout(20):
                await test(rig)
        finally:
            await rig.daemon.close()
            leftover = asyncio.all_tasks() - {asyncio.current_task()}
            assert not leftover

    asyncio.run(play())


def test_an_accepted_attempt_runs_at_once_and_is_durable_before_the_answer():
    async def test(rig: Rig) -> None:
        entry = await rig.submit()
        assert entry.remote_id == "job-0000000000000001"
        assert (await rig.journal.entry(entry.remote_id)) == entry
        assert entry.state is AttemptState.RUNNING
        assert entry.started_at == 1000.0
        await rig.running(entry.remote_id)
        task = rig.sandbox.tasks[entry.remote_id]
        assert task.env == {
            "TRUSTED_POOL_JOB_ID": "pool-1",
            "TRUSTED_POOL_ATTEMPT": "1",
            "TRUSTED_POOL_WORKER_ID": "w1",
            "TRUSTED_POOL_DEADLINE": "1300",
        }
        rig.sandbox.end(entry.remote_id)
        after = await rig.ended(entry.remote_id)
        assert after.state is AttemptState.ENDED
        assert (await rig.journal.entry(entry.remote_id)) == after
        assert [c.kind for c in await rig.journal.changes(0)] == ["started", "ended"]

    scenario(test)


def test_the_same_attempt_again_is_answered_alike_and_never_run_twice():
    async def test(rig: Rig) -> None:
        first = await rig.submit()
        await rig.running(first.remote_id)
        assert (await rig.submit()).remote_id == first.remote_id
        rig.sandbox.end(first.remote_id)
        await rig.ended(first.remote_id)
        assert (await rig.submit()).remote_id == first.remote_id
        other = await rig.submit(attempt=2)
        assert other.remote_id != first.remote_id
        await rig.running(other.remote_id)
        assert rig.sandbox.runs == [first.remote_id, other.remote_id]

    scenario(test)


def test_concurrent_duplicates_become_one_run():
    async def test(rig: Rig) -> None:
        answers = await asyncio.gather(*(rig.submit() for _ in range(8)))
        assert len({entry.remote_id for entry in answers}) == 1
        await rig.running(answers[0].remote_id)
        assert len(rig.sandbox.runs) == 1
        assert rig.attempts.active == 1

    scenario(test)


def test_a_duplicate_goes_on_when_the_first_submit_breaks_off():
    async def test(rig: Rig) -> None:
        first = await rig.attempts.admit((POOL, "pool-1", 1))
        second = asyncio.create_task(rig.submit())
        await asyncio.sleep(0)
        rig.attempts.withdraw(first)  # its line broke
        entry = await second
        await rig.running(entry.remote_id)
        assert rig.sandbox.runs == [entry.remote_id]

    scenario(test)


def test_a_full_worker_says_later_and_frees_the_slot_before_it_tells_of_the_end():
    async def test(rig: Rig) -> None:
        first = await rig.submit("pool-1")
        with pytest.raises(BusyError) as caught:
            await rig.submit("pool-2")
        assert caught.value.status == 429
        assert caught.value.retry_after_s == 1.0
        assert (await rig.submit("pool-1")).remote_id == first.remote_id  # a duplicate needs no slot
        await rig.running(first.remote_id)
        stream = follow(rig, POOL, "j1", 1)
        await anext(stream)
        rig.sandbox.end(first.remote_id)
        assert isinstance(await anext(stream), messages.EndedEvent)
        assert (await rig.submit("pool-2", 2)).remote_id != first.remote_id
        await stream.aclose()

    scenario(test, slots=1)


def test_memory_is_promised_once():
    big = b'{"entrypoint": "main.py", "memory_mb": 800}'

    async def test(rig: Rig) -> None:
        first = await rig.submit("pool-1", manifest=big)
        with pytest.raises(BusyError, match="224 of 1024 MB"):
            await rig.submit("pool-2", manifest=big)
        await rig.running(first.remote_id)
        rig.sandbox.end(first.remote_id)
        await rig.ended(first.remote_id)
        await rig.submit("pool-2", 2, manifest=big)

    scenario(test)


@pytest.mark.parametrize(
    ("manifest", "status"),
    [
        (b"{", 400),
        (b'{"entrypoint": "other.py"}', 400),
        (b'{"entrypoint": "main.py", "nonsense": 1}', 400),
        (b'{"entrypoint": "main.py", "memory_mb": 4096}', 422),
        (b'{"entrypoint": "main.py", "interpreter": "node"}', 422),
        (b'{"entrypoint": "main.py", "isolation": 3}', 422),
    ],
)
def test_a_refused_submit_leaves_nothing(manifest: bytes, status: int):
    async def test(rig: Rig) -> None:
        large = b"#" * 200_000
        with pytest.raises(PoolError) as caught:
            await rig.submit(manifest=manifest, data=large)
        assert caught.value.status == status
        assert list(rig.attempts) == []
        assert await rig.journal.entries() == []
        assert rig.attempts.active == 0
        assert await rig.blobs.size(hashlib.sha256(large).hexdigest()) is None
        with pytest.raises(PoolError) as again:
            await rig.submit(data=large)  # the pool went on to another attempt: a late copy starts nothing
        assert again.value is caught.value
        entry = await rig.submit(attempt=2, data=large)  # the same bytes come in well afterwards
        await rig.running(entry.remote_id)

    scenario(test)


class SlowToAnswer(MemoryJournal):
    """A journal that has kept an end before it says so."""

    def __init__(self) -> None:
        super().__init__("j1")
        self.kept, self.answers = asyncio.Event(), asyncio.Event()

    async def put(self, entry: Entry, kind: str | None = None) -> int:
        seq = await super().put(entry, kind)
        self.kept.set()
        await self.answers.wait()
        return seq


def test_an_end_that_the_journal_knows_of_first_is_told():
    journal = SlowToAnswer()

    async def test(rig: Rig) -> None:
        entry = await rig.submit()
        await rig.running(entry.remote_id)
        stream = follow(rig, POOL, "j1", 0)
        assert isinstance(await anext(stream), messages.Hello)
        assert isinstance(await anext(stream), messages.StartedEvent)
        rig.sandbox.end(entry.remote_id)
        await journal.kept.wait()
        report = await rig.daemon.events.report(POOL)
        assert (report.seq, report.attempts[0].state) == (2, AttemptState.ENDED)
        rig.attempts.bell.ring()  # something else happens just now, so that the follower looks
        told = asyncio.ensure_future(anext(stream))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not told.done()
        journal.answers.set()
        assert isinstance(await told, messages.EndedEvent)
        await stream.aclose()

    scenario(test, journal=journal)


def test_a_released_attempt_is_never_started_again():
    async def test(rig: Rig) -> None:
        entry = await rig.submit()
        await rig.running(entry.remote_id)
        rig.sandbox.end(entry.remote_id)
        await rig.ended(entry.remote_id)
        await rig.attempts.release(POOL, entry.remote_id)
        with pytest.raises(ConflictError, match="over"):
            await rig.submit()
        assert rig.sandbox.runs == [entry.remote_id]

    scenario(test)


def test_large_inputs_are_shared_and_deleted_with_their_last_use():
    async def test(rig: Rig) -> None:
        large = b"#" * 200_000
        digest = hashlib.sha256(large).hexdigest()
        first, second = await rig.submit("pool-1", data=large), await rig.submit("pool-2", data=large)
        assert first.inputs == (InputFile(name="main.py", size=200_000, sha256=digest),)
        for entry in (first, second):
            await rig.running(entry.remote_id)
            assert await rig.blobs.size(digest) == 200_000
            rig.sandbox.end(entry.remote_id)
            await rig.ended(entry.remote_id)
        await until(lambda: digest not in rig.daemon.intake._inputs._uses)
        async with asyncio.timeout(5):
            while await rig.blobs.size(digest) is not None:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0)

    scenario(test)


def test_a_restart_interrupts_what_ran_and_keeps_what_ended():
    async def play() -> None:
        before = Rig()
        await before.daemon.start()
        ended, ran = await before.submit("pool-1"), await before.submit("pool-2")
        await before.running(ended.remote_id)
        before.sandbox.end(ended.remote_id)
        await before.ended(ended.remote_id)
        after = Rig(journal=before.journal.crash(), dice=before.dice)
        await after.daemon.start()
        assert after.sandbox.kept == {ended.remote_id}
        states = {e.remote_id: e.state for e in after.attempts}
        assert states == {ended.remote_id: AttemptState.ENDED, ran.remote_id: AttemptState.INTERRUPTED}
        assert (await after.submit("pool-2")).state is AttemptState.INTERRUPTED  # never started again
        assert after.sandbox.runs == []
        stream = follow(after, POOL, "j1", 0)
        kinds = [type(await anext(stream)) for _ in range(5)]
        assert kinds[0] is messages.Hello
        assert set(kinds[1:3]) == {messages.StartedEvent}
        assert set(kinds[3:5]) == {messages.EndedEvent, messages.InterruptedEvent}
        await stream.aclose()
        await after.daemon.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(play())


def test_events_carry_small_results_and_leave_large_ones_to_be_fetched():
    async def test(rig: Rig) -> None:
        small, large = await rig.submit("pool-1"), await rig.submit("pool-2")
        for entry in (small, large):
            await rig.running(entry.remote_id)
        rig.sandbox.say(small.remote_id, b"hello\n")
        rig.sandbox.end(small.remote_id, files={"a/b.txt": b"out"})
        await rig.ended(small.remote_id)
        rig.sandbox.end(large.remote_id, files={"big": b"x" * (messages.INLINE_BYTES + 1)})
        await rig.ended(large.remote_id)
        stream = follow(rig, POOL, "j1", 2)
        assert await anext(stream) == messages.Hello(journal_id="j1", seq=4)
        first, second = await anext(stream), await anext(stream)
        assert isinstance(first, messages.EndedEvent)
        assert isinstance(second, messages.EndedEvent)
        assert first.files == {"a/b.txt": b"out"}
        assert first.log == frames.encode(1000.0, frames.STDOUT, b"hello\n")
        assert first.outcome.log_bytes == len(first.log)
        assert (second.log, second.files) == (None, None)
        await stream.aclose()

    scenario(test)


def test_a_follower_resumes_and_another_journal_begins_with_now():
    async def test(rig: Rig) -> None:
        entry = await rig.submit()
        await rig.running(entry.remote_id)
        other = follow(rig, POOL, "another", 0)
        foreign = follow(rig, "pool-b", "j1", 0)
        for stream in (other, foreign):
            assert await anext(stream) == messages.Hello(journal_id="j1", seq=1)
        rig.sandbox.end(entry.remote_id)
        told = await anext(other)
        assert isinstance(told, messages.EndedEvent)
        assert told.seq == 2
        rig.attempts.closed = True  # ends the streams once they have said all
        rig.attempts.bell.ring()
        assert [m async for m in foreign] == []  # nothing of another pool's attempts
        assert [m async for m in other] == []
        assert (await rig.daemon.events.report("pool-b")).attempts == []
        report = await rig.daemon.events.report(POOL)
        assert (report.seq, [a.remote_id for a in report.attempts]) == (2, [entry.remote_id])

    scenario(test)


def test_a_log_is_followed_live_to_the_end():
    async def test(rig: Rig) -> None:
        entry = await rig.submit()
        await rig.running(entry.remote_id)
        pieces = follow_log(rig.attempts, rig.journal, entry.remote_id, 0, follow=True)
        rig.sandbox.say(entry.remote_id, b"one")
        assert (await anext(pieces)).endswith(b"one")
        waiting = asyncio.create_task(anext(pieces))
        bell = rig.attempts.log_bell(entry.remote_id)
        assert bell is not None
        await until(lambda: bool(bell._waiting))
        rig.sandbox.say(entry.remote_id, b"two")
        assert (await waiting).endswith(b"two")
        rig.sandbox.end(entry.remote_id)
        assert [piece async for piece in pieces] == []

    scenario(test)


def test_a_cancel_at_any_moment_ends_the_attempt_once():
    async def test(rig: Rig) -> None:
        early = await rig.submit("pool-1")
        rig.attempts.cancel(POOL, early.remote_id)  # its run has not begun yet
        after = await rig.ended(early.remote_id)
        assert after.outcome is not None
        assert after.outcome.reason is Reason.CANCELLED
        late = await rig.submit("pool-2")
        await rig.running(late.remote_id)
        rig.attempts.cancel(POOL, late.remote_id)
        rig.attempts.cancel(POOL, late.remote_id)
        after = await rig.ended(late.remote_id)
        assert after.cancelled
        assert rig.sandbox.stopped == [late.remote_id]
        assert rig.attempts.cancel(POOL, late.remote_id) == after  # ended: it stays as it is
        with pytest.raises(NotFoundError):
            rig.attempts.cancel("pool-b", late.remote_id)

    scenario(test)


def test_release_forgets_all_and_is_refused_while_it_runs():
    async def test(rig: Rig) -> None:
        entry = await rig.submit()
        await rig.running(entry.remote_id)
        with pytest.raises(ConflictError):
            await rig.attempts.release(POOL, entry.remote_id)
        rig.sandbox.say(entry.remote_id, b"x")
        rig.sandbox.end(entry.remote_id, files={"out": b"1"})
        await rig.ended(entry.remote_id)
        with pytest.raises(NotFoundError):
            await rig.attempts.release("pool-b", entry.remote_id)
        await rig.attempts.release(POOL, entry.remote_id)
        assert await rig.journal.entries() == []
        assert rig.sandbox.files == {}
        assert rig.journal.log_size(entry.remote_id) == 0
        with pytest.raises(NotFoundError):
            await rig.attempts.release(POOL, entry.remote_id)

    scenario(test)


def test_draining_refuses_new_attempts_and_ends_when_results_are_fetched():
    async def test(rig: Rig) -> None:
        entry = await rig.submit()
        await rig.running(entry.remote_id)
        follower = rig.daemon.events.follow(POOL, "", 0)
        await anext(follower)
        leaving = asyncio.create_task(rig.daemon.wait())
        rig.daemon.signal()
        with pytest.raises(UnavailableError):
            await rig.submit("pool-2")
        assert (await rig.submit()).remote_id == entry.remote_id
        assert rig.daemon.health().draining
        rig.sandbox.end(entry.remote_id)
        await rig.ended(entry.remote_id)
        await anext(follower)
        assert not leaving.done()
        await rig.attempts.release(POOL, entry.remote_id)
        await leaving
        await follower.aclose()

    scenario(test)


def test_a_drained_worker_keeps_its_results_and_leaves_when_nobody_listens(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(daemon, "MENDED_S", 0.01)

    async def test(rig: Rig) -> None:
        entry = await rig.submit()
        await rig.running(entry.remote_id)
        follower = rig.daemon.events.follow(POOL, "", 0)
        await anext(follower)
        leaving = asyncio.create_task(rig.daemon.wait())
        rig.daemon.signal()
        rig.sandbox.end(entry.remote_id)
        await rig.ended(entry.remote_id)
        await anext(follower)
        assert not leaving.done()
        await follower.aclose()
        await leaving
        assert await rig.journal.entry(entry.remote_id) is not None

    scenario(test)


def test_what_the_operator_ends_is_interrupted_and_not_cancelled():
    async def test(rig: Rig) -> None:
        entry, cancelled = await rig.submit("pool-1"), await rig.submit("pool-2")
        for each in (entry, cancelled):
            await rig.running(each.remote_id)
        rig.daemon.signal()
        rig.attempts.cancel(POOL, cancelled.remote_id)
        rig.daemon.signal()
        assert (await rig.ended(entry.remote_id)).state is AttemptState.INTERRUPTED
        assert (await rig.ended(cancelled.remote_id)).state is AttemptState.ENDED
        assert [c.kind for c in await rig.journal.changes(2)].count("interrupted") == 1

    scenario(test)


def test_what_runs_of_a_pool_that_is_out_is_ended_and_interrupted():
    async def test(rig: Rig) -> None:
        ours, theirs = await rig.submit("pool-1"), await rig.submit("pool-2", pool="pool-b")
        for entry in (ours, theirs):
            await rig.running(entry.remote_id)
        rig.daemon.pools.on_out[0](POOL)
        ended = await rig.ended(ours.remote_id)
        assert ended.state is AttemptState.INTERRUPTED
        assert "off its list" in ended.words
        assert rig.sandbox.stopped == [ours.remote_id]
        rig.sandbox.end(theirs.remote_id)
        await until(lambda: rig.attempts.active == 0)
        assert rig.attempts.get("pool-b", theirs.remote_id).state is AttemptState.ENDED

    scenario(test)


def test_who_may_not_any_more_when_the_files_are_there_starts_nothing():
    async def test(rig: Rig) -> None:
        def out() -> None:
            raise ForbiddenError("not any more")

        with pytest.raises(ForbiddenError):
            await rig.submit(still=out)
        assert rig.attempts.active == 0
        assert rig.attempts.empty
        assert rig.journal.log_size("any") == 0

    scenario(test)


def test_who_is_out_while_the_attempt_is_written_down_runs_nothing():
    async def test(rig: Rig) -> None:
        asked = itertools.count(1)

        def out_at_the_second() -> None:
            if next(asked) == 2:
                raise ForbiddenError("not any more")

        entry = await rig.submit(still=out_at_the_second)
        ended = await rig.ended(entry.remote_id)
        assert ended.state is AttemptState.INTERRUPTED
        assert rig.sandbox.runs == []

    scenario(test)


def test_a_replaced_coordinator_spoils_no_attempt_for_the_one_that_replaced_it():
    async def test(rig: Rig) -> None:
        def replaced() -> None:
            raise StaleEpochError("another has it")

        with pytest.raises(StaleEpochError):
            await rig.submit(still=replaced)
        entry = await rig.submit()
        await rig.running(entry.remote_id)
        rig.sandbox.end(entry.remote_id)
        assert (await rig.ended(entry.remote_id)).state is AttemptState.ENDED

    scenario(test)
