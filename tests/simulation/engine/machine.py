"""What a worker of the simulation stands on: a sandbox that watches its slots, and a pool that is listed."""

from typing import Any

from simulation.engine.ledger import Ledger
from trusted_pool.core.job import Outcome
from trusted_pool.ports.sandbox import Task
from trusted_pool.sandbox.fake import FakeSandbox


class NoEnrolment:
    """The pool is listed: nothing is enrolled."""

    how_to_forget = "nothing"

    def load(self) -> str | None:
        """Nothing was."""
        return None

    def save(self, pool_id: str) -> None:
        """Nothing is."""
        raise AssertionError(pool_id)


class SimSandbox(FakeSandbox):
    """Sees that no two programs share a slot."""

    def __init__(self, ledger: Ledger, slots: int, **options: Any) -> None:
        super().__init__(**options)
        self._ledger = ledger
        self._slots = slots

    async def run(self, task: Task, *args: Any) -> Outcome:
        """Perform, after a look at who else does."""
        if any(other.slot == task.slot for other in self._running.values()) or len(self._running) >= self._slots:
            self._ledger.wrong("slots", f"{task.key} in slot {task.slot} beside {sorted(self._running)}")
        return await super().run(task, *args)
