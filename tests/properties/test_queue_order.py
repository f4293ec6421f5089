"""The order of the queue against a model of a few lines, over both stores.

What is promised:

- While two owners both have jobs queued that somebody could take, the numbers of their jobs placed differ by at most 1
  more than their virtual times differed at the beginning of that while (each placement charges 1).
- Within an owner, the job with the least `submitted_at - 60 * priority` goes first, whatever others do.
- Who had nothing queued saved nothing up: it comes back no earlier than those who are there.
- Who has as many jobs running as it may is passed over, holds up nobody, and saves nothing up by it.
"""

import asyncio
import shutil
import tempfile
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from trusted_pool.core.advance import advance
from trusted_pool.core.fair import CHARGE
from trusted_pool.core.happenings import CancelRequested, Interrupted, Placed, Reprioritised
from trusted_pool.core.job import Job
from trusted_pool.core.limits import RunningCaps
from trusted_pool.core.request import Request, shape_of
from trusted_pool.core.words import JobState
from trusted_pool.ports.store import Store, Unit, Versioned
from trusted_pool.store.memory import MemoryStore
from trusted_pool.store.sqlite import SqliteStore

OWNERS = [f"owner-{n}" for n in range(4)]
REQUESTS = [Request(interpreter="python3", memory_mb=m) for m in range(3)]
SHAPES = [shape_of(request) for request in REQUESTS]
HOLDER = "me"
RESERVED_S = 30.0
owners = st.sampled_from(OWNERS)
caps = st.none() | st.integers(0, 6)


class Order(RuleBasedStateMachine):
    """Submits, places, cancels and requeues; the model says who must come next."""

    def open(self) -> Store:
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp(prefix="queue-order-"))
        self.store = self.open()
        self.now = 1000.0
        self.made = 0
        self.queued: dict[str, Versioned] = {}
        self.running: dict[str, Versioned] = {}
        self.model: dict[str, float] = {}  #: virtual time of each owner
        self.counted: dict[tuple[str, str], Counter[str]] = {}  #: placements since both of a pair have jobs queued

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.directory)

    def waiting(self) -> set[str]:
        return {row.job.owner for row in self.queued.values()}

    def put(self, before: Versioned | None, job: Job, charge: float = 0.0) -> None:
        """Commit a job and move the model."""
        if job.state is JobState.QUEUED and job.owner not in self.waiting():
            others = [self.model.get(owner, 0.0) for owner in self.waiting()]
            begin = min(others) if others else max(self.model.values(), default=0.0)
            self.model[job.owner] = max(self.model.get(job.owner, 0.0), begin)
        self.model[job.owner] = self.model.get(job.owner, 0.0) + charge
        unit = Unit(
            job=job,
            expects=before.version if before else None,
            before=before.job if before else None,
            charge=charge,
        )
        (committed,) = self.runner.run(self.store.commit([unit]))
        assert committed.ok, committed
        for rows in (self.queued, self.running):
            rows.pop(job.job_id, None)
        if job.state is JobState.QUEUED:
            self.queued[job.job_id] = Versioned(job, committed.version)
        elif not job.final:
            self.running[job.job_id] = Versioned(job, committed.version)
        for pair in list(self.counted):
            if not set(pair) <= self.waiting():
                del self.counted[pair]
        for pair in combinations(sorted(self.waiting()), 2):
            self.counted.setdefault(pair, Counter())

    @rule(owner=owners, priority=st.integers(-3, 3), shape=st.integers(0, 2), count=st.integers(1, 6))
    def submit(self, owner: str, priority: int, shape: int, count: int) -> None:
        for _ in range(count):
            self.made += 1
            job = Job(
                job_id=f"pool-{self.made * 7919 % 10_000:04}",  # ids are in no order
                owner=owner,
                state=JobState.QUEUED,
                manifest="{}",
                request=REQUESTS[shape],
                priority=priority,
                submitted_at=self.now,
            )
            self.put(None, job)

    @rule(span=st.sampled_from([1.0, 59.0, 60.0, 61.0, 500.0]))
    def time_passes(self, span: float) -> None:
        self.now += span

    def room(self, owner: str, caps: RunningCaps | None) -> int:
        """Return how many jobs of an owner may be placed."""
        cap = caps.cap(owner) if caps else None
        return 10**9 if cap is None else max(0, cap - sum(r.job.owner == owner for r in self.running.values()))

    def turns(self, shapes: set[str], n: int, caps: RunningCaps | None = None) -> list[str]:
        """Return the ids that must come, in order."""
        ready = [row.job for row in self.queued.values() if row.job.not_before <= self.now and row.job.shape in shapes]
        mine = {o: sorted((j.submitted_at - j.priority * 60, j.job_id) for j in ready if j.owner == o) for o in OWNERS}
        mine = {owner: jobs[: self.room(owner, caps)] for owner, jobs in mine.items()}
        virtual, out = dict(self.model), []
        while len(out) < n and any(mine.values()):
            owner = min((o for o in OWNERS if mine[o]), key=lambda o: (virtual[o], o))
            out.append(mine[owner].pop(0)[1])
            virtual[owner] += 1
        return out

    @rule(
        n=st.integers(1, 12),
        shapes=st.just({0, 1, 2}) | st.sets(st.integers(0, 2), min_size=1),
        caps=st.none() | st.builds(RunningCaps, usual=caps, of=st.dictionaries(owners, caps, max_size=2)),
    )
    def place(self, n: int, shapes: set[int], caps: RunningCaps | None) -> None:
        """Place the next n that somebody could take, as the dispatcher does."""
        wanted = {SHAPES[number] for number in shapes}
        expected = self.turns(wanted, n, caps)
        until = self.now + RESERVED_S
        rows = self.runner.run(self.store.reserve(sorted(wanted), n, HOLDER, self.now, until, caps=caps))
        assert [row.job.job_id for row in rows] == expected
        passed_over = {owner for owner in self.waiting() if not self.room(owner, caps)}
        if rows:
            least = self.model.get(rows[0].job.owner, 0.0)
            self.model |= {owner: max(least, self.model.get(owner, 0.0)) for owner in passed_over}
        capped = any(self.room(owner, caps) < n for owner in self.waiting())
        everything_fits = {row.job.shape for row in self.queued.values()} <= wanted
        for row in rows:
            assert row == self.queued[row.job.job_id]
            event = Placed(attempt=len(row.job.attempts) + 1, worker_id="w")
            for pair, placed in self.counted.items():
                if row.job.owner in pair:
                    placed[row.job.owner] += 1
            self.put(row, advance(row.job, event, self.now), CHARGE)
        if capped or not everything_fits or any(row.job.not_before > self.now for row in self.queued.values()):
            self.counted = {}  # an owner whose jobs nobody can take now is passed over: the bound is for those who can

    @precondition(lambda self: self.queued)
    @rule(data=st.data(), priority=st.integers(-3, 3))
    def reprioritise(self, data: st.DataObject, priority: int) -> None:
        row = self.queued[data.draw(st.sampled_from(sorted(self.queued)))]
        job = advance(row.job, Reprioritised(priority=priority, by="o"), self.now)
        if job is not row.job:
            self.put(row, job)

    @precondition(lambda self: self.queued)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        row = self.queued[data.draw(st.sampled_from(sorted(self.queued)))]
        self.put(row, advance(row.job, CancelRequested(by="o"), self.now))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), wait=st.sampled_from([0.0, 5.0]))
    def comes_back(self, data: st.DataObject, wait: float) -> None:
        """A worker restarts: the job is queued again, in its old place, perhaps not at once."""
        row = self.running[data.draw(st.sampled_from(sorted(self.running)))]
        event = Interrupted(attempt=len(row.job.attempts), words="", not_before=self.now + wait if wait else 0.0)
        self.put(row, advance(row.job, event, self.now))

    @rule()
    def restart(self) -> None:
        if isinstance(self.store, MemoryStore):
            self.store = self.store.crash()
        else:
            self.runner.run(self.store.close())
            self.store = self.open()

    @invariant()
    def shares_are_fair(self) -> None:
        for pair, placed in getattr(self, "counted", {}).items():
            one, other = pair
            gap = abs(placed[one] - placed[other])
            assert gap <= 1 + self.began_apart(pair), (pair, placed, self.model)

    def began_apart(self, pair: tuple[str, str]) -> float:
        """Return how far apart two owners were when both began to have jobs queued."""
        one, other = pair
        placed = self.counted[pair]
        return abs((self.model[one] - placed[one]) - (self.model[other] - placed[other]))

    @invariant()
    def positions_are_turns(self) -> None:
        if not getattr(self, "queued", None):
            return
        delayed = {job_id for job_id, row in self.queued.items() if row.job.not_before > self.now}
        if delayed:
            return
        order = self.turns({row.job.shape for row in self.queued.values()}, len(self.queued))
        for job_id in (order[0], order[-1]):
            position = self.runner.run(self.store.queue_position(self.queued[job_id].job))
            assert position == order.index(job_id)


class MemoryOrder(Order):
    """Over the store of simulations."""

    def open(self) -> Store:
        return MemoryStore()


class SqliteOrder(Order):
    """Over SQLite."""

    def open(self) -> Store:
        return SqliteStore.open(self.directory / "store.db")


@pytest.mark.parametrize("machine", [MemoryOrder, SqliteOrder])
def test_the_order_is_the_models(machine: type[Order]):
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=40, deadline=None))
