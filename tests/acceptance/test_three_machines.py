"""Three workers, a coordinator and somebody's own machine, each with an address: set up as the specification says."""

import asyncio
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.archives import tar_gz
from support.far_pool import SystemClock
from support.networks import Switch, need_namespaces
from support.real_pool import TPOOL, Daemon, run_tpool, until
from trusted_pool.core.worker import Worker
from trusted_pool.link.pinned import PinnedLink
from trusted_pool.ports.link import RefusedError
from trusted_pool.protocol.identity import create_key_file, identity_of

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("bwrap", "curl")]

ROOT = Path(__file__).parents[2]
ADDRESSES = {
    "worker1": "192.168.1.101",
    "worker2": "192.168.1.102",
    "worker3": "192.168.1.103",
    "pool": "192.168.1.100",
    "desk": "192.168.1.50",
}
POOL = "http://192.168.1.100:9000"
PROGRAM = b"""
import os, time
os.mkdir("results")
open("results/output.txt", "w").write(os.environ["TRUSTED_POOL_WORKER_ID"])
time.sleep(1)
"""


class Site:
    """The machines, with what runs on them."""

    def __init__(self, home: Path, switch: Switch) -> None:
        self.home, self._switch = home, switch
        self.daemons: list[Daemon] = []
        self.ids: dict[str, str] = {}

    def on(self, machine: str, *words: str | Path) -> list[str]:
        """Return a command that runs on a machine."""
        return [*self._switch.command_on(machine, self.home / machine / "var-lib"), *map(str, words)]

    def run(self, machine: str, *words: str | Path) -> str:
        """Run a command on a machine to its end, and return what it printed."""
        done = subprocess.run(self.on(machine, *words), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def start(self, machine: str, *words: str | Path, until_said: str) -> Daemon:
        """Start a command on a machine, in the directory of that machine."""
        daemon = Daemon(self.on(machine, *words), self.home / f"{machine}.log", cwd=self.home / machine)
        self.daemons.append(daemon)
        daemon.start()
        daemon.said(until_said)
        return daemon

    def key(self, machine: str) -> Path:
        """Where a worker's key is."""
        return self.home / machine / "etc" / f"{machine}.pem"

    def make_keys(self, *, by_command: bool) -> None:
        """`--generate-key` on each worker; the ids go into the pool's workers.json, as the example has it."""
        for machine in ("worker1", "worker2", "worker3"):
            if by_command:
                said = self.run(machine, *TPOOL, "worker", "--generate-key", self.key(machine))
                self.ids[machine] = said.split("Worker ID: ")[1].strip()
            else:
                self.ids[machine] = identity_of(create_key_file(self.key(machine)))
        entries = [
            {"worker_id": self.ids[m], "endpoint": f"http://{ADDRESSES[m]}:8443", "max_concurrent_jobs": 4}
            for m in self.ids
        ]
        (self.home / "pool").mkdir(exist_ok=True)
        (self.home / "pool" / "workers.json").write_text(json.dumps(entries))

    def start_workers(self, *options: str) -> list[Daemon]:
        """`tpool worker --port 8443 --worker-key …` on each."""
        command = (*TPOOL, "worker", "--port", "8443", "--worker-key")
        return [self.start(m, *command, self.key(m), *options, until_said="serves") for m in self.ids]

    def end(self) -> None:
        """End everything."""
        for daemon in self.daemons:
            daemon.stop(*(15,) * 3)
        until(lambda: not [p for d in self.daemons for p in d.left()], "an end of all processes", 10)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """The calling thread sits at the desk."""
    need_namespaces()
    switch = Switch(f"tp{os.getpid()}", ADDRESSES)
    with switch.plugged_in("desk"):
        site = Site(tmp_path, switch)
        try:
            yield site
        finally:
            site.end()


CURL = ("curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "30")


def curl(*words: str) -> bytes:
    return subprocess.run([*CURL, *words], capture_output=True, check=True).stdout


def test_by_the_specifications_text_alone(site: Site):
    site.make_keys(by_command=True)
    site.start_workers()
    coordinator = (sys.executable, ROOT / "coordinator.py", "--port", "9000", "--workers", "workers.json")
    site.start("pool", *coordinator, until_said="serves")
    project = site.home / "project.tar.gz"
    project.write_bytes(tar_gz({"main.py": PROGRAM}))

    def pool() -> Any:
        return json.loads(curl(f"{POOL}/pool"))

    until(lambda: pool()["healthy_workers"] == 3, "three healthy workers")
    assert {w["endpoint"] for w in pool()["workers"]} == {f"http://{ADDRESSES[m]}:8443" for m in site.ids}
    manifest = 'manifest={"entrypoint":"main.py","interpreter":"python3"}'
    submitted = [
        json.loads(curl("-X", "POST", f"{POOL}/submit", "-F", f"files=@{project}", "-F", manifest)) for _ in range(6)
    ]
    assert {job["status"] for job in submitted} == {"queued"}
    ran_on = set()
    for job in submitted:
        status = until(lambda: _over(job["job_id"]), "an end")  # noqa: B023 - awaited here
        assert status["pool_status"] == "completed", status
        written = site.home / "output.txt"
        curl(f"{POOL}/outputs/{job['job_id']}/results/output.txt", "-o", str(written))
        assert written.read_text() == status["worker_id"]
        ran_on.add(status["worker_id"])
    assert ran_on == set(site.ids.values()), "jobs are distributed across the three workers"
    for machine in site.ids:
        enrolled = Path(f"{site.key(machine)}.pool").read_text().strip()
        assert enrolled == pool()["pool_id"], "each took the pool that came first, and no other"


def _over(job_id: str) -> Any:
    status = json.loads(curl(f"{POOL}/status/{job_id}"))
    return status if status["completed_at"] is not None else None


def test_with_the_strict_defaults(site: Site):
    site.make_keys(by_command=False)
    pool_id = site.run("pool", *TPOOL, "coordinator", "--show-id").strip()
    workers = site.start_workers("--pool", pool_id)
    assert all(f"Runs jobs of only {pool_id}" in daemon.log for daemon in workers)
    site.start("pool", *TPOOL, "coordinator", "--port", "9000", "--workers", "workers.json", until_said="serves")

    def healthy() -> int:
        return int(json.loads(site.run("pool", *CURL, "http://127.0.0.1:9000/pool"))["healthy_workers"])

    until(lambda: healthy() == 3, "three healthy workers")
    assert "3 of 3 workers healthy" in site.run("pool", *TPOOL, "pool")
    project = site.home / "project"
    project.mkdir()
    (project / "main.py").write_bytes(PROGRAM)
    state, out = site.home / "state", site.home / "out"
    command = ["env", f"XDG_STATE_HOME={state}", *TPOOL, "run", str(project), "-o", str(out)]
    site.run("pool", "sh", "-c", " & ".join(shlex.join([*command[:-1], f"{out}{n}"]) for n in range(3)) + " & wait")
    ran_on = {path.read_text() for path in site.home.glob("out*/results/output.txt")}
    assert ran_on == set(site.ids.values())

    with pytest.raises(httpx.TransportError):  # from another machine
        httpx.get(f"{POOL}/health", trust_env=False, timeout=5)
    refused = run_tpool("pool", "--addr", POOL)
    assert refused.returncode == 125, refused.stderr
    _a_stranger_is_told_what_to_type(site, pool_id)


def _a_stranger_is_told_what_to_type(site: Site, pool_id: str) -> None:
    """Another pool, at the desk, calls a worker that lists the first one only."""
    key = Ed25519PrivateKey.generate()
    worker = Worker(worker_id=site.ids["worker1"], endpoint=f"http://{ADDRESSES['worker1']}:8443")

    async def call() -> None:
        link = PinnedLink(worker, key, 1, SystemClock())
        try:
            with pytest.raises(RefusedError, match="is not for the pool") as caught:
                await link.health()
            assert f"tpool worker --pool {pool_id} --pool {identity_of(key)}" in str(caught.value)
        finally:
            await link.close()

    asyncio.run(call())
