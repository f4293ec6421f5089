"""The watcher of one worker: its health, and its events while it is healthy."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from trusted_pool.coordinator.jobs import Jobs
from trusted_pool.coordinator.reconcile import Reconciler
from trusted_pool.coordinator.roster import Member, Roster, short
from trusted_pool.coordinator.tasks import Tasks
from trusted_pool.core.advance import IllegalTransitionError
from trusted_pool.core.retry import on_loss
from trusted_pool.core.words import WorkerHealth
from trusted_pool.core.worker import Worker, fenced, heard, silent
from trusted_pool.ports.clock import Clock, Dice
from trusted_pool.ports.link import FencedError, LinkError
from trusted_pool.ports.store import Store, StoreError, Unit
from trusted_pool.protocol.messages import EndedEvent, HealthAnswer, Heartbeat, Hello, InterruptedEvent, StartedEvent

_log = logging.getLogger(__name__)

MIN_CHECK_S = 1.0  #: the least time that a worker has to answer a check
EVENTS_PAUSE_S = 0.5
EVENTS_PAUSE_MAX_S = 5.0
STUMBLE_PAUSE_S = 1.0
FIRST_GAP_S = 0.1
LONGEST_GAP_S = 10.0
AT_ONCE = 256  #: events of one worker that are being applied at the same time


class Watcher:
    """Keeps what is known of one worker true."""

    def __init__(
        self,
        *,
        member: Member,
        store: Store,
        jobs: Jobs,
        roster: Roster,
        reconciler: Reconciler,
        clock: Clock,
        dice: Dice,
        interval_s: float,
        grace_s: float,
    ) -> None:
        self._member = member
        self._store = store
        self._jobs = jobs
        self._roster = roster
        self._reconciler = reconciler
        self._clock = clock
        self._dice = dice
        self._interval_s = interval_s
        self._grace_s = grace_s
        self._check_now = asyncio.Event()
        self._doubt = False  #: a call failed whose effect is unknown: compare after the next answered check
        self._healthy = asyncio.Event()
        self._tasks = Tasks()
        self._places = asyncio.Semaphore(AT_ONCE)

    @property
    def _worker(self) -> Worker:
        return self._member.worker

    def trouble(self, words: str) -> None:
        """Take note of a failed call: it is given no jobs until a check has been answered, and that is now."""
        if self._member.closed:
            return
        if self._worker.health is WorkerHealth.HEALTHY:
            self._set(silent(self._worker, words, self._grace_s, self._clock.now()))
            _log.warning("Worker %s does not answer: %s", short(self._worker.worker_id), words)
        self._doubt = True
        self._check_now.set()

    async def run(self) -> None:
        """Check and follow until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._go_on(self._check_for_ever))
                group.create_task(self._go_on(self._follow_for_ever))
        finally:
            await self._tasks.close()

    async def _go_on(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop that never ends; what nobody expected must not end the watch of a worker."""
        while not self._member.closed:
            try:
                await loop()
            except StoreError as error:
                _log.error("The watch of %s waits for the store: %s", short(self._worker.worker_id), error)
            except Exception:  # noqa: BLE001 - whatever it is, the worker must be watched
                _log.exception("The watch of %s stumbled and goes on", short(self._worker.worker_id))
            await asyncio.sleep(STUMBLE_PAUSE_S)

    async def _check_for_ever(self) -> None:
        gap_s = 0.0  # between checks that trouble brings forward: trouble that stays must not become a storm
        while True:
            self._check_now.clear()
            await self._check()
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._check_now.wait()
            except TimeoutError:
                gap_s = 0.0
            else:
                await asyncio.sleep(min(gap_s, self._pause_s()))
                gap_s = min(LONGEST_GAP_S, gap_s * 2 or FIRST_GAP_S)

    def _pause_s(self) -> float:
        """Return the time to the next check: sooner while it is silent, and at the end of the grace."""
        worker = self._worker
        if worker.health is WorkerHealth.HEALTHY or worker.silent_since is None:
            return self._interval_s
        pause = min(self._interval_s, max(1.0, self._interval_s / 6))
        left = worker.silent_since + self._grace_s - self._clock.now()
        return min(pause, left) if left > 0 else pause

    async def _check(self) -> None:
        try:
            # A short grace would be long over when a call's own time is: it is given up earlier then.
            async with asyncio.timeout(max(MIN_CHECK_S, self._grace_s / 2)):
                answer = await self._member.link.health()
            _recognise(answer, self._worker.worker_id)
        except FencedError as error:
            before = self._worker
            after = fenced(before, str(error), self._clock.now())
            if before.health is not WorkerHealth.FENCED:
                _log.error("Worker %s is fenced off from this coordinator: %s", short(before.worker_id), error)
            self._set(after)
        except (LinkError, TimeoutError) as error:
            if self._member.closed:
                return  # it is we who cut the line
            before = self._worker  # as it is now: an operator may have cordoned it while it was asked
            words = str(error) or "no answer to a health check in time"
            after = silent(before, words, self._grace_s, self._clock.now())
            if before.health is not after.health or before.words != after.words:
                _log.warning("Health check failed for %s: %s", short(before.worker_id), words)
            self._set(after)
            if after.health is WorkerHealth.LOST:
                await self._lost(first=before.health is not WorkerHealth.LOST)
        else:
            before = self._worker
            after = heard(before, answer.capacity, answer.version, self._clock.now(), leaving=answer.draining)
            if before.health is not WorkerHealth.HEALTHY or (before.leaving and not after.leaving):
                self._member.full_until = 0.0  # "later" was said before it went away
            self._set(after)
            if before.health is not WorkerHealth.HEALTHY:
                known = "its key is proven" if before.proven else "unproven: it says the listed name, which anybody can"
                _log.info("Worker %s is healthy (%s)", short(before.worker_id), known)
            if self._doubt:
                self._doubt = False
                await self._reconcile()
        if (before.health, before.capacity) != (after.health, after.capacity):
            await self._keep(self._worker)  # as it is now

    async def _reconcile(self) -> tuple[str, int]:
        """Compare all that the worker has; return the journal and the event up to which that was."""
        try:
            return await self._reconciler.reconcile(self._member)
        except (LinkError, StoreError) as error:
            _log.warning("Worker %s cannot be compared: %s", short(self._worker.worker_id), error)
            self._doubt = True
            return "", 0

    def _set(self, worker: Worker) -> None:
        if self._member.closed:
            return
        self._roster.update(worker)
        if worker.health is WorkerHealth.HEALTHY:
            self._healthy.set()
        else:
            self._healthy.clear()

    async def _keep(self, worker: Worker) -> None:
        try:
            await self._store.commit([Unit(workers=(worker,))])
        except StoreError as error:
            _log.warning("What is known of %s is not kept: %s", short(worker.worker_id), error)

    async def _lost(self, *, first: bool) -> None:
        """Let every job that is assigned there go the way of its policy."""
        self._doubt = True  # its event stream may have outlived the silence, and would not tell what is unwanted now
        if first:
            _log.warning("Worker %s is lost: silent for %.0f s", short(self._worker.worker_id), self._grace_s)
        for row in await self._store.open_jobs(self._worker.worker_id):
            event = on_loss(row.job, self._clock.now(), self._dice.jitter())
            try:
                after = await self._jobs.apply(row.job.job_id, event)
            except IllegalTransitionError:
                continue  # it moved on in the meantime
            if after is not row.job:
                _log.warning("Job %s on lost worker: %s", after.job_id, after.state)

    async def _follow_for_ever(self) -> None:
        """Follow the event stream whenever the worker is healthy; compare everything when its journal is new."""
        journal_id, seq, pause = "", 0, EVENTS_PAUSE_S
        while True:
            await self._healthy.wait()
            try:
                async for message in self._member.link.events(journal_id, seq):
                    pause = EVENTS_PAUSE_S
                    self._member.streams += isinstance(message, Hello)
                    if isinstance(message, Hello) and message.journal_id != journal_id:
                        journal_id, seq = await self._reconcile()
                        if journal_id != message.journal_id:
                            raise LinkError("it restarted in between")
                    elif isinstance(message, Heartbeat):
                        if message.draining != self._worker.leaving:
                            self._roster.update(msgspec.structs.replace(self._worker, leaving=message.draining))
                    elif isinstance(message, StartedEvent | EndedEvent | InterruptedEvent) and message.seq > seq:
                        await self._take(message)
                        seq = message.seq
            except LinkError as error:
                if self._member.closed:
                    return  # it is we who cut the line
                self.trouble(str(error))
                await asyncio.sleep(pause)
                pause = min(EVENTS_PAUSE_MAX_S, pause * 2)

    async def _take(self, event: StartedEvent | EndedEvent | InterruptedEvent) -> None:
        """Apply an event beside others; changes of one job keep their order."""
        await self._places.acquire()

        async def apply() -> None:
            try:
                await self._reconciler.event(self._member, event)
            except Exception as error:  # noqa: BLE001 - whatever it is, the event must not be lost
                # The stream goes on behind it, so it must be found by comparing.
                _log.exception("An event of job %s was not applied", event.job_id)
                self.trouble(f"its event could not be applied: {error}")
            finally:
                self._places.release()

        self._tasks.spawn(apply(), f"{type(event).__name__} {event.job_id}")


def _recognise(answer: HealthAnswer, worker_id: str) -> None:
    """Raise LinkError unless the answer is a healthy one of this worker."""
    if answer.worker_id != worker_id:
        raise LinkError(f"it answered as {answer.worker_id[:12] or 'nobody'}")
    if answer.status != "healthy":
        raise LinkError(f"it says that it is {answer.status or 'unwell'}")
