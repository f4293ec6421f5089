"""The store on SQLite and the one in memory answer alike, whatever is asked in whatever order."""

import asyncio
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trusted_pool.core.job import Attempt, Job
from trusted_pool.core.limits import RunningCaps
from trusted_pool.core.request import Request
from trusted_pool.core.words import AttemptState, JobState
from trusted_pool.core.worker import Worker
from trusted_pool.ports.store import Blob, Caps, Event, Idempotency, JobQuery, Result, Store, Unit
from trusted_pool.store.memory import MemoryStore
from trusted_pool.store.rows import OPEN
from trusted_pool.store.sqlite import SqliteStore

REQUESTS = [Request(interpreter="python3", memory_mb=m) for m in range(20)]
SHAPES = [
    Job(job_id="", owner="", state=JobState.QUEUED, manifest="", request=r, submitted_at=0).shape for r in REQUESTS
]
few = st.integers(0, 3)
numbers = st.integers(0, 9)
states = st.sampled_from(JobState)
#: Moments lie on a small grid, so that they meet.
LABELS = st.dictionaries(st.sampled_from(["a", 'b"', "c.d"]), st.sampled_from(["x", "1"]), max_size=2)
spans = st.sampled_from([0.0, 1.0, 2.0, 5.0])
caps = st.none() | st.integers(0, 3)
CAPS = st.builds(Caps, queued=caps, running=caps, bytes=st.none() | st.integers(0, 200))
RUNNING_CAPS = st.builds(RunningCaps, usual=caps, of=st.dictionaries(few.map("o{}".format), caps, max_size=2))


class Alike(RuleBasedStateMachine):
    """Puts every question to both."""

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="store-alike-"))
        self.runner = asyncio.Runner()
        self.sqlite: Store = SqliteStore.open(self.directory / "store.db")
        self.memory = MemoryStore()
        self.now = 100.0
        self.known: dict[str, tuple[Job, int]] = {}

    def teardown(self) -> None:
        self.runner.run(self.sqlite.close())
        self.runner.close()
        shutil.rmtree(self.directory)

    def both(self, question: str, *arguments: Any, **named: Any) -> Any:
        first = self.runner.run(getattr(self.sqlite, question)(*arguments, **named))
        second = self.runner.run(getattr(self.memory, question)(*arguments, **named))
        assert first == second
        return first

    @rule(data=st.data(), count=st.integers(1, 8))
    def commit(self, data: st.DataObject, count: int) -> None:
        units = [data.draw(self.units()) for _ in range(count)]
        for unit, answer in zip(units, self.both("commit", units), strict=True):
            if answer.ok and unit.job is not None:
                self.known[unit.job.job_id] = (unit.job, answer.version)

    @st.composite
    @staticmethod
    def drawn(draw: st.DrawFn, self: "Alike") -> Unit:
        number, state = draw(numbers), draw(states)
        job_id = f"pool-{number}"
        before, version = self.known.get(job_id, (None, None))
        attempt = Attempt(number=1, worker_id=f"w{draw(few)}", state=AttemptState.RUNNING, dispatched_at=self.now)
        job = Job(
            job_id=job_id,
            owner=f"o{number % 4}",
            name=["", "a", "b"][number % 3],
            labels=draw(LABELS),
            submitted_at=before.submitted_at if before else self.now,
            state=state,
            manifest=["{}", '{"name":"\u00e9"}'][number % 2],
            request=REQUESTS[draw(st.integers(0, 19))],
            priority=draw(st.integers(-1, 1)),
            not_before=draw(st.just(0.0) | spans.map(lambda s: self.now + s)),
            expires_at=draw(st.none() | spans.map(lambda s: self.now + s)),
            attempts=(attempt,) if draw(st.booleans()) else (),
        )
        expects = draw(st.sampled_from([version] * 6 + [None, 0, 1, 2, 99]))
        blob = Blob(sha256=f"{draw(few)}" * 64, size=4, data=draw(st.none() | st.just(b"data")))
        key = Idempotency(
            owner=job.owner, key=f"k{draw(few)}", fingerprint=job_id, job_id=job_id, until=self.now + draw(spans)
        )
        said = Event(job_id=job_id, at=self.now, kind=state.value, data={"n": number})
        return Unit(
            job=job,
            before=None if expects is None else before or job,
            expects=expects,
            events=(said,) * draw(few),
            blobs=(blob,) if draw(st.booleans()) else (),
            idempotency=key if expects is None and draw(st.booleans()) else None,
            result=Result(job_id=job_id, attempt=1) if draw(st.integers(0, 5)) == 0 else None,
            charge=draw(st.sampled_from([0.0, 0.0, 1.0, 2.5])),
            caps=draw(st.none() | CAPS),
            settings=draw(st.dictionaries(few.map(str), st.none() | few.map(str), max_size=2)),
            workers=(Worker(worker_id=f"w{draw(few)}", endpoint=job_id),) if draw(few) == 0 else (),
        )

    def units(self) -> st.SearchStrategy[Unit]:
        return Alike.drawn(self)

    @rule(
        shapes=st.lists(st.sampled_from(SHAPES), max_size=3) | st.just(SHAPES) | st.just(SHAPES[:10]),
        n=st.integers(0, 12),
        holder=st.sampled_from(["a", "b"]),
        span=spans,
        caps=st.none() | RUNNING_CAPS,
    )
    def reserve(self, shapes: list[str], n: int, holder: str, span: float, caps: RunningCaps | None) -> None:
        rows = self.both("reserve", shapes, n, holder, self.now, self.now + span, caps=caps)
        if caps is not None:
            running = Counter(job.owner for job, _ in self.known.values() if job.state in OPEN)
            picked = Counter(row.job.owner for row in rows)
            assert all(running[o] + n <= caps.cap(o) for o, n in picked.items() if caps.cap(o) is not None)

    @rule(span=spans)
    def time_passes(self, span: float) -> None:
        self.now += span

    @rule(
        states=st.lists(states, max_size=3),
        owner=st.none() | few.map("o{}".format),
        worker_id=st.none() | few.map("w{}".format),
        name=st.none() | st.sampled_from(["", "a", "b"]),
        labels=LABELS,
        since=st.none() | spans,
        until=st.none() | spans,
        limit=st.integers(1, 5),
    )
    def pages(self, *, since: float | None, until: float | None, **filters: Any) -> None:
        query = JobQuery(
            **{**filters, "states": tuple(filters["states"])},
            since=None if since is None else self.now - since,
            until=None if until is None else self.now - until,
        )
        while True:
            page = self.both("jobs", query)
            if page.next is None:
                return
            query = msgspec.structs.replace(query, after=page.next)

    @rule(number=numbers, n=st.integers(0, 5))
    def look(self, number: int, n: int) -> None:
        job_id = f"pool-{number}"
        self.both("job", job_id)
        self.both("result", job_id)
        self.both("open_jobs")
        self.both("open_jobs", f"w{number % 4}")
        self.both("expired", self.now, n)
        self.both("workers")
        self.both("settings")
        self.both("blob", f"{number % 4}" * 64)
        self.both("idempotency", f"o{number % 4}", f"k{n}", self.now)
        if job_id in self.known:
            self.both("queue_position", self.known[job_id][0])
        stories = [self.runner.run(store.events(job_id)) for store in (self.sqlite, self.memory)]
        first, second = ([msgspec.structs.replace(event, seq=0) for event in story] for story in stories)
        assert first == second

    @precondition(lambda self: self.known)
    @rule()
    def reopen(self) -> None:
        self.runner.run(self.sqlite.close())
        self.sqlite = SqliteStore.open(self.directory / "store.db")
        self.memory = self.memory.crash()

    @invariant()
    def counters_are_a_recount(self) -> None:
        if not hasattr(self, "runner"):
            return
        counters = self.both("counters")
        jobs = [job for job, _ in self.known.values()]
        assert counters.total == len(jobs)
        assert {s: n for s, n in counters.jobs.items() if n} == Counter(job.state.value for job in jobs)
        shares = self.both("shares")
        assert {s.owner: s.queued for s in shares} == Counter(j.owner for j in jobs if j.state is JobState.QUEUED)
        usages = {u.owner: u for u in self.both("usages")}  # the memory store counts anew each time
        assert {o: u.queued for o, u in usages.items() if u.queued} == {s.owner: s.queued for s in shares}
        assert {o: u.running for o, u in usages.items() if u.running} == Counter(
            j.owner for j in jobs if j.state in OPEN
        )
        shapes = self.both("shapes")
        assert {s.shape: s.queued for s in shapes} == Counter(j.shape for j in jobs if j.state is JobState.QUEUED)

    @invariant()
    def the_next_moment_is_the_same(self) -> None:
        if hasattr(self, "runner"):
            self.both("next_due", self.now)


TestAlike = Alike.TestCase
TestAlike.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
