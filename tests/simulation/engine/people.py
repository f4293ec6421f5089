"""Clients: they submit, ask again when they hear nothing, wait, cancel, and read what came out."""

import asyncio
from typing import Any

import msgspec

from simulation.engine.head import Head, NoAnswerError
from simulation.engine.ledger import Ledger
from simulation.engine.trace import Trace
from simulation.engine.weather import Fortune
from trusted_pool.core.job import Outcome
from trusted_pool.core.words import JobState, OnWorkerLoss, Reason
from trusted_pool.ports.sandbox import Task
from trusted_pool.protocol import frames
from trusted_pool.protocol.errors import ConflictError, PoolError
from trusted_pool.sandbox.fake import Play

BIG = 40_000  #: bytes that do not travel inside an event


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A job: what its owner asks for, and what its program will do."""

    key: str
    owner: str
    submit_after_s: float
    duration_s: float
    output_bytes: int = 20
    input_bytes: int = 10
    exit_code: int = 0
    ignores_sigterm: bool = False
    sandbox_fails: float = 0.0  #: likelihood, each time
    timeout_s: float = 300.0
    max_attempts: int = 3
    on_worker_loss: OnWorkerLoss = OnWorkerLoss.RETRY
    priority: int = 0
    asks_again: float = 0.0  #: likelihood that its owner submits it again though the answer came
    expires_in_s: float | None = None
    cancel_after_s: float | None = None

    @classmethod
    def drawn(cls, fortune: Fortune, number: int, within_s: float) -> "Plan":
        """Draw one."""
        chance = fortune.chance
        loss = chance.choices([OnWorkerLoss.RETRY, OnWorkerLoss.FAIL, OnWorkerLoss.HOLD], [6, 1, 1])[0]
        return cls(
            key=f"key-{number}",
            owner=chance.choice(("ann", "bob")),
            submit_after_s=chance.random() * within_s,
            duration_s=chance.choice((0.0, 0.5, 5.0, 30.0, 200.0)) * (0.5 + chance.random()),
            output_bytes=chance.choice((0, 20, 20, BIG, 3 * BIG)),
            input_bytes=chance.choice((10, 10, 100_000)),
            exit_code=chance.choice((0, 0, 0, 3)),
            ignores_sigterm=fortune.happens(0.2),
            sandbox_fails=chance.choice((0.0, 0.0, 0.0, 0.4)),
            timeout_s=chance.choice((100.0, 300.0)),
            max_attempts=chance.choice((1, 1, 2, 3)),
            on_worker_loss=loss,
            priority=chance.choice((0, 0, 5)),
            asks_again=chance.choice((0.0, 0.5)),
            expires_in_s=chance.choice((None, None, None, 100.0)),
            cancel_after_s=chance.random() * 60 if fortune.happens(0.25) else None,
        )

    @property
    def manifest(self) -> dict[str, Any]:
        """What is sent."""
        fields: dict[str, Any] = {
            "args": [self.key],
            "timeout": self.timeout_s,
            "priority": self.priority,
            "retry": {"max_attempts": self.max_attempts, "on_worker_loss": self.on_worker_loss.value},
        }
        if self.expires_in_s is not None:
            fields["expires_in"] = self.expires_in_s
        return fields

    @property
    def files(self) -> dict[str, bytes]:
        """What is sent with it. Plain files: looking into a large archive takes a thread."""
        return {"main.py": b"pass", "data": self.key.encode().ljust(self.input_bytes, b".")}

    def play(self, fortune: Fortune, worker: str, task: Task) -> Play:
        """Say what this run of its program does; what it leaves names the run."""
        if fortune.happens(self.sandbox_fails):
            return Play(fails=Outcome(reason=Reason.SANDBOX_FAILED, detail="the sandbox could not be made"))
        name = f"{self.key} on {worker} as {task.key}".encode()
        files = {"out": name.ljust(self.output_bytes, b"#")} if self.output_bytes else {}
        if self.output_bytes > BIG:
            files["more"] = name[::-1].ljust(BIG, b"%")
        return Play(
            duration_s=self.duration_s,
            says=((0.0, frames.STDOUT, b"begins\n"),),
            files=files,
            exit_code=self.exit_code,
            ignores_sigterm=self.ignores_sigterm,
        )


class Client:
    """The owner of one job."""

    def __init__(self, plan: Plan, *, head: Head, fortune: Fortune, ledger: Ledger, trace: Trace) -> None:
        self.plan = plan
        self.job_id: str | None = None
        self.refused = ""
        self._head = head
        self._fortune = fortune
        self._ledger = ledger
        self._trace = trace

    async def live(self) -> None:
        """Have the job run, and see what became of it."""
        await asyncio.sleep(self.plan.submit_after_s)
        await self._submit()
        if self.job_id is None:
            return
        if self.plan.cancel_after_s is not None:
            await asyncio.sleep(self.plan.cancel_after_s)
            await self._cancel(self.job_id)
        await self._wait(self.job_id)
        await self._read(self.job_id)

    def _say(self, what: str) -> None:
        self._trace(self.plan.key, what)

    async def _pause(self) -> None:
        await asyncio.sleep(0.5 + 5 * self._fortune.chance.random())

    async def _submit(self) -> None:
        plan = self.plan
        while True:
            try:
                job_id = await self._head.submit(plan.manifest, plan.files, plan.key, plan.owner)
            except NoAnswerError as error:
                self._say(f"submit: {error}")
            except PoolError as error:
                self._say(f"submit: {error.status} {error}")
                if not error.retryable and not isinstance(error, ConflictError):
                    self.refused = str(error)
                    return
            else:
                self._say(f"is {job_id}")
                self.job_id = job_id
                self._ledger.acknowledge(plan.key, job_id)
                if not self._fortune.happens(plan.asks_again):  # some ask again what they know already
                    return
            await self._pause()

    async def _cancel(self, job_id: str) -> None:
        while True:
            try:
                job = await self._head.cancel(job_id)
            except ConflictError:
                return
            except (NoAnswerError, PoolError) as error:
                self._say(f"cancel: {error}")
                await self._pause()
            else:
                self._say(f"is told that its cancel was heard: {job.state}")
                self._ledger.acknowledge_cancel(job_id, len(job.attempts))
                return

    async def _wait(self, job_id: str) -> None:
        while True:
            try:
                answer = await self._head.status(job_id, wait_s=30.0)
            except (NoAnswerError, PoolError) as error:
                self._say(f"status: {error}")
                if getattr(error, "status", 0) == 404:
                    self._ledger.wrong("lost", f"{job_id} is not known any more")
                await self._pause()
            else:
                if answer.completed_at is not None:
                    self._say(f"sees {job_id} {answer.state} ({answer.reason})")
                    return

    async def _read(self, job_id: str) -> None:
        while True:
            try:
                job, attempt, files = await self._head.outputs(job_id)
            except (NoAnswerError, PoolError) as error:
                self._say(f"outputs: {error}")
                await self._pause()
            else:
                break
        runs = self._ledger.runs.get((job_id, attempt), [])
        if job.state is JobState.COMPLETED and not any(run.files == files for run in runs):
            self._ledger.wrong("wrong result", f"{job_id} attempt {attempt}: {sorted(files)} are no files of its run")
