"""One run of an attempt in the sandbox, and how its end is read."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from trusted_pool.core.job import Outcome
from trusted_pool.core.words import AttemptState, Reason
from trusted_pool.ports.clock import Clock
from trusted_pool.ports.journal import Entry, Journal, JournalError
from trusted_pool.ports.sandbox import OpenInput, Sandbox, Task
from trusted_pool.protocol import frames
from trusted_pool.protocol.manifest import Resolved
from trusted_pool.protocol.messages import INLINE_BYTES
from trusted_pool.worker.bell import Bell

RESTARTED = "the worker was restarted while it ran"
STOPPED = "the worker was stopped by its operator while it ran"
UNLISTED = "the worker's operator took the pool off its list while it ran"
#: Ends that the worker's own shutdown brings about.
_BY_CLOSING = (Reason.CANCELLED, Reason.SIGNAL, Reason.SANDBOX_FAILED)
#: Between two tries to write down that an attempt ended.
AGAIN_S = 1.0
#: Small logs kept in memory for the event that carries them.
REMEMBERED = 256

_log = logging.getLogger(__name__)


def task_of(entry: Entry, resolved: Resolved, slot: int, worker_id: str, gpus: tuple[int, ...] = ()) -> Task:
    """Say to the sandbox what is to be run. The remote id is the task's key."""
    deadline = int((entry.started_at or entry.accepted_at) + resolved.timeout_s)
    return Task(
        key=entry.remote_id,
        slot=slot,
        manifest=resolved,
        inputs=entry.inputs,
        gpus=gpus,
        env={
            "TRUSTED_POOL_JOB_ID": entry.job_id,
            "TRUSTED_POOL_ATTEMPT": str(entry.attempt),
            "TRUSTED_POOL_WORKER_ID": worker_id,
            "TRUSTED_POOL_DEADLINE": str(deadline),
        },
    )


class Runner:
    """Runs tasks; what they write goes into the journal's log as it is read."""

    def __init__(self, sandbox: Sandbox, journal: Journal, open_input: OpenInput, clock: Clock) -> None:
        self._sandbox = sandbox
        self._journal = journal
        self._open_input = open_input
        self._clock = clock
        self._logs: dict[str, bytearray] = {}  #: of the newest attempts, as far as they are small

    def small_log(self, remote_id: str) -> bytes:
        """Return a log that is small and was written lately, so that it need not be read from disk; else nothing."""
        return bytes(self._logs.get(remote_id, b""))

    def _remember(self, remote_id: str, frame: bytes) -> None:
        log = self._logs.setdefault(remote_id, bytearray())
        if len(log) <= INLINE_BYTES:  # one frame more makes it too large, and that is how it is told
            log += frame

    async def run(self, task: Task, bell: Bell, on_start: Callable[[], Awaitable[None]]) -> Outcome:
        """Run to the end. `bell` is rung for each piece of the log."""

        def on_log(stream: int, data: bytes) -> None:
            try:
                frame = frames.encode(self._clock.now(), stream, data)
                self._journal.append_log(task.key, frame)
                self._remember(task.key, frame)
            except (JournalError, OSError) as error:
                # on_log must not raise, and a full disk must not end the job: its outputs may still get through.
                _log.error("The log of %s cannot be written: %s", task.key, error)
            bell.ring()

        while len(self._logs) > REMEMBERED:
            del self._logs[next(iter(self._logs))]
        try:
            outcome = await self._sandbox.run(task, self._open_input, on_log, on_start)
        except asyncio.CancelledError:
            running = asyncio.current_task()
            if running is None or running.cancelling():
                raise
            outcome = Outcome(reason=Reason.CANCELLED, detail=STOPPED)  # the sandbox was closed under it
        except Exception as error:  # noqa: BLE001 - the sandbox is the border
            # A mistake of the sandbox's own. The job must not hang in `running` for it.
            _log.exception("The sandbox failed to run %s", task.key)
            outcome = Outcome(reason=Reason.SANDBOX_FAILED, detail=f"the worker's sandbox failed: {error!r}")
        return msgspec.structs.replace(outcome, log_bytes=self._journal.log_size(task.key))


def ended(entry: Entry, outcome: Outcome, now: float, *, stopped: str | None, closed: bool) -> Entry:
    """Return the entry after its run.

    What the worker's operator ended, and no cancel, is interrupted: the pool may try it again elsewhere. `stopped` says
    how it was.
    """
    by_operator = (stopped and outcome.reason is Reason.CANCELLED) or (closed and outcome.reason in _BY_CLOSING)
    if by_operator and not entry.cancelled:
        return interrupted(entry, stopped or STOPPED, now)
    return msgspec.structs.replace(entry, state=AttemptState.ENDED, outcome=outcome, ended_at=now)


def interrupted(entry: Entry, words: str, now: float) -> Entry:
    """Return the entry as one that has no result and will have none."""
    return msgspec.structs.replace(entry, state=AttemptState.INTERRUPTED, words=words, ended_at=now)


async def write_down(journal: Journal, entry: Entry, closed: Callable[[], bool]) -> None:
    """Commit the end. The slot stays taken until the journal takes it: an end that is not kept did not happen."""
    while True:
        try:
            await journal.put(entry, entry.state.value)
        except JournalError as error:
            _log.error("The end of %s cannot be written down: %s", entry.remote_id, error)
            if closed():
                return
            await asyncio.sleep(AGAIN_S)
        else:
            return
