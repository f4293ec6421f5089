"""What Prometheus gets from a real coordinator and a real worker."""

import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.real_pool import PATIENCE_S, RealPool, free_port, run_tpool, until

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def series(text: str) -> Series:
    """Return every sample by its name and labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def scrape(url: str) -> str:
    """Get /metrics as Prometheus does."""
    answer = httpx.get(f"{url}/metrics", trust_env=False, timeout=PATIENCE_S)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.text


class Measured:
    """A pool with one worker whose metrics are served on loopback too."""

    def __init__(self, home: Path) -> None:
        self.pool = RealPool(home, (2,))
        (self.worker,) = self.pool.workers
        port = free_port()
        self.worker.command += ["--metrics-port", str(port)]
        self.worker_url = f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, bwrap: str) -> Iterator[Measured]:
    assert bwrap
    made = Measured(tmp_path_factory.mktemp("measured"))
    with made.pool:
        yield made


def lint(promtool: str, text: str) -> None:
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout + checked.stderr == ""


def ours(text: str) -> str:
    """Leave out what prometheus-client says of the process: those names are its own."""
    return "".join(line for line in text.splitlines(keepends=True) if "process_" not in line)


def test_promtool_finds_nothing_to_complain_of(measured: Measured, promtool: str):
    for url in (measured.pool.url, measured.worker_url):
        text = scrape(url)
        lint(promtool, text)
        assert all(line.startswith(("trusted_pool_", "# ")) for line in ours(text).splitlines())


def test_promtool_does_complain_of_a_bad_name(promtool: str):
    with pytest.raises(AssertionError, match="counter"):
        lint(promtool, "# HELP jobs Jobs.\n# TYPE jobs counter\njobs 1\n")


#: How much each series has grown after one good job, one failed one and three bad requests.
COORDINATOR_GREW = {
    ("submit_accepted_total",): 2,
    ("submit_refused_total", ("code", "bad_manifest")): 1,
    ("dispatch_placed_total",): 2,
    ("dispatch_retried_total",): 0,
    ("attempt_ended_total", ("reason", "completed")): 1,
    ("attempt_ended_total", ("reason", "exit_code")): 1,
    ("job_finished_total", ("state", "completed")): 1,
    ("job_finished_total", ("state", "failed")): 1,
    ("store_jobs", ("state", "completed")): 1,
    ("http_requests_total", ("route", "/submit"), ("status", "2xx")): 2,
    ("http_requests_total", ("route", "/submit"), ("status", "4xx")): 1,
    ("http_requests_total", ("route", "/status/{job_id}"), ("status", "4xx")): 1,
    ("http_requests_total", ("route", "unknown"), ("status", "4xx")): 1,
}
WORKER_GREW = {
    ("accepted_attempts_total",): 2,
    ("ended_attempts_total", ("reason", "completed")): 1,
    ("ended_attempts_total", ("reason", "exit_code")): 1,
    ("output_bytes_total",): 500,
    ("upload_files_total",): 2,
    ("memory_peak_bytes_count",): 2,
    ("wall_seconds_count",): 2,
}


def growth(prefix: str, names: Iterable[Any], before: Series, after: Series) -> dict[Any, float]:
    return {name: after[key] - before[key] for name in names if (key := (prefix + name[0], name[1:]))}


def test_a_job_is_counted_from_submit_to_end(measured: Measured):
    pool, worker = measured.pool, measured.worker
    before, there = series(scrape(pool.url)), series(scrape(measured.worker_url))
    source = b"import os\nprint('x' * 1000)\nos.makedirs('out')\nopen('out/a', 'w').write('y' * 500)\n"
    done, failed = pool.submit({"main.py": source}), pool.submit({"main.py": b"raise SystemExit(3)"})
    assert pool.wait(done)["state"] == "completed"
    assert pool.wait(failed)["state"] == "failed"
    assert pool.post({"main.py": b""}, {"nonsense": 1}).status_code == 400
    assert pool.http.get("/status/pool-0000000000000000").status_code == 404
    assert pool.http.get("/no/such/thing").status_code == 404
    text = scrape(pool.url)
    assert done not in text
    assert failed not in text
    after = series(text)
    assert growth("trusted_pool_", COORDINATOR_GREW, before, after) == COORDINATOR_GREW
    commits = growth("trusted_pool_store_commit_", [("seconds_count",), ("units_sum",)], before, after)
    assert commits["units_sum",] >= commits["seconds_count",] >= 4
    name = ("worker", worker.worker_id.replace("+", "-").replace("/", "_")[:12])
    assert after["trusted_pool_worker_up", (name,)] == 1
    assert after["trusted_pool_worker_slots", (name,)] == 2
    assert after["trusted_pool_worker_event_streams_total", (name,)] == 1
    assert after["trusted_pool_worker_health", (("health", "healthy"), name)] == 1

    def released() -> Series | None:
        now = series(scrape(measured.worker_url))
        return now if now["trusted_pool_daemon_kept_attempts", ()] == 0 else None

    here = until(released, "released attempts")
    assert growth("trusted_pool_daemon_", WORKER_GREW, there, here) == WORKER_GREW
    sums = [("log_bytes_total",), ("upload_bytes_total",), ("cpu_seconds_total",)]
    grew = growth("trusted_pool_daemon_", sums, there, here)
    assert grew["log_bytes_total",] > 1000
    assert grew["upload_bytes_total",] > 100
    assert grew["cpu_seconds_total",] > 0
    assert here["trusted_pool_daemon_slots", ()] == 2


def test_the_workers_port_has_nothing_else_and_the_pinned_one_lets_nobody_in(measured: Measured):
    assert httpx.get(f"{measured.worker_url}/health", trust_env=False).status_code == 404
    with pytest.raises(httpx.TransportError):
        httpx.get(f"https://127.0.0.1:{measured.worker.port}/metrics", verify=False, trust_env=False)  # noqa: S501


def test_a_job_that_waits_has_an_age_and_a_silent_worker_is_down(tmp_path: Path):
    with RealPool(tmp_path, (1,), running=False) as pool:
        idle = series(scrape(pool.url))
        assert idle["trusted_pool_queue_oldest_seconds", ()] == 0
        pool.submit({"main.py": b""})

        def older() -> bool:
            now = series(scrape(pool.url))
            assert now["trusted_pool_queue_jobs", ()] == 1
            return now["trusted_pool_queue_oldest_seconds", ()] > 0.5

        until(older, "an age")
        now = series(scrape(pool.url))
        assert sum(now["trusted_pool_worker_up", key] for name, key in now if name == "trusted_pool_worker_up") == 0
        assert len(now) == len(idle), "a series began with its first event"


def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path, measured: Measured):
    key = tmp_path / "w.pem"
    assert run_tpool("keygen", key).returncode == 0
    port = measured.worker_url.rsplit(":", 1)[1]
    said = run_tpool(
        "worker", "--host", "127.0.0.1", "--port", "0", "--worker-key", key, "--data", tmp_path / "data",
        "--metrics-port", port, "--allow-weaker-isolation",
    )  # fmt: skip
    assert said.returncode == 125
    assert f"port {port} is taken; choose another with --metrics-port" in said.stderr
