"""What the port of the store promises, over every adapter."""

import asyncio
import functools
import hashlib
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

from trusted_pool.core.access import ApiKey, Role, Scope
from trusted_pool.core.job import Attempt, InputFile, Job, OutputFile
from trusted_pool.core.limits import OwnerUsage, RunningCaps
from trusted_pool.core.request import Request
from trusted_pool.core.words import AttemptState, JobState, Reason
from trusted_pool.core.worker import Worker
from trusted_pool.ports.store import (
    Blob,
    Caps,
    Committed,
    Event,
    Idempotency,
    JobQuery,
    Result,
    Store,
    StoreError,
    Unit,
    Versioned,
)
from trusted_pool.protocol.audit import AuditEntry
from trusted_pool.store.memory import MemoryStore
from trusted_pool.store.sqlite import SqliteStore

NOW = 1_700_000_000.0
PYTHON = Request(interpreter="python3")
BASH = Request(interpreter="bash")


class Opener(Protocol):
    """Opens the same store again and again; the one before must be closed."""

    def open(self) -> Store: ...


class SqliteOpener:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "store.db"

    def open(self) -> Store:
        return SqliteStore.open(self.path)


class MemoryOpener:
    def __init__(self, *, syncs: bool) -> None:
        self.last = MemoryStore(syncs=syncs)

    def open(self) -> Store:
        self.last = self.last.crash()
        return self.last


@pytest.fixture(params=["sqlite", "memory", "memory that syncs"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    if request.param == "sqlite":
        return SqliteOpener(tmp_path)
    return MemoryOpener(syncs=request.param == "memory that syncs")


@pytest.fixture
def store(opener: Opener) -> Iterator[Store]:
    opened = opener.open()
    yield opened
    asyncio.run(opened.close())


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        coroutine = test(**fixtures)
        assert inspect.iscoroutine(coroutine)
        asyncio.run(coroutine)

    return run


def make(number: int, **changes: Any) -> Job:
    job = Job(
        job_id=f"pool-{number:016x}",
        owner="local",
        state=JobState.QUEUED,
        reason=Reason.SUBMITTED,
        manifest='{"entrypoint":"main.py"}',
        request=PYTHON,
        submitted_at=NOW + number,
    )
    return msgspec.structs.replace(job, **changes)


def placed(job: Job, worker_id: str = "w1", state: JobState = JobState.DISPATCHED) -> Job:
    attempt = Attempt(number=1, worker_id=worker_id, state=AttemptState.DISPATCHING, dispatched_at=NOW)
    return msgspec.structs.replace(job, state=state, reason=None, attempts=(attempt,))


async def put(store: Store, *jobs: Job) -> list[Job]:
    answers = await store.commit([Unit(job=job) for job in jobs])
    assert all(answer == Committed(ok=True, version=1) for answer in answers)
    return list(jobs)


async def change(store: Store, before: Job, after: Job, expects: int = 1) -> Committed:
    (answer,) = await store.commit([Unit(job=after, before=before, expects=expects)])
    return answer


def ids(rows: Sequence[Versioned] | Sequence[Job]) -> list[int]:
    return [int((row.job if isinstance(row, Versioned) else row).job_id[5:], 16) for row in rows]


async def reserved(
    store: Store, n: int = 10, now: float = NOW, *, until: float | None = None, holder: str = "me"
) -> list[int]:
    shapes = [count.shape for count in await store.shapes()]
    return ids(await store.reserve(shapes, n, holder, now, now + 60 if until is None else until))


# Rows and versions


@in_loop
async def test_what_is_not_there_is_none_or_empty(store: Store) -> None:
    assert await store.job("pool-none") is None
    assert await store.job("pool-\udc80\0") is None
    assert await store.open_jobs() == []
    assert await store.open_jobs("nobody") == []
    assert await store.reserve(["shape"], 5, "me", NOW, NOW + 1) == []
    assert await store.reserve([], 5, "me", NOW, NOW + 1) == []
    assert await store.shapes() == []
    assert await store.next_due(NOW) is None
    assert await store.expired(NOW, 5) == []
    assert (await store.jobs(JobQuery())).jobs == ()
    assert await store.queue_position(make(1)) is None
    assert await store.events("pool-none") == []
    assert await store.result("pool-none") is None
    assert await store.blob("0" * 64) is None
    assert await store.idempotency("local", "key", NOW) is None
    assert await store.workers() == []
    counters = await store.counters()
    assert counters.total == 0
    assert counters.jobs == dict.fromkeys(map(str, JobState), 0)
    assert await store.commit([]) == []


@in_loop
async def test_a_job_comes_back_equal_with_version_1_then_2(store: Store) -> None:
    rich = placed(
        make(
            1,
            name="näme ✓",
            labels={"a": "b"},
            inputs=(InputFile(name="x", size=1, sha256="f" * 64),),
            priority=3,
            expires_at=NOW + 0.1 + 0.2,
            not_before=1 / 3,
        )
    )
    await put(store, rich)
    assert await store.job(rich.job_id) == Versioned(rich, 1)
    done = msgspec.structs.replace(rich, state=JobState.CANCELLED, completed_at=NOW + 9)
    assert await change(store, rich, done) == Committed(ok=True, version=2)
    assert await store.job(rich.job_id) == Versioned(done, 2)


@in_loop
async def test_a_stale_version_conflicts_and_keeps_nothing(store: Store) -> None:
    (job,) = await put(store, make(1))
    after = placed(job)
    blob = Blob(sha256="a" * 64, size=1, data=b"x")
    key = Idempotency(owner="local", key="k", fingerprint="f", job_id=job.job_id, until=NOW + 99)
    said = Event(job_id=job.job_id, at=NOW, kind="said")
    outcome = Result(job_id=job.job_id, attempt=1)
    worker = Worker(worker_id="w1", endpoint="http://w1")
    for expects in (None, 0, 2):
        unit = Unit(
            job=after,
            before=None if expects is None else job,
            expects=expects,
            events=(said,),
            result=outcome,
            blobs=(blob,),
            idempotency=key if expects is None else None,
            workers=(worker,),
        )
        assert await store.commit([unit]) == [Committed(ok=False, conflict="job")]
    assert await store.job(job.job_id) == Versioned(job, 1)
    assert await store.events(job.job_id) == []
    assert await store.result(job.job_id) is None
    assert await store.blob(blob.sha256) is None
    assert await store.idempotency("local", "k", NOW) is None
    assert await store.workers() == []
    assert (await store.counters()).jobs["queued"] == 1


@in_loop
async def test_a_change_of_what_is_not_there_conflicts(store: Store) -> None:
    job = make(1)
    assert await change(store, job, placed(job)) == Committed(ok=False, conflict="job")
    assert await store.job(job.job_id) is None
    assert (await store.counters()).total == 0


@in_loop
async def test_units_are_independent_and_applied_in_order(store: Store) -> None:
    (job,) = await put(store, make(1))
    first, second = placed(job, "w1"), placed(job, "w2")
    answers = await store.commit(
        [
            Unit(job=make(2)),
            Unit(job=first, before=job, expects=1),
            Unit(job=second, before=job, expects=1),
            Unit(job=make(2, owner="other")),
            Unit(job=second, before=first, expects=2),
            Unit(job=make(3)),
        ]
    )
    assert [a.ok for a in answers] == [True, True, False, False, True, True]
    assert [a.version for a in answers if a.ok] == [1, 2, 3, 1]
    assert await store.job(job.job_id) == Versioned(second, 3)
    assert (await store.counters()).jobs | {} == {**dict.fromkeys(map(str, JobState), 0), "queued": 2, "dispatched": 1}


@in_loop
async def test_of_two_writers_with_one_version_exactly_one_wins(store: Store) -> None:
    jobs = await put(store, *(make(n) for n in range(30)))

    async def writer(name: str) -> list[int]:
        won = []
        for number, job in enumerate(jobs):
            if (await change(store, job, placed(job, name))).ok:
                won.append(number)
        return won

    winners = await asyncio.gather(*(writer(f"w{n}") for n in range(4)))
    assert sorted(n for won in winners for n in won) == list(range(30))
    for name, won in enumerate(winners):
        for number in won:
            row = await store.job(jobs[number].job_id)
            assert row is not None
            assert (row.job.assigned_to, row.version) == (f"w{name}", 2)


@in_loop
async def test_reads_see_every_answered_commit(store: Store) -> None:
    async def caller(base: int) -> None:
        for number in range(base, base + 20):
            (job,) = await put(store, make(number))
            assert await store.job(job.job_id) == Versioned(job, 1)
            assert job in (await store.jobs(JobQuery(limit=1000))).jobs

    await asyncio.gather(*(caller(n * 100) for n in range(5)))
    assert (await store.counters()).total == 100


@in_loop
async def test_nonsense_is_refused_before_anything_is_kept(store: Store) -> None:
    job = make(1)
    nonsense = [
        Unit(expects=1),
        Unit(charge=1.0),
        Unit(job=job, charge=float("nan")),
        Unit(job=job, expects=1),
        Unit(job=job, before=job),
        Unit(blobs=(Blob(sha256="a" * 64, size=0),)),
        Unit(job=job, before=make(2), expects=1),
        Unit(job=msgspec.structs.replace(job, owner="other"), before=job, expects=1),
        Unit(job=job, result=Result(job_id="pool-other", attempt=1)),
        Unit(
            job=job,
            before=job,
            expects=1,
            idempotency=Idempotency(owner="o", key="k", fingerprint="f", job_id=job.job_id, until=NOW),
        ),
        Unit(job=make(3, not_before=float("nan"))),
        Unit(job=make(3, name="half \udc80")),
        Unit(job=make(3, job_id="pool-\0")),
    ]
    for unit in nonsense:
        with pytest.raises(ValueError, match=r".+"):
            await store.commit([Unit(job=make(9)), unit])
    assert (await store.counters()).total == 0


# Events, results, blobs, workers, idempotency


@in_loop
async def test_events_are_numbered_in_the_order_of_commits(store: Store) -> None:
    (job, other) = await put(store, make(1), make(2))

    def said(of: Job, kind: str) -> Event:
        return Event(job_id=of.job_id, at=NOW, kind=kind, attempt=1, data={"words": "é", "n": [1, None, 0.5]})

    await store.commit([Unit(events=(said(job, "a"), said(job, "b"))), Unit(events=(said(other, "c"),))])
    await store.commit([Unit(events=(said(job, "d"),))])
    story = await store.events(job.job_id)
    assert [e.kind for e in story] == ["a", "b", "d"]
    assert msgspec.structs.replace(story[0], seq=0) == said(job, "a")
    (between,) = await store.events(other.job_id)
    numbers = [e.seq for e in story]
    assert numbers == sorted(set(numbers))
    assert numbers[1] < between.seq < numbers[2]


@in_loop
async def test_a_result_is_accepted_once(store: Store) -> None:
    (job,) = await put(store, make(1))
    outputs = (OutputFile(path="out/a b.txt", size=3, sha256="c" * 64, executable=True),)
    first = Result(job_id=job.job_id, attempt=1, outputs=outputs, log_sha256="d" * 64, log_size=7)
    ended = placed(job, state=JobState.COMPLETED)
    (answer,) = await store.commit([Unit(job=ended, before=job, expects=1, result=first)])
    assert answer.ok
    second = Unit(job=ended, before=ended, expects=2, result=Result(job_id=job.job_id, attempt=2))
    assert await store.commit([second, second]) == [Committed(ok=False, conflict="job")] * 2
    assert await store.result(job.job_id) == first
    other = make(2)
    answers = await store.commit(
        [
            Unit(job=other, result=Result(job_id=other.job_id, attempt=1)),
            Unit(job=other, before=other, expects=1, result=Result(job_id=other.job_id, attempt=2)),
        ]
    )
    assert [a.ok for a in answers] == [True, False]
    assert await store.result(other.job_id) == Result(job_id=other.job_id, attempt=1)


@in_loop
async def test_blobs_small_large_shared_and_empty(store: Store) -> None:
    small = Blob(sha256=hashlib.sha256(b"\0\xff").hexdigest(), size=2, data=b"\0\xff")
    empty = Blob(sha256=hashlib.sha256(b"").hexdigest(), size=0, data=b"")
    large = Blob(sha256="e" * 64, size=1 << 40)
    answers = await store.commit(
        [Unit(job=make(n), blobs=(small, empty, large, small)) for n in range(3)]
        + [Unit(job=make(4), blobs=(Blob(sha256=small.sha256, size=2),))]
    )
    assert all(a.ok for a in answers)
    for blob in (small, empty, large):
        assert await store.blob(blob.sha256) == blob
    again = Unit(job=make(0), before=make(0), expects=1, blobs=(small, large))
    assert await store.commit([again]) == [Committed(ok=True, version=2)]


@in_loop
async def test_an_idempotency_key_is_held_until_it_runs_out(store: Store) -> None:
    def unit(number: int, owner: str = "local") -> Unit:
        job = make(number, owner=owner)
        key = Idempotency(
            owner=owner, key="k", fingerprint=f"f{number}", job_id=job.job_id, until=job.submitted_at + 100
        )
        return Unit(job=job, idempotency=key)

    no = Committed(ok=False, conflict="idempotency")
    yes = Committed(ok=True, version=1)
    assert await store.commit([unit(0), unit(1)]) == [yes, no]
    assert await store.commit([unit(2), unit(3, "other")]) == [no, yes]
    assert await store.job(make(2).job_id) is None
    assert await store.idempotency("local", "k", NOW + 99) == unit(0).idempotency
    assert await store.idempotency("local", "k", NOW + 100) is None
    assert await store.commit([unit(99), unit(100)]) == [no, yes]
    held = await store.idempotency("local", "k", NOW + 150)
    assert held is not None
    assert held.fingerprint == "f100"


@in_loop
async def test_two_submits_with_one_key_at_once_make_one_job(store: Store) -> None:
    async def submit(number: int) -> Committed:
        job = make(number)
        key = Idempotency(owner="local", key="k", fingerprint="f", job_id=job.job_id, until=NOW + 9e9)
        return (await store.commit([Unit(job=job, idempotency=key)]))[0]

    answers = await asyncio.gather(*(submit(n) for n in range(20)))
    assert sum(a.ok for a in answers) == 1
    assert (await store.counters()).total == 1


@in_loop
async def test_workers_are_put_whole(store: Store) -> None:
    one = Worker(worker_id="b", endpoint="http://b", labels={"x": "y"}, version="5")
    two = Worker(worker_id="a", endpoint="http://a")
    newer = msgspec.structs.replace(one, version="6", labels={})
    assert await store.commit([Unit(workers=(one, two))]) == [Committed(ok=True)]
    assert await store.workers() == [two, one]
    await store.commit([Unit(workers=(one,)), Unit(workers=(newer,))])
    assert await store.workers() == [two, newer]


# The queue


@in_loop
async def test_reserve_goes_by_order_key_then_id(store: Store) -> None:
    await put(store, make(3), make(1), make(2, submitted_at=NOW + 3), make(4, priority=1), make(5, submitted_at=NOW))
    assert await reserved(store) == [4, 5, 1, 2, 3]


@in_loop
async def test_reserve_takes_n_of_the_shapes_asked_for(store: Store) -> None:
    await put(store, *(make(n, request=BASH if n % 2 else PYTHON) for n in range(10)))
    bash = make(0, request=BASH).shape
    assert ids(await store.reserve([bash, "none"], 2, "me", NOW, NOW + 60)) == [1, 3]
    assert ids(await store.reserve([bash], 0, "me", NOW, NOW + 60)) == []
    assert await reserved(store, 5, holder="you") == [0, 2, 4, 5, 6]


@in_loop
async def test_reserve_merges_many_shapes_in_order(store: Store) -> None:
    """More shapes than are looked at one by one; most of the queue is not asked for, or is."""
    await put(store, *(make(n, request=Request(interpreter="python3", memory_mb=n % 40 + 1)) for n in range(400)))
    shape = [make(0, request=Request(interpreter="python3", memory_mb=m + 1)).shape for m in range(40)]
    late = [n for n in range(400) if n % 40 >= 20]
    assert ids(await store.reserve(shape[20:], 30, "me", NOW, NOW + 60)) == late[:30]
    assert ids(await store.reserve(shape[20:], 1000, "you", NOW, NOW + 60)) == late[30:]
    assert ids(await store.reserve(shape * 2, 3, "me", NOW, NOW + 60)) == [0, 1, 2]
    few = [n for n in range(40, 400) if n % 40 in {5, 7, 9}]
    assert ids(await store.reserve([shape[n] for n in (9, 5, 7)], 7, "me", NOW, NOW + 60)) == [5, 7, 9, *few[:4]]


@in_loop
async def test_reserve_finds_many_shapes_behind_a_long_front(store: Store) -> None:
    await put(store, *(make(n, request=BASH) for n in range(300)))
    late = [make(1000 + n, request=Request(interpreter="python3", memory_mb=n % 25 + 1)) for n in range(60)]
    await put(store, *late)
    shapes = sorted({job.shape for job in late})
    assert ids(await store.reserve(shapes, 40, "me", NOW, NOW + 60)) == [1000 + n for n in range(40)]
    assert ids(await store.reserve(shapes, 40, "you", NOW, NOW + 60)) == [1040 + n for n in range(20)]


@in_loop
async def test_what_another_holder_reserved_is_hidden_until_it_runs_out(store: Store) -> None:
    await put(store, *(make(n) for n in range(4)))
    assert await reserved(store, 2, until=NOW + 10, holder="a") == [0, 1]
    assert await reserved(store, 1, until=NOW + 20, holder="b") == [2]
    assert await store.next_due(NOW) == NOW + 10
    assert await reserved(store, now=NOW + 9.99, until=NOW + 30, holder="c") == [3]
    assert await reserved(store, now=NOW + 10, until=NOW + 30, holder="d") == [0, 1]
    assert await store.next_due(NOW + 10) == NOW + 20
    assert await reserved(store, now=NOW + 30, holder="e") == [0, 1, 2, 3]


@in_loop
async def test_its_own_reservations_hide_nothing_from_a_holder(store: Store) -> None:
    await put(store, *(make(n) for n in range(3)))
    assert await reserved(store, 2, until=NOW + 10, holder="a") == [0, 1]
    assert await reserved(store, 3, until=NOW + 20, holder="a") == [0, 1, 2]
    assert await reserved(store, 3, now=NOW + 15, holder="b") == [], "the newer reservation holds"


@in_loop
async def test_a_reservation_is_no_transition_and_a_commit_ends_it(store: Store) -> None:
    (job,) = await put(store, make(1))
    assert await store.reserve([job.shape], 1, "me", NOW, NOW + 60) == [Versioned(job, 1)]
    assert await store.job(job.job_id) == Versioned(job, 1)
    assert (await store.counters()).jobs["queued"] == 1
    waiting = msgspec.structs.replace(job, detail="seen")
    assert (await change(store, job, waiting)).ok
    assert await reserved(store, holder="you") == [1]
    gone = placed(waiting)
    assert (await change(store, waiting, gone, 2)).ok
    assert await reserved(store, now=NOW + 999) == []
    again = msgspec.structs.replace(waiting, not_before=NOW + 2000)
    assert (await change(store, gone, again, 3)).ok
    assert await reserved(store, now=NOW + 1999) == []
    assert await reserved(store, now=NOW + 2000) == [1]


@in_loop
async def test_not_before_is_kept_also_when_the_clock_goes_back(store: Store) -> None:
    await put(store, make(1, not_before=NOW + 5), make(2, not_before=NOW + 6), make(3, priority=1, not_before=NOW + 50))
    assert await reserved(store) == []
    assert await store.next_due(NOW) == NOW + 5
    assert await reserved(store, 1, now=NOW + 5.5, until=NOW + 5.6) == [1]
    assert await reserved(store, 5, now=NOW + 6, until=NOW + 6) == [1, 2]
    assert await reserved(store, 5, now=NOW + 60, until=NOW + 60) == [3, 1, 2]
    assert await reserved(store, 5, now=NOW + 1) == []


@in_loop
async def test_no_job_is_reserved_twice_under_concurrency(store: Store) -> None:
    await put(store, *(make(n, request=BASH if n % 3 else PYTHON) for n in range(200)))
    shapes = [count.shape for count in await store.shapes()]

    async def holder(name: str) -> set[int]:
        mine: set[int] = set()
        while got := await store.reserve(shapes, 7, name, NOW, NOW + 60):
            mine |= set(ids(got))
            assert (await change(store, got[0].job, placed(got[0].job, name))).ok
        return mine

    found = await asyncio.gather(*(holder(f"h{n}") for n in range(5)))
    assert sum(map(len, found)) == 200
    assert set().union(*found) == set(range(200))
    assert (await store.counters()).jobs["dispatched"] == len(await store.open_jobs())


@in_loop
async def test_shapes_count_queued_jobs(store: Store) -> None:
    a, b, c = await put(store, make(1), make(2), make(3, request=BASH))
    counts = {count.request.interpreter: (count.shape, count.queued) for count in await store.shapes()}
    assert counts == {"python3": (a.shape, 2), "bash": (c.shape, 1)}
    narrowed = msgspec.structs.replace(b, request=Request(interpreter="python3", refused_by=("w1",)))
    await change(store, b, narrowed)
    await change(store, c, placed(c))
    assert {s.shape: (s.queued, s.request) for s in await store.shapes()} == {
        a.shape: (1, a.request),
        narrowed.shape: (1, narrowed.request),
    }
    await change(store, placed(c), c, 2)
    assert c.shape in {s.shape for s in await store.shapes()}


@in_loop
async def test_expired_jobs_and_when_the_next_will_be(store: Store) -> None:
    await put(
        store,
        make(1, expires_at=NOW + 30),
        make(2, expires_at=NOW + 20),
        make(3, expires_at=NOW + 10),
        make(4),
        placed(make(5, expires_at=NOW + 5)),
    )
    assert await store.next_due(NOW) == NOW + 10
    assert ids(await store.expired(NOW + 9, 9)) == []
    assert ids(await store.expired(NOW + 20, 9)) == [3, 2]
    assert ids(await store.expired(NOW + 99, 2)) == [3, 2]
    assert ids(await store.expired(NOW + 99, 0)) == []
    assert await store.next_due(NOW + 20) == NOW + 30


@in_loop
async def test_queue_position_counts_who_goes_before(store: Store) -> None:
    jobs = await put(store, make(1), make(2, not_before=NOW + 99), make(3, priority=9), make(4), placed(make(0)))
    assert [await store.queue_position(job) for job in jobs] == [1, 2, 0, 3, None]


# Fair shares


async def shared(store: Store) -> dict[str, tuple[float, int]]:
    return {share.owner: (share.virtual_time, share.queued) for share in await store.shares()}


@in_loop
async def test_owners_take_turns(store: Store) -> None:
    await put(store, *(make(n, owner="ann") for n in range(4)), *(make(10 + n, owner="bob") for n in range(2)))
    await put(store, make(20, owner="cy", priority=100))
    assert await reserved(store, 5) == [0, 10, 20, 1, 11]
    assert await reserved(store, 7) == [0, 10, 20, 1, 11, 2, 3]


@in_loop
async def test_a_charge_moves_an_owner_back(store: Store) -> None:
    a = await put(store, *(make(n, owner="ann") for n in range(3)))
    await put(store, *(make(10 + n, owner="bob") for n in range(3)))
    (answer,) = await store.commit([Unit(job=placed(a[0]), before=a[0], expects=1, charge=1.5)])
    assert answer.ok
    assert await shared(store) == {"bob": (0.0, 3), "ann": (1.5, 2)}
    assert list(await shared(store)) == ["bob", "ann"]
    assert await reserved(store) == [10, 11, 1, 12, 2]
    stale = Unit(job=placed(a[1]), before=a[1], expects=9, charge=99.0)
    assert not (await store.commit([stale]))[0].ok
    assert (await shared(store))["ann"] == (1.5, 2)


@in_loop
async def test_who_was_away_has_saved_nothing(store: Store) -> None:
    a = await put(store, make(1, owner="ann"), make(2, owner="ann"))
    b = await put(store, make(3, owner="bob"))
    await store.commit(
        [
            Unit(job=placed(b[0]), before=b[0], expects=1, charge=1.0),
            Unit(job=placed(a[0]), before=a[0], expects=1, charge=5.0),
            Unit(job=make(4, owner="cy")),
        ]
    )
    assert await shared(store) == {"ann": (5.0, 1), "cy": (5.0, 1)}
    await put(store, make(5, owner="bob"), make(6, owner="bob"))
    assert await shared(store) == {"ann": (5.0, 1), "bob": (5.0, 2), "cy": (5.0, 1)}
    gone = make(2, owner="ann")
    await store.commit([Unit(job=placed(gone), before=gone, expects=1, charge=2.0)])
    await put(store, make(7, owner="ann"))
    assert (await shared(store))["ann"] == (7.0, 1), "its own is more"


@in_loop
async def test_an_owner_without_ready_jobs_stops_nobody(store: Store) -> None:
    await put(store, *(make(n, owner=f"a{n:03}", request=BASH) for n in range(50)))
    await put(store, make(99, owner="z"), make(100, owner="z", not_before=NOW + 9))
    assert ids(await store.reserve([make(0).shape], 5, "me", NOW, NOW + 60)) == [99]


@in_loop
async def test_queue_position_follows_the_turns(store: Store) -> None:
    jobs = await put(store, *(make(n, owner=["ann", "bob", "ann", "cy", "ann"][n % 5]) for n in range(23)))
    charged = Unit(job=placed(jobs[0]), before=jobs[0], expects=1, charge=1.5)
    assert (await store.commit([charged]))[0].ok
    positions = {n: await store.queue_position(job) for n, job in enumerate(jobs)}
    assert positions.pop(0) is None
    assert sorted(positions, key=lambda n: positions[n] or 0) == await reserved(store, 99)
    assert sorted(p for p in positions.values() if p is not None) == list(range(22))


# What an owner has


@in_loop
async def test_usage_follows_a_job_through_its_states(opener: Opener) -> None:
    store = opener.open()
    assert await store.usage("ada") == OwnerUsage(owner="ada")
    assert await store.usages() == []
    job = make(1, owner="ada", manifest='{"name":"é"}')
    await put(store, job, make(2, owner="bob"))
    size = len(job.manifest.encode())
    assert await store.usage("ada") == OwnerUsage(owner="ada", queued=1, bytes=size)
    assert (await change(store, job, started := placed(job))).ok
    assert await store.usage("ada") == OwnerUsage(owner="ada", running=1, bytes=size)
    again = placed(job, state=JobState.RUNNING)
    assert (await change(store, started, again, 2)).ok
    assert await store.usage("ada") == OwnerUsage(owner="ada", running=1, bytes=size)
    log = Blob(sha256="b" * 64, size=7, data=b"printed")
    done, result = placed(job, state=JobState.COMPLETED), Result(job_id=job.job_id, attempt=1, log_sha256="b" * 64)
    unit = Unit(job=done, before=again, expects=3, result=result, blobs=(log,))
    assert (await store.commit([unit]))[0].ok
    size += 7 + len(msgspec.json.encode(result))
    assert await store.usages() == [
        OwnerUsage(owner="ada", bytes=size),
        OwnerUsage(owner="bob", queued=1, bytes=len(make(2).manifest)),
    ]
    await store.close()
    store = opener.open()
    assert (await store.usage("ada")).bytes == size
    await store.close()


@in_loop
async def test_a_blob_counts_once_for_each_owner_that_has_it(store: Store) -> None:
    small, large = Blob(sha256="a" * 64, size=4, data=b"data"), Blob(sha256="b" * 64, size=10**12)
    record = len(make(1).manifest)

    async def bytes_of(owner: str) -> int:
        return (await store.usage(owner)).bytes

    jobs = [make(n, owner="ada") for n in range(3)]
    both = [Unit(job=jobs[0], blobs=(small, small, large)), Unit(job=jobs[1], blobs=(small,))]
    assert all(answer.ok for answer in await store.commit(both))  # in one transaction
    assert (await store.commit([Unit(job=jobs[2], blobs=(large,))]))[0].ok  # and in another
    assert await bytes_of("ada") == 3 * record + 4 + 10**12
    assert await bytes_of("bob") == 0
    assert (await store.commit([Unit(job=make(9, owner="bob"), blobs=(large,))]))[0].ok
    assert await bytes_of("bob") == record + 10**12
    assert await bytes_of("ada") == 3 * record + 4 + 10**12
    assert not (await store.commit([Unit(job=jobs[2], blobs=(Blob(sha256="c" * 64, size=9),))]))[0].ok
    assert await bytes_of("ada") == 3 * record + 4 + 10**12  # a conflict keeps nothing


@in_loop
async def test_a_unit_beyond_a_cap_conflicts_and_keeps_nothing(store: Store) -> None:
    blob = Blob(sha256="a" * 64, size=100, data=b"x" * 100)
    record = len(make(1).manifest)

    async def commit(number: int, caps: Caps, owner: str = "ada") -> str:
        unit = Unit(job=make(number, owner=owner), blobs=(blob,), caps=caps)
        return (await store.commit([unit]))[0].conflict

    assert await commit(1, Caps(queued=0)) == "queued"
    assert await commit(1, Caps(bytes=99 + record)) == "bytes"
    assert await store.job(make(1).job_id) is None
    assert await store.blob("a" * 64) is None
    assert await store.usages() == []
    assert await commit(1, Caps(queued=1, running=0, bytes=100 + record)) == ""
    assert await commit(2, Caps(queued=1)) == "queued"
    assert await commit(2, Caps(queued=1), owner="bob") == ""  # another's own
    assert await commit(3, Caps(bytes=100 + 2 * record)) == ""  # the blob is the owner's already
    third = Unit(job=make(5, owner="ada"), caps=Caps(queued=3))
    fourth = Unit(job=make(6, owner="ada"), caps=Caps(queued=3))
    assert [answer.conflict for answer in await store.commit([third, fourth])] == ["", "queued"]


@in_loop
async def test_a_unit_that_adds_nothing_is_kept_even_beyond_the_cap(store: Store) -> None:
    (job, other) = await put(store, make(1), make(2))
    none = Caps(queued=0, running=0, bytes=0)

    async def commit(after: Job, before: Job, version: int) -> str:
        unit = Unit(job=after, before=before, expects=version, caps=none)
        return (await store.commit([unit]))[0].conflict

    assert await commit(msgspec.structs.replace(job, priority=5), job, 1) == ""
    assert await commit(placed(other), other, 1) == "running"
    assert (await change(store, other, placed(other))).ok
    assert await commit(placed(other, state=JobState.RUNNING), placed(other), 2) == ""
    assert await commit(other, placed(other, state=JobState.RUNNING), 3) == "queued"
    assert await commit(placed(other, state=JobState.FAILED), placed(other, state=JobState.RUNNING), 3) == ""


@in_loop
async def test_who_has_as_many_running_as_it_may_is_passed_over(store: Store) -> None:
    running = await put(store, *(make(n, owner="ada") for n in range(2)))
    for job in running:
        assert (await change(store, job, placed(job))).ok
    await put(store, *(make(n, owner="ada") for n in range(10, 15)), *(make(n, owner="bob") for n in range(20, 23)))

    async def reserve(n: int, caps: RunningCaps) -> list[int]:
        return ids(await store.reserve([running[0].shape], n, "me", NOW + 99, NOW + 99, caps=caps))

    assert await reserve(9, RunningCaps(usual=2)) == [20, 21]
    assert await reserve(9, RunningCaps(usual=2, of={"bob": None})) == [20, 21, 22]
    assert await reserve(9, RunningCaps(usual=None, of={"ada": 3})) == [10, 20, 21, 22]
    assert await reserve(9, RunningCaps(of={"ada": 1, "bob": 0})) == []
    assert await reserve(9, RunningCaps()) == [10, 20, 11, 21, 12, 22, 13, 14]


@in_loop
async def test_who_is_passed_over_saves_nothing_up(store: Store) -> None:
    (first, *_) = await put(store, *(make(n, owner="ada") for n in range(5)))
    assert (await change(store, first, placed(first))).ok
    bob = await put(store, *(make(n, owner="bob") for n in range(10, 20)))
    for job in bob[:6]:
        unit = Unit(job=placed(job), before=job, expects=1, charge=1.0)
        assert (await store.commit([unit]))[0].ok
    times = {share.owner: share.virtual_time for share in await store.shares()}
    assert times == {"ada": 0.0, "bob": 6.0}
    capped = RunningCaps(of={"ada": 1})
    assert ids(await store.reserve([first.shape], 1, "me", NOW + 99, NOW + 99, caps=capped)) == [16]
    assert {share.owner: share.virtual_time for share in await store.shares()} == {"ada": 6.0, "bob": 6.0}
    assert await reserved(store, 4, NOW + 99) == [1, 16, 2, 17]  # no run of its own


@in_loop
async def test_settings_are_kept_and_forgotten(opener: Opener) -> None:
    store = opener.open()
    assert await store.settings() == {}
    await store.commit([Unit(settings={"a": "1", "b": "", "c": None}), Unit(settings={"a": "2"})])
    assert await store.settings() == {"a": "2", "b": ""}
    stale = Unit(job=make(1), before=make(1), expects=3, settings={"a": "3"})
    assert not (await store.commit([stale, Unit(settings={"b": None})]))[0].ok
    await store.close()
    store = opener.open()
    assert await store.settings() == {"a": "2"}
    await store.close()


@in_loop
async def test_open_jobs_are_those_a_worker_has(store: Store) -> None:
    await put(
        store,
        make(1),
        placed(make(2), "w1"),
        placed(make(3), "w2", JobState.RUNNING),
        placed(make(4), "w1", JobState.FAILED),
        placed(make(5), "w1", JobState.QUEUED),
        placed(make(6), "w1", JobState.RUNNING),
    )
    assert ids(await store.open_jobs()) == [2, 3, 6]
    assert ids(await store.open_jobs("w1")) == [2, 6]
    assert ids(await store.open_jobs("w3")) == []


# Pages


@in_loop
async def test_every_filter_and_all_together(store: Store) -> None:
    await put(
        store,
        make(1, name="a", labels={"k": "v", 'odd." key': "1"}),
        make(2, owner="eve", name="a", labels={"k": "v"}),
        placed(make(3, name="a")),
        placed(make(4), "w2"),
        placed(make(5, owner="eve"), "w2", JobState.FAILED),
        placed(make(6), "w2", JobState.QUEUED),
    )

    async def found(**filters: Any) -> list[int]:
        return ids((await store.jobs(JobQuery(**filters))).jobs)

    assert await found() == [6, 5, 4, 3, 2, 1]
    assert await found(states=(JobState.QUEUED, JobState.FAILED)) == [6, 5, 2, 1]
    assert await found(states=(JobState.QUEUED, JobState.QUEUED)) == [6, 2, 1]
    assert await found(owner="eve") == [5, 2]
    assert await found(worker_id="w2") == [5, 4]
    assert await found(name="a") == [3, 2, 1]
    assert await found(name="") == [6, 5, 4]
    assert await found(labels={"k": "v"}) == [2, 1]
    assert await found(labels={"k": "v", 'odd." key': "1"}) == [1]
    assert await found(labels={"k": "w"}) == await found(labels={"j": "v"}) == []
    assert await found(since=NOW + 3, until=NOW + 5) == [4, 3]
    assert await found(since=float("nan")) == []
    assert await found(owner="\udc80") == []
    assert await found(owner="local", states=(JobState.DISPATCHED,), worker_id="w1", name="a", since=NOW) == [3]


@in_loop
async def test_pages_have_no_gaps_while_rows_are_added(store: Store) -> None:
    await put(store, *(make(n, submitted_at=NOW + n // 3) for n in range(50)))
    for query in (JobQuery(limit=7), JobQuery(limit=7, owner="local"), JobQuery(limit=7, name="")):
        seen: list[int] = []
        page = await store.jobs(query)
        added = 1000
        while True:
            seen += ids(page.jobs)
            if page.next is None:
                break
            await store.commit([Unit(job=make(added + (await store.counters()).total))])
            page = await store.jobs(msgspec.structs.replace(query, after=page.next))
        assert [n for n in seen if n < 1000] == list(range(49, -1, -1))
        assert len(seen) == len(set(seen))


@in_loop
async def test_the_last_page_has_no_next(store: Store) -> None:
    await put(store, *(make(n) for n in range(4)))
    first = await store.jobs(JobQuery(limit=2))
    second = await store.jobs(JobQuery(limit=2, after=first.next))
    assert (ids(first.jobs), ids(second.jobs), second.next) == ([3, 2], [1, 0], None)


@in_loop
async def test_a_foreign_cursor_is_refused(store: Store) -> None:
    await put(store, *(make(n) for n in range(4)))
    good = (await store.jobs(JobQuery(limit=1))).next
    assert good is not None
    for bad in (
        "",
        "x",
        "é",
        "....",
        good[:-1],
        good + "A",
        good[:-2] + ("AA" if good[-2:] != "AA" else "BB"),
        "A" * 99,
    ):
        with pytest.raises(ValueError, match="cursor"):
            await store.jobs(JobQuery(after=bad))
    with pytest.raises(ValueError, match="at least 1"):
        await store.jobs(JobQuery(limit=0))


# Beginning and end


@in_loop
async def test_everything_survives_closing_and_opening(opener: Opener) -> None:
    store = opener.open()
    job = make(1, name="x")
    blob = Blob(sha256="a" * 64, size=1, data=b"x")
    key = Idempotency(owner="local", key="k", fingerprint="f", job_id=job.job_id, until=NOW + 9e9)
    said = Event(job_id=job.job_id, at=NOW, kind="submitted")
    worker = Worker(worker_id="w", endpoint="http://w")
    await store.commit([Unit(job=job, blobs=(blob,), idempotency=key, events=(said,), workers=(worker,))])
    assert await reserved(store) == [1]
    await store.close()
    store = opener.open()
    assert await store.job(job.job_id) == Versioned(job, 1)
    assert await store.blob(blob.sha256) == blob
    assert await store.idempotency("local", "k", NOW) == key
    assert [e.kind for e in await store.events(job.job_id)] == ["submitted"]
    assert await store.workers() == [worker]
    assert (await store.counters()).jobs["queued"] == 1
    assert await reserved(store, holder="you") == [1], "whoever held it before is gone"
    await store.commit([Unit(events=(said,))])
    assert len({e.seq for e in await store.events(job.job_id)}) == 2
    await store.close()


@in_loop
async def test_closing_finishes_what_was_begun_and_is_idempotent(opener: Opener) -> None:
    store = opener.open()
    begun = [asyncio.ensure_future(store.commit([Unit(job=make(n))])) for n in range(20)]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    await store.close()
    assert all(a[0].ok for a in await asyncio.gather(*begun))
    with pytest.raises(StoreError, match="closed"):
        await store.commit([Unit(job=make(99))])
    with pytest.raises(StoreError, match="closed"):
        await store.job("pool-x")
    with pytest.raises(StoreError, match="closed"):
        await store.workers()
    store = opener.open()
    assert (await store.counters()).total == 20
    await store.close()


@in_loop
async def test_a_cancelled_caller_harms_nobody(store: Store) -> None:
    async def submit(number: int) -> Committed:
        return (await store.commit([Unit(job=make(number))]))[0]

    tasks = [asyncio.ensure_future(submit(n)) for n in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(a, Committed) and a.ok for a in answers[1::2])
    await put(store, make(100))
    counted = await store.counters()
    assert counted.total == len((await store.jobs(JobQuery(limit=100))).jobs)


# Keys of clients, and the audit trail


def api_key(number: int, **changes: Any) -> ApiKey:
    key = ApiKey(
        key_id=f"k{number}", owner="ada", role=Role.VIEWER, scope=Scope.OWN, digest="d", created_at=NOW + number
    )
    return msgspec.structs.replace(key, **changes)


def entry(seq: int, chain: str = "c", **changes: Any) -> AuditEntry:
    made = AuditEntry(chain=chain, seq=seq, at=NOW, actor="ada", action="worker.drain", previous="")
    return msgspec.structs.replace(made, **changes)


@in_loop
async def test_keys_are_put_whole_and_their_uses_apart(store: Store) -> None:
    assert await store.api_keys() == []
    assert all(c.ok for c in await store.commit([Unit(api_keys=(api_key(2), api_key(1)))]))
    await store.commit([Unit(key_uses={"k1": NOW + 9, "nobody": NOW})])
    await store.commit([Unit(key_uses={"k1": NOW + 5})])
    revoked = api_key(1, revoked_at=NOW + 3)
    await store.commit([Unit(api_keys=(revoked,))])
    assert await store.api_keys() == [(revoked, NOW + 9), (api_key(2), None)], "oldest first; no use undoes a change"


@in_loop
async def test_a_place_in_a_chain_is_given_once(store: Store) -> None:
    assert await store.audit_end("c") is None
    first, second = entry(1), entry(2, subject="x", data={"deep": [1, {"a": None}]})
    answers = await store.commit(
        [
            Unit(audit=(first,)),
            Unit(audit=(entry(1, actor="eve"),), settings={"s": "lost"}),
            Unit(audit=(second, entry(3))),
            Unit(audit=(entry(5), entry(5))),
            Unit(audit=(entry(1, "other"),)),
        ]
    )
    assert [(a.ok, a.conflict) for a in answers] == [
        (True, ""),
        (False, "audit"),
        (True, ""),
        (False, "audit"),
        (True, ""),
    ]
    (again,) = await store.commit([Unit(audit=(entry(4), entry(3)))])
    assert (again.ok, again.conflict) == (False, "audit"), "whole or not at all"
    assert await store.settings() == {}
    assert await store.audit("c", 0, 10) == [first, second, entry(3)]
    assert await store.audit("c", 1, 1) == [second]
    assert await store.audit("c", 3, 10) == []
    assert await store.audit_end("c") == entry(3)
    assert await store.audit_end("other") == entry(1, "other")


@in_loop
async def test_keys_and_the_trail_are_there_after_a_restart(opener: Opener) -> None:
    store = opener.open()
    await store.commit([Unit(api_keys=(api_key(1),), key_uses={"k1": NOW}, audit=(entry(1),))])
    await store.close()
    store = opener.open()
    assert await store.audit("c", 0, 10) == [entry(1)]
    ((key, used),) = await store.api_keys()
    assert key == api_key(1)
    assert used == NOW
    await store.close()
