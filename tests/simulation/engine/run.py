"""One run: a pool, its people, its faults, and then calm, in which everything must come to its end."""

import asyncio
import gc
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import msgspec

from simulation.engine.chance import chance_of
from simulation.engine.head import Head
from simulation.engine.ledger import Ledger
from simulation.engine.loop import LivelockError, SeededLoop
from simulation.engine.nemesis import Nemesis
from simulation.engine.node import Node
from simulation.engine.people import Client, Plan
from simulation.engine.trace import Ears, Finding, Trace
from simulation.engine.weather import Fortune
from trusted_pool.coordinator.service import Settings
from trusted_pool.core.words import JobState
from trusted_pool.ports.sandbox import Task
from trusted_pool.sandbox.fake import Play

SETTLE_S = 4000.0  #: after the last fault, until every job has ended
CANCEL_S = 200.0  #: after the last fault, until every job whose cancel was acknowledged has ended
RELEASE_S = 400.0  #: after the last job, until no worker holds anything
LEFT_S = 40.0  #: for a job to leave a worker that was removed: longer than a pause of who waits for the store
STALE_S = 10.0
PROMPT_S = 3.0  #: for jobs of 0.2 s, two rounds of them, in a calm pool


class Verdict(msgspec.Struct, kw_only=True):
    """What a run came to."""

    seed: int
    finding: Finding | None
    trace: Trace
    steps: int
    jobs: int

    def text(self, lines: int = 250) -> str:
        """Say it for people."""
        head = f"seed {self.seed}: {self.finding}"
        return f"{head}\n{self.trace.text(lines)}\n{head}\nreplay: SIM_SEED={self.seed} make simulate"


class World:
    """A pool with everything around it."""

    def __init__(self, seed: int, loop: SeededLoop, trace: Trace, ears: Ears) -> None:
        chance = chance_of(f"{seed} fate")
        self.trace = trace
        self.fortune = Fortune(chance)
        self.ledger = Ledger(trace)
        self._loop = loop
        self._ears = ears
        self.nodes: dict[str, Node] = {}
        for name in ("worker-a", "worker-b", "worker-c")[: chance.choice((1, 2, 2, 3))]:
            self.nodes[name] = Node(
                name, chance.choice((1, 2, 3)), loop=loop, fortune=self.fortune, ledger=self.ledger, trace=trace,
                stage=self._play,
            )  # fmt: skip
        parts = {"loop": loop, "fortune": self.fortune, "ledger": self.ledger, "trace": trace}
        settings = Settings(
            check_interval_s=chance.choice((3.0, 10.0, 30.0)), grace_s=chance.choice((15.0, 40.0, 120.0))
        )
        self.ledger.grace_s = settings.grace_s
        self.head = Head(self.nodes, settings, **parts)
        self._left_since: dict[tuple[str, int], float] = {}
        self._awake_at = 0.0
        self.chaos_s = chance.choice((30.0, 100.0, 300.0))
        plans = [Plan.drawn(self.fortune, n, self.chaos_s * 0.7) for n in range(chance.choice((3, 6, 12)))]
        self.nemesis = Nemesis(self.head, self.nodes, **parts)
        self.plans = {plan.key: plan for plan in plans}
        self.clients = [self._client(plan) for plan in plans]
        for node in self.nodes.values():
            node.on_change = self.head.see

    def _client(self, plan: Plan) -> Client:
        return Client(plan, head=self.head, fortune=self.fortune, ledger=self.ledger, trace=self.trace)

    def _play(self, worker: str, task: Task) -> Play:
        return self.plans[task.manifest.args[0]].play(self.fortune, worker, task)

    # What is looked at after every step and in every quiet moment

    def look(self) -> None:
        """Stop at the first finding."""
        found = self.ledger.finding or self._ears.heard
        if found is not None:
            raise found

    def look_around(self) -> None:
        """Look at what must be so whenever nothing is under way."""
        self.count()
        self.kept()

    def count(self) -> None:
        """When nothing is under way, what the coordinator counts is what the store holds."""
        head = self.head
        if not head.up or head.process is None or head.process.frozen or head.store.unsynced:
            return
        held: dict[str, int] = {}
        for job in self.ledger.jobs().values():
            if job.holds_slot and job.assigned_to is not None:
                held[job.assigned_to] = held.get(job.assigned_to, 0) + 1
        for name, member in head.coordinator.roster.members.items():
            if member.load.active != held.get(name, 0):
                words = f"{name} counts {member.load.active}, the store holds {held.get(name, 0)}"
                self.ledger.wrong("loads", words)

    def kept(self) -> None:
        """No job stays for long with a worker that is not listed, unless its owner wants it to."""
        head, now = self.head, self._loop.time()
        coming = head.process is None or head.process.frozen or not head.up or head.store.full
        if coming or now - self._awake_at > STALE_S:
            self._left_since.clear()
        self._awake_at = now
        if coming:
            return
        coordinator = head.coordinator
        left = {
            (job.job_id, len(job.attempts))
            for job in self.ledger.jobs().values()
            if job.assigned_to is not None
            and job.assigned_to not in coordinator.roster.members
            and (job.cancel_requested_at or job.job_id not in coordinator.removal.held.get(job.assigned_to, ()))
        }
        self._left_since = {key: self._left_since.get(key, now) for key in left}
        for (job_id, attempt), since in self._left_since.items():
            if now - since > LEFT_S:
                self.ledger.wrong("kept", f"{job_id} attempt {attempt} is at a worker that is not listed any more")

    # The run

    async def main(self) -> None:
        """Live through it. Raises Finding."""
        self.head.start()
        for node in self.nodes.values():
            node.start()
        people = [asyncio.ensure_future(client.live()) for client in self.clients]
        await self.nemesis.rage(self.chaos_s)
        self.nemesis.relent()
        calm_at = self._loop.time()
        await self.nemesis.make_up()
        await self._until(self._cancels_ended, calm_at + CANCEL_S, "stuck", self._cancelled_and_open)
        everybody = asyncio.gather(*people)
        await self._until(everybody.done, calm_at + SETTLE_S, "stuck", self._unfinished)
        await everybody
        await self._until(self._jobs_ended, calm_at + SETTLE_S, "stuck", self._unfinished)
        await self._until(lambda: not self._left(), self._loop.time() + RELEASE_S, "leftover", self._left)
        await self._probe()
        await self._until(lambda: not self._left(), self._loop.time() + RELEASE_S, "leftover", self._left)
        await self._recount()
        await self._stop()

    async def _until(self, holds: Callable[[], object], end: float, kind: str, words: Callable[[], object]) -> None:
        pause_s = 0.05
        while not holds():
            if self._loop.time() > end:
                self.ledger.wrong(kind, str(words()))
            await asyncio.sleep(pause_s)
            pause_s = min(5.0, pause_s * 2)

    def _open(self) -> list[str]:
        return [
            f"{job.job_id} is {job.state} ({job.reason}), attempt {len(job.attempts)}"
            f" {job.attempt.state if job.attempt else ''}"
            for job in self.ledger.jobs().values()
            if not job.final
        ]

    def _jobs_ended(self) -> bool:
        return not self._open()

    def _cancelled_and_open(self) -> list[str]:
        return [line for line in self._open() if line.split()[0] in self.ledger.cancelled]

    def _cancels_ended(self) -> bool:
        return not self._cancelled_and_open()

    def _unfinished(self) -> str:
        waiting = [c.plan.key for c in self.clients if c.job_id is None and not c.refused]
        return f"open: {self._open()}; without an answer: {waiting}"

    def _left(self) -> list[str]:
        """Say what is held though no job is open."""
        left = []
        for name, node in self.nodes.items():
            if not node.up:
                left.append(f"{name} is not up")
                continue
            attempts = node.daemon.attempts
            left += [f"{name} has {e.remote_id} ({e.job_id} attempt {e.attempt}: {e.state})" for e in attempts]
            left += [f"{name} has files of {key}" for key in node.disk]
            if attempts.active or node.sandbox.running:
                left.append(f"{name}: {attempts.active} slots taken, {sorted(node.sandbox.running)} run")
            if sorted(attempts._slots._free) != list(range(node.slots)):
                left.append(f"{name}: its free slots are {attempts._slots._free}")
            if node.blobs._shelf.visible or node.blobs.unended:
                left.append(f"{name}: {len(node.blobs._shelf.visible)} inputs, {node.blobs.unended} unended")
        if self.head.blobs.unended:
            left.append(f"the coordinator: {self.head.blobs.unended} unended blobs")
        return left

    async def _probe(self) -> None:
        """In calm, jobs are placed when they come and when a slot is freed, and not when somebody happens to look."""
        await self._until(self._all_healthy, self._loop.time() + 300.0, "stuck", lambda: "workers are not healthy")
        await asyncio.sleep(60.0 + 10 * self.fortune.chance.random())
        count = sum(node.slots for node in self.nodes.values()) + 1
        plans = [
            Plan(key=f"probe-{n}", owner="ann", submit_after_s=0.0, duration_s=0.2, timeout_s=60.0)
            for n in range(count)
        ]
        self.plans.update((plan.key, plan) for plan in plans)
        clients = [self._client(plan) for plan in plans]
        began = self._loop.time()
        await asyncio.gather(*(client.live() for client in clients))
        if self._loop.time() - began > PROMPT_S:
            self.ledger.wrong("slow", f"{count} jobs of 0.2 s took {self._loop.time() - began:.1f} s in a calm pool")

    def _all_healthy(self) -> bool:
        members = self.head.coordinator.roster.listed()
        return len(members) == len(self.nodes) and all(m.worker.health == "healthy" for m in members)

    async def _recount(self) -> None:
        self.ledger.must_hold()
        jobs = self.ledger.jobs()
        counters = await self.head.store.counters()
        recount = {state.value: sum(job.state is state for job in jobs.values()) for state in JobState}
        if dict(counters.jobs) != recount or counters.total != len(jobs):
            self.ledger.wrong("counters", f"{counters} are not {recount}")

    async def _stop(self) -> None:
        head, process = self.head, self.head.process
        await head.close()
        for node in self.nodes.values():
            await node.close()
        await asyncio.sleep(60.0)
        for living in (process, *(node.process for node in self.nodes.values())):
            names = [] if living is None else self._loop.tasks_of(living)
            if names := [name for name in names if not name.startswith("late ")]:
                self.ledger.wrong("leftover", f"{living.name} still has tasks after its end: {names}")


def simulate(seed: int, mutation: Callable[[], AbstractContextManager[None]] = nullcontext) -> Verdict:
    """Run one seed, with a deliberate bug if given."""
    trace = Trace()
    ears = Ears(trace)
    product = logging.getLogger("trusted_pool")
    level, propagates = product.level, product.propagate
    loop = SeededLoop(chance_of(f"{seed} order"))
    collecting = gc.isenabled()
    gc.disable()  # nothing may depend on when it comes
    product.addHandler(ears)
    product.setLevel(logging.INFO)
    product.propagate = False
    finding: Finding | None = None
    world: World | None = None
    try:
        with mutation():
            world = World(seed, loop, trace, ears)
            loop.after_step = world.look
            loop.when_quiet = world.look_around
            loop.set_exception_handler(lambda _, context: _heard(ears, context))
            try:
                loop.run_until_complete(world.main())
            except Finding as error:
                finding = error
            except LivelockError as error:
                finding = Finding("stuck", str(error))
            finding = world.ledger.finding or ears.heard or finding
    finally:
        loop.after_step = loop.when_quiet = lambda: None
        loop.set_exception_handler(lambda *_: None)
        product.removeHandler(ears)
        product.setLevel(logging.CRITICAL + 1)
        lines = list(trace.lines)
        loop.bury()
        loop.close()
        trace.lines = lines
        product.setLevel(level)
        product.propagate = propagates
        if collecting:
            gc.enable()
    jobs = len(world.ledger.jobs()) if world else 0
    return Verdict(seed=seed, finding=finding, trace=trace, steps=loop.steps, jobs=jobs)


def _heard(ears: Ears, context: dict[str, object]) -> None:
    error = context.get("exception")
    if ears.heard is None and not isinstance(error, Finding):
        ears.heard = Finding("error", f"{context.get('message')}: {error!r}")
