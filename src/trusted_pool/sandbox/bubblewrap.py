"""The sandbox of a worker, on bubblewrap."""

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from trusted_pool.core.job import Outcome
from trusted_pool.core.request import Capacity
from trusted_pool.core.words import Reason
from trusted_pool.ports.sandbox import OnLog, OpenInput, OutputMissingError, SandboxError, Task
from trusted_pool.protocol.errors import BadRequestError
from trusted_pool.sandbox import beneath, cgroup_search, interpreters, machine, plan, policy, quota, slots
from trusted_pool.sandbox.attempt import Attempt
from trusted_pool.sandbox.cgroups import Cgroups
from trusted_pool.sandbox.collect import OutputLimits, open_output
from trusted_pool.sandbox.interpreters import Interpreter
from trusted_pool.sandbox.lent import Equipment, Lent
from trusted_pool.sandbox.owner import Owner
from trusted_pool.sandbox.plan import Ground
from trusted_pool.sandbox.probe import Prober
from trusted_pool.sandbox.room import Room
from trusted_pool.sandbox.runner import Runner
from trusted_pool.sandbox.slots import Bind, Slot
from trusted_pool.sandbox.standing import Finding
from trusted_pool.sandbox.survey import Survey
from trusted_pool.sandbox.undertaker import Undertaker
from trusted_pool.sandbox.wipe import wipe, wipe_tree

LOG_LIMIT_BYTES = 16 * 1024 * 1024
_KEY = re.compile(r"[A-Za-z0-9-]{1,200}\Z")
_CHUNK = 256 * 1024
_PROBE = "probe"


class BubblewrapSandbox:
    """Runs tasks in bubblewrap, one on each slot.

    Below `root`, which is this sandbox's alone: `jobs/<key>` (what a job sees as /job), `etc`, `spool` (inputs on their
    way), `cgroups` (where groups were made, for the next start).

    Levels: 0 = namespaces without a filter of system calls; 1 = with it, limits of each process and polling; 2 = limits
    of the whole tree by control groups; 3 = also a uid of its own for each slot, which needs root.
    """

    def __init__(
        self,
        root: Path,
        *,
        slots: int | None = None,
        memory_mb: int | None = None,
        cpus: float | None = None,
        labels: Mapping[str, str] | None = None,
        allow_weaker: bool = False,
        log_limit_bytes: int = LOG_LIMIT_BYTES,
        output_limits: OutputLimits | None = None,
        first_uid: int | None = None,
        equipment: Equipment | None = None,
    ) -> None:
        """`slots` None: one for each cpu; `memory_mb`, `cpus` None: what the machine has.

        `allow_weaker`: start below level 2 too. `log_limit_bytes`: of stdout and stderr together. `first_uid`: the uid
        of slot 0 (used as root only). `equipment`: what else of this machine jobs may ask for.
        """
        self._root = root.resolve()
        self._n_slots = slots or os.cpu_count() or 1
        self._memory_mb = memory_mb
        self._cpus = cpus or float(os.cpu_count() or 1)
        self._labels = dict(labels or {})
        self._allow_weaker = allow_weaker
        self.findings: list[Finding] = []  #: what `start` found out about the machine, also when it raised
        self._log_limit_bytes = log_limit_bytes
        self._output_limits = output_limits or OutputLimits()
        self._first_uid = first_uid
        self._equipment = equipment or Equipment()
        self._lent = Lent()
        self._slots: list[Slot] = []
        self._owners: list[Owner] = []
        self._cgroups: Cgroups | None = None
        self._filter_fd = self._jobs_fd = -1
        self._room: Room | None = None
        self._quotas: quota.Quotas | None = None
        self._undertaker: Undertaker | None = None
        self._runner: Runner | None = None
        self._policy: str | None = None
        self._interpreters: dict[str, Interpreter] = {}
        self._running: dict[str, tuple[Attempt, asyncio.Task[Outcome]]] = {}
        self._busy: set[int] = set()

    async def start(self) -> None:
        """Measure the machine and make ready.

        Raises:
            SandboxError: something is missing, or the machine is below level 2 and `allow_weaker` was not said. The
                message says what to type.
        """
        try:
            await self._start()
        except OSError as error:
            await self.close()
            raise SandboxError(f"the sandbox cannot be made ready: {error}") from error
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        survey = Survey(allow_weaker=self._allow_weaker)
        self.findings = survey.findings
        bwrap = machine.bubblewrap()
        beneath.require()
        compiled = survey.filter()
        self._filter_fd = compiled.memfd() if compiled is not None else -1
        self._lent = await Lent.make(self._equipment, self._root)
        self._make_directories()
        slots.become_subreaper()
        await asyncio.to_thread(self._sweep_cgroups)
        self._cgroups = survey.cgroups(machine.worker_name(self._root))
        if self._cgroups is not None:
            (self._root / "cgroups").write_text("".join(f"{place}\n" for place in self._cgroups.places()))
        await self._open_slots()
        found = await quota.find(self._jobs_fd, machine.worker_name(self._root), self._owners[0], self._slots[0].uid)
        self._quotas = found.quotas
        survey.findings.append(found.finding)
        self._room = Room(self._jobs_fd)
        self._undertaker = Undertaker(machine.worker_name(self._root))
        self._runner = Runner(
            bwrap=bwrap,
            mark=self._undertaker.mark,
            jobs=str(self._root / "jobs"),
            view=policy.View(system=policy.look(), etc=str(self._root / "etc"), masked=policy.masked()),
            ground=Ground(  # what is to be measured
                level=0,
                tree=self._cgroups is not None,
                own_uid=self._slots[0].uid is not None,
                cgroups=None if self._cgroups is None else self._cgroups.version,
                quota=self._quotas is not None,
                filter=compiled.name if compiled is not None else None,
                gpu_filter=self._lent.gpu_filter,
                cpus=os.cpu_count() or 1,
            ),
            seccomp_fd=self._filter_fd if compiled is not None else None,
            log_limit_bytes=self._log_limit_bytes,
            room=self._room,
            lent=self._lent,
        )
        with self._directory(_PROBE, self._slots[0]) as fd:
            prober = Prober(self._runner, self._slots[0], self._owners[0], _PROBE, fd)
            await survey.measure(prober, limits=self._cgroups is not None)
            self._runner.ground = msgspec.structs.replace(self._runner.ground, level=survey.level, tree=survey.tree)
            self._policy = plan.name(self._runner.policy)
            self._interpreters = await interpreters.find(prober.ask)
        await self.discard(_PROBE)

    @property
    def policy_text(self) -> str:
        """The policy of this machine as text; empty before `start`."""
        return self._runner.policy if self._runner is not None else ""

    def _make_directories(self) -> None:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            for name, mode in (("jobs", 0o711), ("spool", 0o700)):
                (self._root / name).mkdir(exist_ok=True)
                (self._root / name).chmod(mode)
            machine.make_etc(self._root / "etc")
        except OSError as error:
            raise SandboxError(f"the data directory {self._root} cannot be used: {error.strerror}") from None
        self._jobs_fd = os.open(self._root / "jobs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _sweep_cgroups(self) -> None:
        noted = self._root / "cgroups"
        with contextlib.suppress(FileNotFoundError):
            cgroup_search.sweep([Path(line) for line in noted.read_text().splitlines()])
            noted.unlink()

    async def _open_slots(self) -> None:
        root = os.geteuid() == 0
        first = self._first_uid if self._first_uid is not None else machine.first_uid(self._root)
        binds = [*(Bind(str(self._root / name), name) for name in ("jobs", "etc")), *self._lent.staged()]
        for number in range(self._n_slots):
            group = self._cgroups.group(f"slot-{number}") if self._cgroups is not None else None
            slot = Slot(number, first + number if root else None, group)
            self._slots.append(slot)
            self._owners.append(Owner(slot.uid))
            await slot.start(binds)
        await self._lent.require_readable(self._owners[0])

    @contextlib.contextmanager
    def _directory(self, key: str, slot: Slot, limits: policy.Limits | None = None) -> Iterator[int]:
        """Make a task's directory, the slot's own, and open it. What was there under this name is removed."""
        wipe_tree(self._jobs_fd, key)
        os.mkdir(key, 0o700, dir_fd=self._jobs_fd)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(key, flags, dir_fd=self._jobs_fd)
        try:
            if slot.uid is not None:
                os.fchown(fd, slot.uid, slot.uid)
            if self._quotas is not None and limits is not None:
                self._quotas.give(key, fd, limits)
            yield fd
        finally:
            os.close(fd)

    @property
    def places(self) -> list[Path]:
        """Directories of this sandbox's control groups."""
        return self._cgroups.places() if self._cgroups is not None else []

    def capacity(self) -> Capacity:
        """Return what this machine offers, as measured by `start`."""
        return Capacity(
            slots=self._n_slots,
            memory_mb=self._memory_mb or machine.memory_mb(),
            cpus=self._cpus,
            disk_mb=self._room.offered_mb if self._room is not None else None,
            interpreters={name: found.version for name, found in self._interpreters.items()},
            isolation=self._runner.ground.level if self._runner is not None else None,
            policy=self._policy,
            seccomp=self._runner.ground.filter if self._runner is not None else None,
            gpus=self._lent.gpus.gpus,
            cuda=self._lent.gpus.cuda,
            binds=tuple(self._lent.binds),
            labels=self._labels,
        )

    def disk_there_mb(self) -> int:
        """Return how much disk there is for jobs now: what is free beyond the reserve, and what those that run take."""
        return self._room.there_mb() if self._room is not None else 0

    async def run(
        self, task: Task, open_input: OpenInput, on_log: OnLog, on_start: Callable[[], Awaitable[None]]
    ) -> Outcome:
        """Run the task to its end."""
        runner, interpreter = self._runner, self._interpreters.get(task.manifest.interpreter)
        if runner is None or _KEY.match(task.key) is None or not 0 <= task.slot < len(self._slots):
            return _failed(f"task {task.key!r} on slot {task.slot} cannot be run here")
        if task.slot in self._busy or task.key in self._running:
            return _failed(f"slot {task.slot} or task {task.key!r} is busy")
        if words := self._lent.why_not(task, [attempt.task for attempt, _ in self._running.values()]):
            return _failed(words)
        if interpreter is None:
            return _failed(f"this worker has no {task.manifest.interpreter} that runs inside a sandbox")
        attempt = Attempt(task, self._slots[task.slot], self._owners[task.slot], runner, interpreter)
        level, policy_name = runner.ground.level, self._policy

        async def work() -> Outcome:
            with self._directory(task.key, attempt.slot, attempt.limits) as fd:
                outcome = await attempt.run(
                    fd,
                    self._root / "spool",
                    open_input,
                    on_log=on_log,
                    on_start=on_start,
                    output_limits=self._output_limits,
                )
            return msgspec.structs.replace(outcome, isolation=level, policy=policy_name)

        working = asyncio.ensure_future(work())
        self._busy.add(task.slot)
        self._running[task.key] = (attempt, working)
        try:
            return await working
        except Exception as error:  # noqa: BLE001 - the contract: whatever the machine fails to do is an outcome
            return _failed(f"the worker failed: {error or type(error).__name__}")
        finally:
            self._busy.discard(task.slot)
            del self._running[task.key]

    async def stop(self, key: str, grace_s: float) -> None:
        """End a running task."""
        if key in self._running:
            self._running[key][0].stop(grace_s)

    async def output(self, key: str, path: str) -> AsyncIterator[bytes]:
        """Read one output file. Raises OutputMissingError."""
        if _KEY.match(key) is None:
            raise OutputMissingError(f"there is no task {key!r}")
        try:
            directory = os.open(key, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._jobs_fd)
        except OSError:
            raise OutputMissingError(f"the outputs of {key!r} are gone") from None
        try:
            # What may be opened was checked when it was collected, and is checked again here.
            fd = await asyncio.to_thread(open_output, directory, path)
        except BadRequestError as error:
            raise OutputMissingError(error.message) from None
        finally:
            os.close(directory)
        try:
            while data := await asyncio.to_thread(os.read, fd, _CHUNK):
                yield data
        finally:
            os.close(fd)

    async def discard(self, key: str) -> None:
        """Delete all of an ended task. Idempotent. Raises SandboxError when something cannot be removed."""
        if _KEY.match(key) is not None and key not in self._running:
            await asyncio.to_thread(wipe_tree, self._jobs_fd, key)
            if self._quotas is not None:
                self._quotas.take_back(key)

    async def sweep(self, keep: frozenset[str]) -> list[str]:
        """Remove what a crash left of tasks other than `keep`; control groups were swept by `start`."""
        names = os.listdir(self._jobs_fd)  # noqa: PTH208 - of a descriptor
        left = [name for name in names if name not in keep]
        for name in left:
            await asyncio.to_thread(wipe_tree, self._jobs_fd, name)
        spool = os.open(self._root / "spool", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await asyncio.to_thread(wipe, spool)
        finally:
            os.close(spool)
        return sorted(left)

    async def close(self) -> None:
        """End every running task at once and let go. Idempotent."""
        running = list(self._running.values())
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)
        for owner in self._owners:
            owner.close()
        for slot in self._slots:
            await slot.close()
        self._owners, self._slots = [], []
        if self._cgroups is not None:
            await asyncio.to_thread(self._cgroups.close)
            self._cgroups = None
        self._runner = self._room = None
        self._lent.close()
        if self._undertaker is not None:
            await asyncio.to_thread(self._undertaker.close)
            self._undertaker = None
        for fd in (self._filter_fd, self._jobs_fd):
            if fd >= 0:
                os.close(fd)
        self._filter_fd = self._jobs_fd = -1


def _failed(words: str) -> Outcome:
    return Outcome(reason=Reason.SANDBOX_FAILED, detail=words)
