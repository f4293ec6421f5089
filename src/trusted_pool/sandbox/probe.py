"""Measuring a machine by running real sandboxes on it: whether one is built, what gets out of it, which limits hold."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from trusted_pool.core.words import Reason
from trusted_pool.protocol import frames
from trusted_pool.sandbox import causes, interpreters, policy
from trusted_pool.sandbox.outside import Outside
from trusted_pool.sandbox.owner import Owner
from trusted_pool.sandbox.runner import Command, Run, Runner
from trusted_pool.sandbox.slots import Slot
from trusted_pool.sandbox.standing import Finding, Kind
from trusted_pool.sandbox.verdict import Facts, judge

_LIMITS = policy.Limits(memory_bytes=256 * policy.MB, disk_bytes=16 * policy.MB, timeout_s=60.0)
_SMALL = 32 * policy.MB
#: Holds twice the memory it has: the end of what it is given, which it has to keep until it knows that it is the end.
_HOG = f"head -c {3 * _SMALL} /dev/zero | tail -c {2 * _SMALL} | wc -c"
#: Starts more processes than it may; the shell says so and goes on, or gives up.
_SWARM = "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done; kill $(jobs -p) 2>/dev/null"
FILTER_TITLE = "system calls can be filtered"
#: In bubblewrap's complaint, when it is the system-call filter that cannot be laid on.
_FILTER_WORDS = "SECCOMP"
#: What `inside.escape` attempts: what is to hold, and what is lost when it does not.
ESCAPES = {
    "host_files": ("a job reads no file of the machine", Kind.WALL),
    "writes": ("a job writes nowhere but in its own directories", Kind.WALL),
    "kernel": ("a job reads and changes nothing of the kernel's", Kind.WALL),
    "network": ("a job reaches no network and no socket of the machine", Kind.WALL),
    "processes": ("a job sees and signals no other process", Kind.WALL),
    "namespaces": ("a job is in namespaces of its own", Kind.WALL),
    "environment": ("a job finds no variable of the worker's", Kind.WALL),
    "descriptors": ("a job inherits no open file", Kind.WALL),
    "privileges": ("a job has no privileges and gains none", Kind.WALL),
    "devices": ("a job finds no devices but harmless ones", Kind.WALL),
    "new_namespaces": ("a job makes no namespaces of its own", Kind.WALL),
    "filtered": ("a job's system calls are filtered", Kind.FILTER),
}


class Prober:
    """Runs commands in probe sandboxes, in one slot and one directory."""

    def __init__(self, runner: Runner, slot: Slot, owner: Owner, directory: str, dir_fd: int) -> None:
        """`directory`: its name below the jobs' directory; `dir_fd`: the same, open."""
        self._runner = runner
        self._slot = slot
        self._owner = owner
        self._directory = directory
        self._dir_fd = dir_fd
        self._uid: int | None = None  #: of the newest probe's processes, seen from outside

    async def _run(self, argv: Sequence[str], limits: policy.Limits = _LIMITS) -> tuple[Facts, str]:
        said: list[bytes] = []

        async def starting(run: Run) -> None:
            self._uid = _uid_of(run.program.init)

        def on_log(stream: int, data: bytes) -> None:
            if stream != frames.MARK:
                said.append(data)

        env = policy.environment({}, {})
        command = Command(argv=argv, env=env, limits=limits, directory=self._directory, dir_fd=self._dir_fd)
        facts = await self._runner.run(self._slot, self._owner, command, on_log, starting)
        return facts, b"".join(said).decode(errors="replace")

    async def walls(self) -> list[Finding]:
        """Build a sandbox, without the filter when it is the filter that keeps it from being built."""
        words = await self._try()
        found = []
        if _FILTER_WORDS in words and self._runner.filtered:
            cause = causes.of_filter(words)
            found.append(_failed("filter", FILTER_TITLE, Kind.FILTER, cause))
            self._runner.unfilter()
            words = await self._try()
        if words:
            return [*found, _failed("sandbox", "a sandbox can be built", Kind.WALL, causes.of_walls(words))]
        found.append(Finding(name="sandbox", title="a sandbox can be built", kind=Kind.WALL, holds=True))
        return [*found, self._own_uid(), *await self._escapes()]

    async def _try(self) -> str:
        """Run nothing in a sandbox; return what keeps it from working."""
        try:
            facts, said = await self._run(["/bin/sh", "-c", "exit 0"])
        except OSError as error:
            return str(error)
        if facts.status == 0:
            return ""
        words = facts.words or said.strip() or f"status {facts.status}"
        return words.removeprefix("bwrap: ").partition(", likely because")[0]

    def _own_uid(self) -> Finding:
        title = "each slot has a user of its own"
        if self._slot.uid is None:
            cause = causes.Cause("the worker is not root", "start it as root")
            return _failed("own_uid", title, Kind.OWN_UID, cause)
        holds = self._uid == self._slot.uid
        why = "" if holds else f"its processes run as uid {self._uid}"
        return Finding(name="own_uid", title=title, kind=Kind.OWN_UID, holds=holds, seen=f"uid {self._uid}", why=why)

    async def _escapes(self) -> list[Finding]:
        """Let a job try to get out."""
        said: dict[str, str] = {}
        why = "there is no python3 in /usr/bin to try it with"
        for python in interpreters.candidates("python3"):
            with Outside() as outside:
                _, text = await self._run(outside.command(python))
            try:
                said = msgspec.json.decode(text, type=dict[str, str])
                break
            except msgspec.DecodeError:
                why = f"the program that tries it failed: {text.strip()[-200:]}"
        found = []
        for name, (title, kind) in ESCAPES.items():
            got = said.get(name)
            if got is None or got.startswith("the attempt broke"):
                found.append(Finding(name=name, title=title, kind=kind, holds=None, why=got or why))
            else:
                found.append(Finding(name=name, title=title, kind=kind, holds=not got, why=_WHY[bool(got)] + got))
        return found

    async def limits(self) -> list[Finding]:
        """Break the limits of a tree and see that they hold."""
        small = policy.Limits(memory_bytes=_SMALL, disk_bytes=policy.MB, timeout_s=60.0, pids=20)
        facts, _ = await self._run(["/bin/sh", "-c", _HOG], small)
        holds = judge(facts).reason is Reason.OUT_OF_MEMORY
        memory = Finding(
            name="memory_limit",
            title="the memory of all of a job's processes is limited",
            kind=Kind.LIMIT,
            holds=holds,
            seen=f"ended at {facts.usage.memory_peak_bytes // policy.MB} MB of {_SMALL // policy.MB}" if holds else "",
            why="" if holds else "the memory limit of its control group does not hold",
        )
        facts, _ = await self._run(["/bin/sh", "-c", _SWARM], small)
        holds = facts.reading.forks_refused > 0
        processes = Finding(
            name="process_limit",
            title="the number of a job's processes is limited",
            kind=Kind.LIMIT,
            holds=holds,
            seen=f"{facts.reading.forks_refused} refused beyond {small.pids}" if holds else "",
            why="" if holds else "the process limit of its control group does not hold",
        )
        return [memory, processes]

    async def ask(self, argv: Sequence[str]) -> tuple[int, str] | None:
        """Run a command; return its exit status and what it said, or None when it could not be started."""
        facts, said = await self._run(argv)
        return None if facts.status is None else (facts.status, said)


_WHY = {True: "a job got hold of: ", False: ""}


def _failed(name: str, title: str, kind: Kind, cause: causes.Cause) -> Finding:
    return Finding(name=name, title=title, kind=kind, holds=False, why=cause.why, mend=cause.mend)


def _uid_of(pid: int | None) -> int | None:
    """Return the real uid of a process as it is known here."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("Uid:")), None)
