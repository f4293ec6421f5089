"""One pool on which hostile jobs run side by side, and beside them neighbours that must not notice.

A neighbour's work is ten sleeps with a little of everything between them. What it waited for a processor is taken off
its time, as the kernel counts it: that is the share of whoever else uses this machine, attacks within their limits
included. What is left is that of its sleeps, and grows only when something else that it needs is not to be had, or when
the worker itself is held up.
"""

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec

from support import ordinary
from support.programs import CANARY
from support.real_pool import RealPool, RealWorker, until

ATTACKERS, NEIGHBOURS = 4, 2
#: For the end of one attack, on a machine that does much else.
PATIENCE_S = 200.0
ALONE = 2  #: neighbours that run before the first attack
NEIGHBOUR = """
import os, time
for place in ("/job", "/tmp", "/dev/shm"):
    open(place + "/canary-48", "w").write("secret")
for n in range(10):
    time.sleep(0.2)
    open(f"/tmp/{n % 3}", "wb").write(bytearray(2**20))
    if n % 3 == 0:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    print(n, flush=True)
open("done.txt", "w").write("10 steps")
print("waited", int(open("/proc/self/schedstat").read().split()[1]) / 1e9)
"""
STEPS = "".join(f"{n}\n" for n in range(10))


class Ended(msgspec.Struct):
    """One job at its end."""

    job_id: str
    status: dict[str, Any]
    stdout: str
    outputs: dict[str, int]  #: sizes

    @property
    def outcome(self) -> dict[str, Any]:
        """How its last attempt ended."""
        return dict(self.status["attempts"][-1].get("outcome", {}))

    @property
    def evidence(self) -> dict[str, Any]:
        return dict(self.outcome.get("evidence", {}))

    @property
    def reason(self) -> str | None:
        return self.status["reason"]

    @property
    def wall_s(self) -> float:
        """Its program's time, measured by the worker."""
        return float(self.status["worker_status"]["execution_metadata"]["wall_time_ms"]) / 1000

    @property
    def waited_s(self) -> float:
        """What a neighbour waited for a processor."""
        return float(self.stdout.rpartition("waited ")[2])

    @property
    def times(self) -> tuple[float, float]:
        attempt = self.status["attempts"][-1]
        return attempt["started_at"], attempt["ended_at"]


class Attack(msgspec.Struct, frozen=True):
    """A hostile job. `control`: the test that shows what it does where nothing holds it."""

    name: str
    source: str
    held: Callable[[Ended, "Arena"], None]
    control: str
    manifest: Mapping[str, Any] = {}
    files: Mapping[str, bytes] = {}

    @property
    def case(self) -> int:
        return int(self.name.split()[0])


class OneForEachThread:
    """An HTTP client that is another in each thread. One of many threads can close what another one is reading."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._local = threading.local()
        self._all: list[httpx.Client] = []

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self._local, "client"):
            self._local.client = httpx.Client(**self._options)
            self._all.append(self._local.client)
        return getattr(self._local.client, name)

    def close(self) -> None:
        for client in self._all:
            client.close()


class Arena:
    """A pool with one worker, of root or of an ordinary user with control groups of its own."""

    def __init__(self, home: Path, uid: int | None, groups: Sequence[Path], covers: Mapping[str, Path]) -> None:
        self.home = home
        self.uid = uid
        self.lent = home / "lent"
        self.secret = home / "secret.txt"
        self.secret.write_text(CANARY)  # any user of the machine may read it
        self._lend()
        self.pool = RealPool(home / "pool", [ATTACKERS + NEIGHBOURS])
        self.pool.http.close()
        self.pool.http = OneForEachThread(base_url=self.pool.url, timeout=PATIENCE_S, trust_env=False)
        self.worker: RealWorker = self.pool.workers[0]
        self._canary = tempfile.NamedTemporaryFile(suffix=".open-canary")  # noqa: SIM115 - as long as the worker
        self._arm(groups, covers)
        self.results: dict[str, Ended] = {}
        self.alone: list[Ended] = []
        self.neighbours: list[Ended] = []
        self.seen: dict[str, float] = {}  #: what was measured of the worker
        self.abstract = f"canary-{os.getpid()}-{uid}"

    def _lend(self) -> None:
        """A directory that whoever runs jobs may write to, as far as modes go: only the sandbox keeps it."""
        self.lent.mkdir()
        (self.lent / "data.txt").write_text("data")
        (self.lent / "sub").mkdir()
        (self.lent / "sub" / "more.txt").write_text("more")
        for path in (self.lent, *self.lent.rglob("*")):
            path.chmod(0o777)
            if self.uid is not None and os.geteuid() == 0:
                os.chown(path, self.uid, self.uid)

    def _arm(self, groups: Sequence[Path], covers: Mapping[str, Path]) -> None:
        worker, root = self.worker, os.geteuid() == 0
        lend = ["--bind", f"dataset={self.lent}", "--bind", f"tools={self.lent / 'sub'}"]
        if (self.home / "gpus").is_dir():
            lend += ["--gpu-devices", str(self.home / "gpus"), "--nvml", str(self.home / "gpus" / "nvml.so")]
        worker.command += lend
        if root:
            worker.command = [*ordinary.prefix(uid=self.uid, groups=groups, covers=covers), *worker.command]
        # What a careless operator's shell hands to the worker; no job may find it.
        os.set_inheritable(self._canary.fileno(), True)  # noqa: FBT003 - its one argument
        worker._options.update(env={**os.environ, "CANARY": CANARY}, pass_fds=[self._canary.fileno()])
        if self.uid is not None and root:
            data = self.home / "pool" / worker.path.stem
            data.mkdir(exist_ok=True)
            for path in (worker.key, data):
                os.chown(path, self.uid, self.uid)
            # The pool is enrolled beside the key.
            keys = self.home / "keys"
            keys.mkdir()
            os.chown(keys, self.uid, self.uid)
            worker.key.rename(keys / worker.key.name)
            worker.command = [word.replace(str(worker.key), str(keys / worker.key.name)) for word in worker.command]

    @property
    def level(self) -> int:
        """What the worker measured."""
        return int(self.pool.pool()["workers"][0]["capacity"]["isolation"])

    def run(self, source: str, files: Mapping[str, bytes] | None = None, **manifest: Any) -> Ended:
        """Run a job to its end."""
        return self.end(self.begin(source, files, **manifest))

    def begin(self, source: str, files: Mapping[str, bytes] | None = None, **manifest: Any) -> str:
        """Submit a job."""
        packed = {"main.py": source.encode(), **(files or {})}
        return self.pool.submit(packed, {"retry": {"max_attempts": 1}, **manifest})

    def end(self, job_id: str) -> Ended:
        """Wait for a job's end."""
        deadline = time.monotonic() + PATIENCE_S
        while (status := self.pool.status(job_id, 5.0))["completed_at"] is None:
            assert time.monotonic() < deadline, f"{status}\n{self.worker.log[-4000:]}"
        logs = self.pool.http.get(f"/logs/{job_id}").json()
        listed = self.pool.http.get(f"/outputs/{job_id}").json()["files"]
        return Ended(job_id, status, logs["stdout"], {file["path"]: file["size"] for file in listed})

    def content(self, job_id: str, path: str) -> bytes:
        """Return one output."""
        answer = self.pool.http.get(f"/outputs/{job_id}/{path}")
        assert answer.status_code == 200, answer.text
        return answer.content

    def fight(self, attacks: Sequence[Attack]) -> None:
        """Run all attacks, some at a time, with neighbours from before the first to after the last."""
        self.alone = [self.run(NEIGHBOUR, outputs=["done.txt"]) for _ in range(ALONE)]
        over = threading.Event()
        before = self._measure()
        with (
            socket.socket(socket.AF_UNIX) as server,
            socket.create_server(("127.0.0.1", 0)) as service,
            ThreadPoolExecutor(ATTACKERS + NEIGHBOURS + 1) as threads,
        ):
            server.bind("\0" + self.abstract)
            server.listen()
            watching = threads.submit(self._watch, over)
            beside = [threads.submit(self._be_neighbours, over) for _ in range(NEIGHBOURS)]
            queue = iter(attacks)
            lock = threading.Lock()

            def attack() -> None:
                while True:
                    with lock:
                        one = next(queue, None)
                    if one is None:
                        return
                    source = one.source.replace("ABSTRACT", self.abstract).replace("SECRET", str(self.secret))
                    source = source.replace("PORT", str(service.getsockname()[1]))
                    self.results[one.name] = self.run(source, one.files, **one.manifest)

            attackers = [threads.submit(attack) for _ in range(ATTACKERS)]
            try:
                for each in attackers:
                    each.result()
            finally:
                over.set()
            for each in beside:
                self.neighbours += each.result()
            watching.result()
        self.seen["memory_grown"] = self.seen["memory"] - before

    def _be_neighbours(self, over: threading.Event) -> list[Ended]:
        found = []
        while not over.is_set():
            found.append(self.run(NEIGHBOUR, outputs=["done.txt"]))
        return found

    def _watch(self, over: threading.Event) -> None:
        """Note how large the worker becomes."""
        while not over.is_set():
            self.seen["memory"] = max(self.seen.get("memory", 0.0), self._measure())
            over.wait(0.1)

    def _measure(self) -> float:
        """The worker's own memory in bytes."""
        return int(Path(f"/proc/{self.worker.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def beside(self, ended: Ended) -> list[Ended]:
        """The neighbours that ran while this one did."""
        begun, over = ended.times
        return [one for one in self.neighbours if one.times[0] < over and begun < one.times[1]]

    @property
    def jobs(self) -> Path:
        """Where the worker keeps jobs' directories."""
        return self.home / "pool" / self.worker.path.stem / "sandbox" / "jobs"

    def until_empty(self) -> None:
        """Wait until nothing is left of any job on the worker's disk."""
        until(lambda: os.listdir(self.jobs) == [], "an empty directory of jobs")  # noqa: PTH208 - names alone

    def close(self) -> None:
        """Let go of what the worker was given."""
        self._canary.close()


@contextlib.contextmanager
def arena(kind: str) -> Iterator[Arena]:
    """Open one: "root" or "ordinary user"."""
    root = os.geteuid() == 0
    uid = ordinary.UID if kind == "ordinary user" and root else None
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="arena-")))
        home.chmod(0o755)
        groups = stack.enter_context(ordinary.delegated(f"arena-{os.getpid()}", uid)) if uid is not None else []
        covers = {"/usr/local/bin": _stand_ins(home)} if root else {}
        if root:
            _fake_gpus(home / "gpus")
        one = Arena(home, uid, groups, covers)
        stack.callback(one.close)
        with one.pool:
            yield one
        for group in groups:
            left = [path for path in group.iterdir() if path.is_dir()]
            assert not left, f"control groups outlived the worker: {left}"


def _stand_ins(home: Path) -> Path:
    """A /usr/local/bin with a stand-in for Rscript: it says a version as R does, and runs shell."""
    place = home / "bin"
    place.mkdir()
    script = (
        '#!/bin/sh\n[ "$1" = --version ] && exec echo "Rscript (R) version 4.2.2 (2022-10-31)"\nexec /bin/sh "$@"\n'
    )
    (place / "Rscript").write_text(script)
    (place / "Rscript").chmod(0o755)
    return place


#: The headers and start files of a C library may not be there.
CC = ("cc", "-shared", "-fPIC", "-nostdlib", "-ffreestanding", "-fno-builtin")
NVML = r"""
typedef struct { unsigned long long total, free, used; } memory_t;
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 3; return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *v) { *v = 12020; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = (void *)(unsigned long)(i + 1); return 0; }
static unsigned place(void *h) { return (unsigned)(unsigned long)h - 1; }
int nvmlDeviceGetMinorNumber(void *h, unsigned *m) { *m = 2 - place(h); return 0; }  /* not in the driver's order */
int nvmlDeviceGetMemoryInfo(void *h, memory_t *m) {
    if (place(h) == 1) return 3;  /* NVML_ERROR_NOT_SUPPORTED */
    m->total = (8ULL << 30) * (3 - place(h)); return 0;
}
static void say(char *to, const char *text) { while ((*to++ = *text++)); }
int nvmlDeviceGetName(void *h, char *name, unsigned n) { say(name, "Fake GPU"); return 0; }
int nvmlDeviceGetUUID(void *h, char *id, unsigned n) { say(id, "GPU-fake-0"); id[9] += 2 - place(h); return 0; }
"""


def _fake_gpus(place: Path) -> None:
    """Two device files that take what is written to them, and a library that knows three GPUs; none of it is real."""
    place.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        os.mknod(place / name, 0o666 | 0o020000, os.makedev(1, 3))
        (place / name).chmod(0o666)
    (place / "nvml.c").write_text(NVML)
    made = [*CC, "-o", str(place / "nvml.so"), str(place / "nvml.c")]
    subprocess.run(made, check=True, timeout=60)
