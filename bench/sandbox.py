"""What each part of a sandbox costs at the start of a job, one part added after the other, interleaved.

The program is always the same: a shell that does nothing. The last rows are the same for Python.
"""

import asyncio
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from trusted_pool.sandbox import cgroup_search, doctor, machine, plan, policy, seccomp
from trusted_pool.sandbox.bubblewrap import BubblewrapSandbox
from trusted_pool.sandbox.cgroups import GroupLimits
from trusted_pool.sandbox.slots import Bind, Slot

ROUNDS = 150
LIMITS = policy.Limits(memory_bytes=256 << 20, disk_bytes=1 << 30, timeout_s=300)
GROUP = GroupLimits(memory_bytes=256 << 20, pids=515, cpus=None)
SHELL = ["/bin/sh", "-c", ":"]
SPACES = ["--unshare-user", "--uid", "1000", "--gid", "1000", "--unshare-pid", "--unshare-net", "--unshare-ipc"]
SPACES += ["--unshare-uts", "--unshare-cgroup", "--disable-userns", "--die-with-parent", "--new-session"]
Step = Callable[[], Awaitable[None]]


class Steps:
    """Everything that is started, from the bare program to the whole job."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._slots: list[Slot] = []
        self._filter = seccomp.compiled().memfd()

    async def start(self) -> dict[str, Step]:
        """Make everything ready; return the steps by name, in their order."""
        self.sandbox = BubblewrapSandbox(self._root / "sandbox", slots=1, allow_weaker=True)
        await self.sandbox.start()
        found = cgroup_search.find("tpool-bench")
        self._cgroups = found.cgroups
        jobs, etc = self._root / "jobs", self._root / "etc"
        (jobs / "job").mkdir(parents=True)
        machine.make_etc(etc)
        uid = machine.first_uid(self._root) if os.geteuid() == 0 else None
        binds = [Bind(str(jobs), "jobs"), Bind(str(etc), "etc")]
        if uid is not None:
            os.chown(jobs / "job", uid, uid)
        bare = await self._slot(0, None, grouped=False, binds=binds)
        grouped = await self._slot(1, None, grouped=True, binds=binds)
        own = await self._slot(2, uid, grouped=True, binds=binds)
        stage = own.stage or str(self._root)
        view = policy.View(system=policy.look(), etc=f"{stage}/etc", masked=policy.masked())
        ground = plan.Ground(level=3, own_uid=True, cgroups=2, tree=True, quota=False, filter="", cpus=1)
        options = plan.plan(view, f"{stage}/jobs/job", LIMITS, policy.environment({}, {}), ground).options
        spaces = ["bwrap", *SPACES, "--ro-bind", "/", "/"]
        return {
            "bare program": lambda: self._run(bare, SHELL),
            "+ control group": lambda: self._run(grouped, SHELL),
            "+ uid and mount namespace of the slot": lambda: self._run(own, SHELL),
            "+ bubblewrap, namespaces": lambda: self._run(own, [*spaces, *SHELL]),
            "+ filter of system calls": lambda: self._run(own, spaces, SHELL),
            "+ mounts": lambda: self._run(own, ["bwrap", *options], SHELL),
            "+ files in, limits, watch, files out": self._whole,
            "whole job in Python": self._python,
            "bare Python": lambda: self._run(bare, ["/usr/bin/python3", "-c", "pass"]),
        }

    async def _slot(self, number: int, uid: int | None, *, grouped: bool, binds: list[Bind]) -> Slot:
        group = self._cgroups.group(f"slot-{number}") if grouped and self._cgroups is not None else None
        slot = Slot(number, uid, group)
        await slot.start(binds)
        self._slots.append(slot)
        return slot

    async def _run(self, slot: Slot, argv: list[str], filtered: list[str] | None = None) -> None:
        """Start a program in a slot and wait for its end. `filtered`: what bubblewrap starts under the filter."""
        group = slot.group
        if group is not None:
            group.begin(GROUP)
        fds: list[int] = []
        if filtered is not None:
            fds = [os.open(f"/proc/self/fd/{self._filter}", os.O_RDONLY)]
            argv = [*argv, "--seccomp", str(fds[0]), *filtered]
        program = shutil.which(argv[0]) or argv[0]
        process = await slot.start_program(program, argv, stdout=self._null, stderr=self._null, pass_fds=fds)
        if group is not None and group.joins:
            group.join(process.pid)
        if process.wait() != 0:
            raise RuntimeError(f"{argv} ended with {process.returncode}")
        for fd in fds:
            os.close(fd)
        if group is not None:
            group.end()
            group.clear()

    async def _whole(self) -> None:
        await self._job("sh", b":\n")

    async def _python(self) -> None:
        await self._job("python3", b"pass\n")

    async def _job(self, interpreter: str, source: bytes) -> None:
        outcome, _ = await doctor.run(self.sandbox, 0, "bench", source=source, interpreter=interpreter)
        if outcome.reason is not None:
            raise RuntimeError(outcome)

    _null = subprocess.DEVNULL

    async def close(self) -> None:
        """Take everything down."""
        for slot in self._slots:
            await slot.close()
        if self._cgroups is not None:
            self._cgroups.close()
        await self.sandbox.close()
        os.close(self._filter)


async def _measure(root: Path) -> dict[str, list[float]]:
    steps = Steps(root)
    try:
        todo = await steps.start()
        spent: dict[str, list[float]] = {name: [] for name in todo}
        for round_ in range(ROUNDS + 5):
            for name, step in todo.items():
                begin = time.perf_counter()
                await step()
                if round_ >= 5:  # the first warm what is read from disk
                    spent[name].append((time.perf_counter() - begin) * 1000)
        return spent
    finally:
        await steps.close()


def run() -> list[dict[str, object]]:
    """Measure all steps, interleaved."""
    with tempfile.TemporaryDirectory(prefix="tpool-bench-") as name:
        Path(name).chmod(0o711)
        spent = asyncio.run(_measure(Path(name)))
    medians = {name: statistics.median(times) for name, times in spent.items()}
    rows, before = [], 0.0
    for name, median in medians.items():
        added = median - before if name.startswith("+") else None
        fastest = statistics.quantiles(spent[name], n=10)[0]
        rows.append({"step": name, "ms": round(median, 2), "p10_ms": round(fastest, 2)})
        if added is not None:
            rows[-1]["added_ms"] = round(added, 2)
        before = median
    whole, bare = medians["whole job in Python"], medians["bare Python"]
    return [
        {
            "what": "start-up of a sandbox step by step; whole Python job against bare Python, median ms",
            "ours": round(whole, 2),
            "baseline": round(bare, 2),
            "ratio": round(whole / bare, 3),
            "mark": "<= 3",
            "steps": rows,
        }
    ]
