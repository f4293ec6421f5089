"""Measuring a machine by running real sandboxes on it."""

from collections.abc import Sequence

from trusted_pool.core.words import Reason
from trusted_pool.ports.sandbox import SandboxError
from trusted_pool.protocol import frames
from trusted_pool.sandbox import machine, policy
from trusted_pool.sandbox.owner import Owner
from trusted_pool.sandbox.runner import Command, Run, Runner
from trusted_pool.sandbox.slots import Slot
from trusted_pool.sandbox.verdict import Facts, judge

_LIMITS = policy.Limits(memory_bytes=256 * policy.MB, disk_bytes=16 * policy.MB, timeout_s=30.0)
_SMALL = 32 * policy.MB
#: Holds a variable of twice the memory it has.
_HOG = f"x=$(head -c {2 * _SMALL} /dev/zero | tr '\\0' a); echo ${{#x}}"
#: Starts more processes than it may; the shell says so and goes on, or gives up.
_SWARM = "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done; kill $(jobs -p) 2>/dev/null"


class Prober:
    """Runs commands in probe sandboxes, in one slot and one directory."""

    def __init__(self, runner: Runner, slot: Slot, owner: Owner, directory: str, dir_fd: int) -> None:
        """`directory`: its name below the jobs' directory; `dir_fd`: the same, open."""
        self._runner = runner
        self._slot = slot
        self._owner = owner
        self._directory = directory
        self._dir_fd = dir_fd

    async def _run(self, argv: Sequence[str], limits: policy.Limits = _LIMITS) -> tuple[Facts, str]:
        said: list[bytes] = []

        async def starting(run: Run) -> None:
            """Nobody waits for its start."""

        def on_log(stream: int, data: bytes) -> None:
            if stream != frames.MARK:
                said.append(data)

        env = policy.environment({}, {})
        command = Command(argv=argv, env=env, limits=limits, directory=self._directory, dir_fd=self._dir_fd)
        facts = await self._runner.run(self._slot, self._owner, command, on_log, starting)
        return facts, b"".join(said).decode(errors="replace")

    async def must_run(self) -> None:
        """Run nothing in a sandbox. Raises SandboxError saying what keeps it from working."""
        try:
            facts, said = await self._run(["/bin/sh", "-c", "exit 0"])
        except OSError as error:
            raise SandboxError(machine.why_not(str(error))) from error
        if facts.status != 0:
            words = facts.words or said.strip() or f"status {facts.status}"
            raise SandboxError(machine.why_not(words.removeprefix("bwrap: ")))

    async def limits_hold(self) -> str:
        """Break the limits of a tree and see that they hold; return what did not, or nothing."""
        small = policy.Limits(memory_bytes=_SMALL, disk_bytes=policy.MB, timeout_s=30.0, pids=20)
        facts, _ = await self._run(["/bin/sh", "-c", _HOG], small)
        if judge(facts).reason is not Reason.OUT_OF_MEMORY:
            return "the memory limit of its control group does not hold"
        facts, _ = await self._run(["/bin/sh", "-c", _SWARM], small)
        if not facts.reading.forks_refused:
            return "the process limit of its control group does not hold"
        return ""

    async def ask(self, argv: Sequence[str]) -> tuple[int, str] | None:
        """Run a command; return its exit status and what it said, or None when it could not be started."""
        facts, said = await self._run(argv)
        return None if facts.status is None else (facts.status, said)
