"""What goes wrong during a run: crashes, freezes, partitions, clocks, disks, operators."""

import asyncio
from collections.abc import Callable

import msgspec

from simulation.engine.head import Head
from simulation.engine.ledger import Ledger
from simulation.engine.loop import SeededLoop
from simulation.engine.node import Node
from simulation.engine.trace import Trace
from simulation.engine.weather import Fortune, Weather
from trusted_pool.core.words import Duty

LONGEST_DOWN_S = 200.0


class Nemesis:
    """Draws a fault every now and then, out of those kinds that this run's seed has chosen."""

    def __init__(
        self, head: Head, nodes: dict[str, Node], *, loop: SeededLoop, fortune: Fortune, ledger: Ledger, trace: Trace
    ) -> None:
        self._head = head
        self._nodes = nodes
        self._loop = loop
        self._fortune = fortune
        self._ledger = ledger
        self._trace = trace
        self._chance = fortune.chance
        self._timers: list[asyncio.TimerHandle] = []
        self._listed = list(head.allowlist)
        kinds: list[Callable[[], None]] = [
            self._kill_coordinator,
            self._kill_worker,
            self._kill_worker,
            self._leave,
            self._freeze_worker,
            self._freeze_coordinator,
            self._partition,
            self._partition,
            self._set_a_clock,
            self._fill_the_store,
            self._fill_the_blobs,
            self._fail_a_journal,
            self._change_the_allowlist,
            self._change_a_duty,
            self._pause,
            self._lie_in_wait,
            self._lie_in_wait,
            self._outlast_the_grace,
            self._outlast_the_grace,
        ]
        self._kinds = [kind for kind in kinds if fortune.happens(0.4)] or kinds
        self._every_s = self._chance.choice((3.0, 10.0, 40.0))

    async def rage(self, for_s: float) -> None:
        """Make trouble for so long."""
        end = self._loop.time() + for_s
        self._fortune.weather = Weather.drawn(self._chance)
        self._say(str(self._fortune.weather))
        while self._loop.time() < end:
            await asyncio.sleep(self._chance.random() * 2 * self._every_s)
            self._chance.choice(self._kinds)()

    def relent(self) -> None:
        """Stop all trouble: all is up, connected and has room; clocks stay as they are."""
        self._say("no more faults")
        self._ledger.triggers.clear()
        for timer in self._timers:
            timer.cancel()
        self._fortune.weather = Weather()
        head = self._head
        if head.process is not None:
            head.process.thaw()
            head.process.after_steps(10**9, lambda: None)
        self._store_full(full=False)
        self._blobs_full(full=False)
        head.down.clear()
        head.allowlist = list(self._listed)
        for node in self._nodes.values():
            node.journal_fails = False
            node.supervised = True
            if node.process is not None:
                node.process.thaw()
                node.process.after_steps(10**9, lambda: None)
            else:
                node.start()
            node.hang_up()
            head.see(node.worker_id)
        if head.process is None:
            head.start()

    async def make_up(self) -> None:
        """Undo what operators have done. The coordinator may still be starting."""
        head = self._head
        while not head.up:  # noqa: ASYNC110 - the time is virtual
            await asyncio.sleep(1.0)
        await asyncio.sleep(30.0)  # what operators had begun comes to its end first
        process = head.process
        assert process is not None
        await process.spawn(head.coordinator.reload(head.allowlist))
        for name in self._nodes:
            await process.spawn(head.coordinator.duties.set(name, Duty.ACTIVE))
        await process.spawn(head.coordinator.pause(paused=False))

    def _say(self, what: str) -> None:
        self._trace("nemesis", what)

    def _in(self, delay_s: float, then: Callable[[], None]) -> None:
        self._timers.append(self._loop.call_later(delay_s, then))

    def _down_s(self) -> float:
        return self._chance.choice((0.01, 2.0, 30.0, LONGEST_DOWN_S)) * self._chance.random()

    def _node(self) -> Node:
        return self._chance.choice(list(self._nodes.values()))

    def _steps(self) -> int:
        """Draw how many steps later something comes: between any two."""
        return int(self._chance.random() * self._chance.choice((3, 30, 300)))

    # Processes

    def _kill_coordinator(self) -> None:
        head = self._head
        if head.process is None or head.process.frozen:
            return

        def kill() -> None:
            head.crash()
            for node in self._nodes.values():
                self._in(10 * self._chance.random(), node.hang_up)
            self._in(self._down_s(), again)

        def again() -> None:
            if head.process is None:
                head.start()

        head.process.after_steps(self._steps(), kill)

    def _kill_worker(self) -> None:
        node = self._node()
        if node.process is None or node.process.frozen:
            return

        def kill() -> None:
            node.crash()

        self._come_back(node)
        node.process.after_steps(self._steps(), kill)

    def _come_back(self, node: Node) -> None:
        def again() -> None:
            if node.process is None:
                node.start()
            else:
                self._in(30.0, again)

        self._in(self._down_s(), again)

    def _leave(self) -> None:
        node = self._node()
        if node.process is not None and not node.process.frozen:
            node.leave()
            self._in(40.0, lambda: self._come_back(node))

    def _freeze_worker(self) -> None:
        node = self._node()
        process = node.process
        if process is not None:
            self._say(f"freezes {node.worker_id}")
            process.freeze()
            self._in(self._chance.choice((5.0, 60.0, 400.0)) * self._chance.random(), process.thaw)

    def _freeze_coordinator(self) -> None:
        process = self._head.process
        if process is not None:
            self._say("freezes the coordinator")
            process.freeze()
            self._ledger.jumped_at = self._loop.time() + 200.0  # what it hears then is old
            self._in(self._chance.choice((5.0, 60.0, 200.0)) * self._chance.random(), process.thaw)

    # The network

    def _outlast_the_grace(self) -> None:
        """Let a worker that is busy be lost, and come back while its jobs are with others."""
        busy = [node for node in self._nodes.values() if node.up and node.daemon.attempts.active]
        node = self._chance.choice(busy or list(self._nodes.values()))
        settings = self._head.settings
        for_s = settings.grace_s + settings.check_interval_s + 60 * self._chance.random()
        if self._fortune.happens(0.3) and node.process is not None:
            self._say(f"freezes {node.worker_id} for {for_s:.0f} s")
            node.process.freeze()
            self._in(for_s, node.process.thaw)
        else:
            self._cut(node.worker_id, for_s)

    def _partition(self) -> None:
        self._cut(self._node().worker_id, self._chance.choice((1.0, 20.0, 300.0)) * self._chance.random())

    def _cut(self, name: str, for_s: float) -> None:
        self._say(f"cuts off {name} for {for_s:.0f} s")
        self._head.down.add(name)
        self._head.see(name)

        def heal() -> None:
            self._say(f"heals the line to {name}")
            self._head.down.discard(name)
            self._head.see(name)

        self._in(for_s, heal)

    def _lie_in_wait(self) -> None:
        """Have a fault come right after the next commit of some kind."""
        kind = self._chance.choice(("Submitted", "Placed", "Placed", "Accepted", "Started", "Ended", "Collected"))
        fault = self._chance.choice(
            (self._fill_the_store, self._fill_the_store, self._kill_coordinator, self._partition)
        )
        self._say(f"waits for {kind}")
        self._ledger.triggers.append((kind, fault))

    # Machines

    def _set_a_clock(self) -> None:
        by_s = self._chance.choice((-1.0, 1.0)) * self._chance.choice((5.0, 100.0, 900.0)) * self._chance.random()
        if self._fortune.happens(0.5):
            self._say(f"sets the coordinator's clock by {by_s:+.0f} s")
            self._head.clock.offset_s += by_s
            self._ledger.jumped_at = self._loop.time()
        else:
            node = self._node()
            self._say(f"sets the clock of {node.worker_id} by {by_s:+.0f} s")
            node.clock.offset_s += by_s

    def _store_full(self, *, full: bool) -> None:
        self._head.store.full = full

    def _blobs_full(self, *, full: bool) -> None:
        self._head.blobs._shelf.room = 0 if full else None
        for node in self._nodes.values():
            node.blobs._shelf.room = 0 if full else None

    def _fill_the_store(self) -> None:
        self._say("fills the store's disk")
        self._store_full(full=True)
        self._in(40 * self._chance.random(), lambda: self._store_full(full=False))

    def _fill_the_blobs(self) -> None:
        self._say("fills the disks of blobs")
        self._blobs_full(full=True)
        self._in(40 * self._chance.random(), lambda: self._blobs_full(full=False))

    def _fail_a_journal(self) -> None:
        node = self._node()
        self._say(f"fills the disk of {node.worker_id}'s journal")
        node.journal_fails = True

        def mend() -> None:
            node.journal_fails = False

        self._in(30 * self._chance.random(), mend)

    # Operators

    def _operate(self, what: str, make: Callable[[], object]) -> None:
        process = self._head.process
        if process is None or not self._head.up:
            return
        self._say(what)
        self._loop.create_task(self._head.ask(what, lambda _: make()), name=what).add_done_callback(_forget)  # type: ignore[arg-type,return-value]

    def _change_the_allowlist(self) -> None:
        if len(self._listed) < 2:
            return
        out = self._chance.choice(self._listed).worker_id
        kept = [w for w in self._listed if w.worker_id != out or self._fortune.happens(0.4)]
        if self._fortune.happens(0.2):
            kept = [msgspec.structs.replace(w, endpoint=f"https://{w.worker_id}:9443") for w in kept]
        self._head.allowlist = kept
        process = self._head.process
        if process is not None and self._head.up:
            self._say(f"lists {[w.worker_id for w in kept]}")
            process.spawn(self._head.coordinator.reload(kept), "reload")

    def _change_a_duty(self) -> None:
        duty = self._chance.choice((Duty.ACTIVE, Duty.CORDONED, Duty.DRAINING))
        deadline_s = self._chance.choice((None, 20.0))
        name = self._node().worker_id
        self._operate(f"{name}: {duty}", lambda: self._head.coordinator.duties.set(name, duty, deadline_s))

    def _pause(self) -> None:
        paused = self._fortune.happens(0.5)
        self._operate(f"paused: {paused}", lambda: self._head.coordinator.pause(paused=paused))


def _forget(task: "asyncio.Task[object]") -> None:
    """An operator who hears nothing shrugs."""
    if not task.cancelled():
        task.exception()
