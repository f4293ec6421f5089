"""Where a worker runs an attempt."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import msgspec

from trusted_pool.core.job import InputFile, Outcome
from trusted_pool.core.request import Capacity
from trusted_pool.protocol.manifest import Resolved


class SandboxError(Exception):
    """The sandbox cannot do it; the message says why and what to type."""


class OutputMissingError(SandboxError):
    """There is no such output."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be run. `key` names it on this machine: letters, digits, `-`."""

    key: str
    slot: int  #: 0 … slots-1; no two running tasks share one
    manifest: Resolved
    inputs: tuple[InputFile, ...]
    gpus: tuple[int, ...] = ()  #: numbers of those that it is given; no two running tasks share one
    env: dict[str, str] = {}  #: the pool's own variables; they win over the manifest's


OpenInput = Callable[[InputFile], AsyncIterator[bytes]]
#: Called with stream number (frames.STDOUT, STDERR, MARK) and bytes, in the order they were read.
#: Never blocks and never raises.
OnLog = Callable[[int, bytes], None]


class Sandbox(Protocol):
    """Contract.

    - `run` returns an Outcome for everything the job does, and for everything the machine fails to do: it raises only
      when cancelled. When it returns, no process of the task is alive.
    - A limit that ended the task is the outcome's reason, with its name and the evidence. The exit status is the job's
      word; limits and accounting are measured outside its reach.
    - Inputs are unpacked safely or the outcome is `bad_input`; nothing is written outside the task's directory.
    - Outputs named in the outcome are readable by `output` until `discard`, byte for byte as hashed.
    - `stop` ends a task: SIGTERM to the program, after `grace_s` SIGKILL to the whole tree; `run` then returns
      with reason `cancelled`. Stopping what is not running does nothing.
    - Nothing of a discarded task is left: no process, mount, cgroup, file.
    """

    async def start(self) -> None:
        """Measure the machine and make ready. Raises SandboxError when it cannot enforce what it must."""

    def capacity(self) -> Capacity:
        """Return what this machine offers, as measured by `start`."""

    def disk_there_mb(self) -> int:
        """Return how much disk there is for jobs now: what is free beyond the reserve, and what those that run take."""

    async def run(
        self, task: Task, open_input: OpenInput, on_log: OnLog, on_start: Callable[[], Awaitable[None]]
    ) -> Outcome:
        """Run the task to its end. `on_start` is awaited once, right before the program starts."""

    async def stop(self, key: str, grace_s: float) -> None:
        """End a running task."""

    def output(self, key: str, path: str) -> AsyncIterator[bytes]:
        """Read one output file. Raises OutputMissingError."""

    async def discard(self, key: str) -> None:
        """Delete all of an ended task. Idempotent."""

    async def sweep(self, keep: frozenset[str]) -> list[str]:
        """Remove what a crash left of tasks other than `keep`; return their keys. Called once, before any `run`."""

    async def close(self) -> None:
        """End every running task at once and let go. Idempotent."""
