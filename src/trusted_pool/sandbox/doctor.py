"""Examining a machine: everything that should hold, tried on a real sandbox that is thrown away afterwards."""

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from trusted_pool.core.job import InputFile, Outcome
from trusted_pool.ports.sandbox import Sandbox, SandboxError, Task
from trusted_pool.protocol import frames
from trusted_pool.protocol.manifest import Resolved
from trusted_pool.sandbox import checks, leftovers, machine, overruns, plan, standing
from trusted_pool.sandbox.bubblewrap import BubblewrapSandbox
from trusted_pool.sandbox.overruns import LOG_LIMIT_BYTES, OUTPUT_LIMITS, OVERRUNS, Overrun
from trusted_pool.sandbox.standing import Finding, Kind

_SLOTS = 2
_PIECES = 10  #: of what a job prints; more is not looked at


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the examination found."""

    level: int  #: isolation level that a worker would advertise
    required: int = standing.LEVEL_REQUIRED
    starts: bool  #: whether a worker starts without being told to go weaker
    refusal: str  #: why it does not, in its own words
    findings: list[Finding]
    policy: str | None  #: name of what is laid on jobs
    policy_text: str
    seccomp: str | None
    seconds: float


async def examine(root: Path, *, overrun: bool = True) -> Report:
    """Examine this machine; `root` is an empty directory on the disk that jobs will use. Leaves nothing behind.

    `overrun`: also run jobs that go beyond each limit, which takes seconds.
    """
    began = time.monotonic()
    uid = machine.first_uid(root) if os.geteuid() == 0 else None
    findings = await asyncio.to_thread(checks.without_a_sandbox, uid)
    sandbox = BubblewrapSandbox(
        root,
        slots=_SLOTS,
        allow_weaker=True,
        log_limit_bytes=LOG_LIMIT_BYTES,
        output_limits=OUTPUT_LIMITS,
    )
    policy = ""
    places: list[Path] = []
    try:
        await sandbox.start()
        places = sandbox.places
        policy = sandbox.policy_text
        words = ""
    except SandboxError as error:
        words = str(error)
    known = {finding.name for finding in findings if finding.holds is False}
    # What was found missing before is not said a second time in the words of the sandbox that lacks it.
    findings += [f for f in sandbox.findings if not (f.name in _SAME_AS and known & _SAME_AS[f.name])]
    if words and not any(f.holds is False and f.kind is Kind.WALL for f in findings):
        title = "a worker can make itself ready"
        findings.append(Finding(name="start", title=title, kind=Kind.WALL, holds=False, why=words))
    if policy and overrun:
        findings += await _overruns(sandbox)
        findings += await _afterwards(sandbox, root, places)
    capacity = sandbox.capacity()
    await sandbox.close()
    refusal = standing.refusal(findings, allow_weaker=False) or ""
    return Report(
        level=standing.level_of(findings),
        starts=not refusal,
        refusal=refusal,
        findings=findings,
        policy=plan.name(policy) if policy else None,
        policy_text=policy,
        seccomp=capacity.seccomp,
        seconds=round(time.monotonic() - began, 3),
    )


#: What a sandbox finds out again, by what was looked at without one.
_SAME_AS = {"sandbox": {"user_namespaces", "bubblewrap", "openat2"}, "filter": {"seccomp", "filter"}}


async def _overruns(sandbox: Sandbox) -> list[Finding]:
    """Run jobs that go beyond their limits, one on each slot at a time."""
    if "python3" not in (sandbox.capacity().interpreters or {}):
        why = "there is no python3 in /usr/bin to try it with"
        return [Finding(name=o.name, title=o.title, kind=o.kind, holds=None, why=why) for o in OVERRUNS]
    waiting = list(OVERRUNS)
    found: dict[str, Finding] = {}

    async def work(slot: int) -> None:
        while waiting:
            overrun = waiting.pop(0)
            found[overrun.name] = await _overrun(sandbox, overrun, slot)

    await asyncio.gather(*(work(slot) for slot in range(_SLOTS)))
    return [found[overrun.name] for overrun in OVERRUNS]


async def _overrun(sandbox: Sandbox, overrun: Overrun, slot: int) -> Finding:
    outcome, said = await run(sandbox, slot, overrun.name, **overrun.manifest)
    seen = overrun.judge(outcome, said)
    ended = "ended well" if outcome.reason is None else f"ended with {outcome.reason}: {outcome.detail}"
    why = "" if seen else f"the job {ended}"
    return Finding(name=overrun.name, title=overrun.title, kind=overrun.kind, holds=bool(seen), seen=seen, why=why)


async def run(
    sandbox: Sandbox,
    slot: int,
    *args: str,
    source: bytes | None = None,
    interpreter: str = "python3",
    keep: bool = False,
    **fields: Any,
) -> tuple[Outcome, str]:
    """Run a program with these arguments and fields of a manifest; return the outcome and what it printed.

    `source` None: the program of all overruns. The first argument names the job. `keep`: leave its directory.
    """
    data = overruns.source().encode() if source is None else source
    given = InputFile(name="main.py", size=len(data), sha256=hashlib.sha256(data).hexdigest())
    manifest = Resolved(entrypoint="main.py", interpreter=interpreter, args=list(args), **fields)
    key = args[0].replace("_", "-")
    said: list[bytes] = []

    async def opened(_: InputFile) -> AsyncIterator[bytes]:
        yield data

    def on_log(stream: int, piece: bytes) -> None:
        if stream == frames.STDOUT and len(said) < _PIECES:
            said.append(piece)

    async def on_start() -> None:
        """Nobody waits for its start."""

    outcome = await sandbox.run(Task(key=key, slot=slot, manifest=manifest, inputs=(given,)), opened, on_log, on_start)
    if not keep:
        await sandbox.discard(key)
    return outcome, b"".join(said).decode(errors="replace")


async def _afterwards(sandbox: BubblewrapSandbox, root: Path, places: list[Path]) -> list[Finding]:
    """Look for what is left of jobs: of one that tries to outlive its end, and of all before it."""
    word = f"tpool-daemon-{os.getpid()}-{time.monotonic_ns()}"
    outcome, _ = await run(sandbox, 0, "daemon", word)
    why = f"the job ended with {outcome.reason}: {outcome.detail}" if outcome.reason is not None else ""
    return await asyncio.to_thread(leftovers.look, root, places, word, why)


def make_root(data: Path | None) -> Path:
    """Make the directory for an examination: in a worker's data directory, or where temporary files are.

    Raises:
        SandboxError: it cannot be made.
    """
    try:
        root = Path(tempfile.mkdtemp(prefix="tpool-doctor-", dir=data))
    except OSError as error:
        raise SandboxError(f"no directory can be made in {data or tempfile.gettempdir()}: {error.strerror}") from None
    root.chmod(0o711)
    return root
