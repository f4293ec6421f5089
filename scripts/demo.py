"""Show a pool at work: two workers, a coordinator, a job, its files. Everything it writes is under .demo/.

Started by `make demo`; an argument names another directory than .demo. With a terminal the pool stays up until Ctrl-C;
without one it is ended when all was shown. Whatever ends this program, the processes it started end with it.
"""

import contextlib
import ctypes
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
TPOOL = Path(sys.executable).with_name("tpool")
EXAMPLE = "examples/mandelbrot"
WEAKER = "--allow-weaker-isolation"
N_WORKERS = 2
START_S = 30.0
STOP_S = 15.0
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


def short(path: Path) -> str:
    """Write a path as one would type it in the project's root."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def say(text: str = "") -> None:
    """Print a line now."""
    print(text, flush=True)


def shown(command: list[str]) -> str:
    """Write a command as one would type it here."""
    return shlex.join(["tpool" if word == str(TPOOL) else word.replace(f"{ROOT}/", "") for word in command])


class Daemon:
    """A process of the demo, with its log in .demo/."""

    def __init__(self, here: Path, name: str, command: list[str]) -> None:
        """Start it, in a session of its own: Ctrl-C reaches the demo alone, which then ends it in order."""
        self.name = name
        self.command = command
        self.log = here / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - no threads here; nothing else ends it when we are killed
            )

    def words(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-2000:].strip()

    def check(self) -> None:
        """Raise DemoError when it has ended."""
        code = self.process.poll()
        if code is not None:
            raise DemoError(f"{self.name} ended with {code}:\n{self.words()}")

    def stop(self) -> None:
        """End it. A worker told once waits for its jobs, told twice it ends them, told thrice it leaves at once."""
        if self.process.poll() is not None:
            return
        term = signal.SIGTERM
        for number, patience_s in ((term, 2.0), (term, 5.0), (term, 5.0), (signal.SIGKILL, STOP_S)):
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience_s)
                return


def _end_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_ports(n: int) -> list[int]:
    """Return ports of this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def tpool(*args: str) -> str:
    """Run a command of ours and return what it prints."""
    done = subprocess.run([TPOOL, *args], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(f"tpool {shlex.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def worker_id(key: Path) -> str:
    """Return a worker's id; its key is made when it is not there yet."""
    if not key.exists():
        tpool("keygen", str(key))
    code = (
        "import sys; from pathlib import Path; from trusted_pool.protocol.identity import *;"
        "print(identity_of(load_key_file(Path(sys.argv[1]))))"
    )
    done = subprocess.run([sys.executable, "-c", code, key], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(done.stderr.strip().splitlines()[-1])
    return done.stdout.strip()


def start_worker(here: Path, number: int, port: int, pool_id: str, *, weaker: bool) -> Daemon:
    """Start a worker that runs jobs of this pool only."""
    name = f"worker{number}"
    command = [str(TPOOL), "worker", "--port", str(port), "--worker-key", str(here / f"{name}.pem")]
    command += ["--pool", pool_id, "--data", str(here / name), "--host", "127.0.0.1"]
    return Daemon(here, name, [*command, WEAKER] if weaker else command)


def ask(url: str) -> dict[str, object] | None:
    """Return a JSON answer, or None while nobody answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            found = json.load(answer)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def listens(port: int) -> bool:
    """Whether something answers there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def start_workers(here: Path, ports: list[int], pool_id: str, running: list[Daemon]) -> None:
    """Start the workers; where this machine cannot enforce what they must, with less, and say so."""
    workers = [start_worker(here, n, port, pool_id, weaker=False) for n, port in enumerate(ports, 1)]
    running += workers
    deadline = time.monotonic() + START_S
    weaker = False
    while not all(listens(port) for port in ports):
        if not weaker and any(w.process.poll() is not None and WEAKER in w.words() for w in workers):
            weaker = True
            why = next(w.words() for w in workers if w.process.poll() is not None and WEAKER in w.words())
            say("  This machine or user cannot enforce everything that a worker enforces by default:")
            say(f"    {why.splitlines()[-1]}")
            say(f"  For this demo the workers are started with {WEAKER}: they do what they can and")
            say("  advertise the level that they measured (column ISOLATION below).")
            for worker in workers:
                worker.stop()
                running.remove(worker)
            workers = [start_worker(here, n, port, pool_id, weaker=True) for n, port in enumerate(ports, 1)]
            running += workers
        for worker in workers:
            worker.check()
        if time.monotonic() > deadline:
            raise DemoError(f"the workers do not listen after {START_S:g} s; see {here}/worker*.log")
        time.sleep(0.05)


def start_pool(here: Path, running: list[Daemon]) -> str:
    """Start workers and coordinator; return the address."""
    port, *worker_ports = free_ports(1 + N_WORKERS)
    ids = [worker_id(here / f"worker{n}.pem") for n in range(1, N_WORKERS + 1)]
    pool_id = tpool("coordinator", "--show-id", "--data", str(here / "coordinator"))
    allowlist = [
        {"worker_id": name, "endpoint": f"https://127.0.0.1:{where}", "max_concurrent_jobs": 2}
        for name, where in zip(ids, worker_ports, strict=True)
    ]
    (here / "workers.json").write_text(json.dumps(allowlist, indent=2) + "\n")
    say(f"Keys and allowlist: {short(here)}/workers.json")
    start_workers(here, worker_ports, pool_id, running)
    for worker in running:
        say(f"  {shown(worker.command)}")
    command = [str(TPOOL), "coordinator", "--port", str(port), "--workers", str(here / "workers.json")]
    coordinator = Daemon(here, "coordinator", [*command, "--data", str(here / "coordinator")])
    running.append(coordinator)
    say(f"  {shown(coordinator.command)}")
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_S
    while (ask(f"{address}/pool") or {}).get("healthy_workers") != N_WORKERS:
        for daemon in running:
            daemon.check()
        if time.monotonic() > deadline:
            raise DemoError(f"the workers are not healthy after {START_S:g} s; see {here}/coordinator.log")
        time.sleep(0.05)
    return address


def show(here: Path, address: str, *args: str) -> None:
    """Type a command and let it show what it shows."""
    say(f"\n$ tpool {shlex.join(args)}")
    environment = {**os.environ, "TRUSTED_POOL_ADDR": address, "XDG_STATE_HOME": str(here / "state")}
    environment.pop("TRUSTED_POOL_OUTPUT", None)
    code = subprocess.run([TPOOL, *args], cwd=ROOT, env=environment, check=False).returncode
    if code:
        raise DemoError(f"tpool {args[0]} ended with {code}; the pool's log: {short(here)}/coordinator.log")


def show_all(here: Path, address: str, *, stays: bool) -> None:
    """Send the example, show the pool, say what to try."""
    show(here, address, "run", EXAMPLE, "-o", short(here / "outputs"))
    picture = here / "outputs/results/output.png"
    if picture.read_bytes()[:8] != b"\x89PNG\r\n\x1a\n":
        raise DemoError(f"{picture} is no picture")
    show(here, address, "pool")
    say(f"\nThe picture: {short(picture)} ({picture.stat().st_size} bytes)")
    if not stays:
        say("No terminal: the pool is ended now. With one it stays up; type: make demo")
        return
    say("\nThe pool stays up until Ctrl-C. In another terminal, here, try:")
    say("  source .venv/bin/activate")
    say(f"  export TRUSTED_POOL_ADDR={address}")
    for line in (
        "tpool run examples/bash-wordcount -- 5",
        "tpool submit examples/mandelbrot --memory 128M",
        "tpool status last",
        "tpool logs -f last",
        "tpool download last -o pictures",
        "tpool jobs",
        f"curl {address}/pool",
    ):
        say(f"  {line}")


@contextlib.contextmanager
def daemons() -> Iterator[list[Daemon]]:
    """Hold the processes that run; end them all, the coordinator first."""
    running: list[Daemon] = []
    try:
        yield running
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # ending them is not interrupted
        for daemon in reversed(running):
            daemon.stop()


def interrupt(_number: int, _frame: object) -> NoReturn:
    """End the demo as Ctrl-C does."""
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo; return its exit code."""
    here = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / ".demo"
    stays = sys.stdin.isatty() and sys.stdout.isatty()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        here.mkdir(mode=0o700, exist_ok=True)
        with daemons() as running:
            address = start_pool(here, running)
            show_all(here, address, stays=stays)
            while stays:
                for daemon in running:
                    daemon.check()
                time.sleep(0.5)
    except KeyboardInterrupt:
        say("\nEnded; nothing of it is running any more.")
        return 0 if stays else 130
    except (DemoError, OSError) as error:
        print(f"make demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
