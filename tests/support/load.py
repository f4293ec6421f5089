"""Hundreds of small jobs from several clients, each as patient as a client must be, and what must become of them."""

import hashlib
import json
import threading

import httpx

from support.real_pool import RealPool, until

CLIENTS = 4

PROGRAM = b"""
import hashlib, os, sys
name = sys.argv[1]
print("job", name, flush=True)
os.mkdir("out")
with open("out/result.txt", "w") as file:
    file.write(hashlib.sha256(name.encode()).hexdigest())
with open("out/big.bin", "wb") as file:
    file.write(name.encode() * (20_000 if name.endswith("7") else 1))
"""


def expected(name: str) -> dict[str, bytes]:
    return {
        "out/result.txt": hashlib.sha256(name.encode()).hexdigest().encode(),
        "out/big.bin": name.encode() * (20_000 if name.endswith("7") else 1),
    }


class Clients:
    """Submit jobs from several threads until all are acknowledged, whatever happens to the pool meanwhile."""

    def __init__(self, pool: RealPool, jobs: int | None, max_attempts: int, rest_s: float = 0.0) -> None:
        """`jobs` None: until `join`. `rest_s`: what each client waits after each job."""
        self.names: list[str] = []  #: of all that were submitted, or will be until the end
        self.acknowledged: dict[str, str] = {}  #: job id → name
        self._pool = pool
        self._jobs = jobs
        self._max_attempts = max_attempts
        self._rest_s = rest_s
        self._enough = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work) for _ in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all are acknowledged; who was to go on until now ends."""
        if self._jobs is None:
            self._enough.set()
        for thread in self._threads:
            thread.join(300)
            assert not thread.is_alive()

    def _next(self) -> str | None:
        with self._lock:
            if self._enough.is_set() or len(self.names) == self._jobs:
                return None
            self.names.append(f"n{len(self.names)}")
            return self.names[-1]

    def _work(self) -> None:
        with httpx.Client(base_url=self._pool.url, timeout=30, trust_env=False) as http:
            while (name := self._next()) is not None:
                until(lambda name=name: self._submit(http, name), f"an answer for {name}", 120)
                self._enough.wait(self._rest_s)

    def _submit(self, http: httpx.Client, name: str) -> bool:
        manifest = {"args": [name], "memory_mb": 128, "retry": {"max_attempts": self._max_attempts}}
        files = [("files", ("main.py", PROGRAM)), ("manifest", (None, json.dumps(manifest)))]
        try:
            answer = http.post("/submit", files=files, headers={"Idempotency-Key": name})
        except httpx.TransportError:
            return False
        assert answer.status_code == 200, answer.text
        with self._lock:
            self.acknowledged[answer.json()["job_id"]] = name
        return True


def check(pool: RealPool, clients: Clients, within_s: float = 240) -> None:
    """Every acknowledged job is completed, with the right bytes, once."""
    jobs = len(clients.names)
    assert sorted(clients.acknowledged.values()) == sorted(clients.names)
    until(lambda: pool.pool()["jobs"]["completed"] == jobs, "all jobs completed", within_s)
    assert pool.pool()["total_jobs"] == jobs
    for job_id, name in clients.acknowledged.items():
        assert pool.outputs(job_id) == expected(name)
        assert pool.http.get(f"/logs/{job_id}/stdout").text == f"job {name}\n"
