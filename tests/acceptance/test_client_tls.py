"""TLS between a pool and its users, between real processes; docs/clients.md is run as it is printed."""

import contextlib
import os
import pty
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.authority import Authority
from support.real_pool import PATIENCE_S, TPOOL, Daemon, RealPool, free_port, run_tpool, until
from trusted_pool.protocol.identity import to_path

ROOT = Path(__file__).resolve().parents[2]
DOC = (ROOT / "docs/clients.md").read_text()
OPEN = ("--host", "0.0.0.0", "--anonymous")
TICKS = """
import time
for n in range(6000):
    print(n, flush=True)
    time.sleep(0.02)
"""


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.root))


def shown_to(pool: RealPool, authority: Authority) -> bool:
    """Whether a new connection trusts what the pool shows."""
    try:
        httpx.get(f"{pool.url}/health", verify=trusting(authority), trust_env=False)
    except httpx.ConnectError:
        return False
    return True


# -- a certificate in files --


def test_a_renewed_certificate_is_taken_up_while_everything_goes_on(tmp_path: Path, bwrap: str, curl: str) -> None:
    """A kept connection and a followed log trust the old authority only: were they dropped, they could not return."""
    assert bwrap
    old, new = Authority(tmp_path / "old", "Old"), Authority(tmp_path / "new", "New")
    files = old.issue(into=(tmp_path / "pool.pem", tmp_path / "pool.key"))
    options = (*OPEN, "--tls-cert", str(files[0]), "--tls-key", str(files[1]), "--check-interval", "1s")
    with RealPool(tmp_path / "pool", (1,), options=options, tls=trusting(old)) as pool:
        pool.coordinator.said(f"Its address for clients: https://localhost:{pool.port}")
        assert "without TLS" not in pool.coordinator.log
        command = [curl, "-sS", "--cacert", old.root, f"{pool.url}/health"]
        assert b'"healthy"' in subprocess.run(command, capture_output=True, check=True).stdout
        plain = subprocess.run([curl, "-sS", f"http://127.0.0.1:{pool.port}/"], capture_output=True, check=True)
        assert b'"tls_required"' in plain.stdout

        job_id = pool.submit({"main.py": TICKS.encode()}, {})
        env = {**os.environ, "TRUSTED_POOL_ADDR": pool.url, "TRUSTED_POOL_CACERT": str(old.root)}
        follow = [*TPOOL, "logs", "-f", job_id]
        with subprocess.Popen(follow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as following:
            assert following.stdout is not None
            assert following.stdout.readline() == b"0\n"
            new.issue(into=files)
            pool.coordinator.said("Serving the certificate of localhost", within_s=10)
            assert shown_to(pool, new)
            assert not shown_to(pool, old)
            assert pool.status(job_id)["state"] == "running"  # over the connection that was kept
            pool.http.post(f"/cancel/{job_id}")
            rest, words = following.communicate(timeout=PATIENCE_S)
        assert (following.returncode, words) == (0, b"")
        lines = rest.split()
        assert lines == [b"%d" % n for n in range(1, len(lines) + 1)]

        files[0].write_text("half of a certi")
        pool.coordinator.said("holds no PEM certificate; the certificate in use stays", within_s=10)
        assert shown_to(pool, new)
        old.issue(into=files)
        pool.coordinator.send(signal.SIGHUP)
        until(lambda: shown_to(pool, old), "the first authority's certificate again", 5)
        served = pool.coordinator.log.count("Serving the certificate")
        pool.coordinator.send(signal.SIGHUP)  # nothing has changed, and whoever asks is answered
        until(lambda: pool.coordinator.log.count("Serving the certificate") > served, "a word about it")
        pool.coordinator.said("Read ")  # the allowlist, by the same signal
        files[1].chmod(0o644)
        pool.coordinator.said(f"type: chmod 600 {files[1]}; the certificate in use stays", within_s=10)
        assert pool.coordinator.log.count("stays") == 2


def test_files_that_cannot_be_used_are_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text("[]")
    certificate, key = Authority(tmp_path).issue()
    start = ("coordinator", "--port", str(free_port()), "--workers", tmp_path / "w.json", "--data", tmp_path / "data")
    key.chmod(0o640)
    for said, words in (
        (("--tls-cert", certificate, "--tls-key", key), f"type: chmod 600 {key}"),
        (("--tls-cert", certificate), "name both files"),
        (("--tls-cert", certificate, "--tls-key", key, "--tls-pinned"), "contradict each other"),
    ):
        done = run_tpool(*start, *said)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert words in done.stderr


def test_the_specifications_way_to_start_takes_tls_too(tmp_path: Path) -> None:
    with RealPool(
        tmp_path,
        (),
        options=("--tls-pinned",),
        program=(sys.executable, str(ROOT / "coordinator.py")),
        tls=careless(),
    ) as pool:
        line = pool.coordinator.said("without authentication")
        assert "without TLS" not in line
    # What it has kept does not make up for the word that the specification's way says by itself.
    rest = ("--port", str(pool.port), "--workers", pool.allowlist, "--data", pool.data)
    done = run_tpool("coordinator", "--host", "0.0.0.0", "--tls-pinned", *rest)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.rstrip().endswith("add: --anonymous")
    assert f"tpool keys create --owner YOU --role admin --data {pool.data}" in done.stderr


# -- the pool's own key --


def careless() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPool]:
    with RealPool(tmp_path_factory.mktemp("pinned"), (), options=("--tls-pinned",), tls=careless()) as pool:
        yield pool


def openssl(port: int, *options: str) -> str:
    """Ask for /health through `openssl s_client` and return all that it tells."""
    request = "GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-ign_eof", *options]
    done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return done.stdout + done.stderr


def test_pinned_is_tls_1_3_without_tickets(pinned: RealPool, tmp_path: Path) -> None:
    told = openssl(pinned.port)
    assert "New, TLSv1.3" in told
    assert "HTTP/1.1 200" in told
    assert "New Session Ticket" not in told
    assert "HTTP/1.1 200" not in openssl(pinned.port, "-tls1_2")
    certificate, key = Authority(tmp_path).issue()
    port = free_port()
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", certificate, "-key", key, "-www"]
    control = Daemon(command, tmp_path / "s_server.log")
    control.start()
    try:
        control.said("ACCEPT")
        assert "New Session Ticket" in openssl(port)
    finally:
        control.kill9()


def test_another_pools_key_is_refused_by_the_command_line(pinned: RealPool, tmp_path: Path) -> None:
    address = pinned.coordinator.said("Its address for clients: https+pin://").rpartition(" ")[2]
    assert run_tpool("pool", "--addr", address).returncode == 0
    other = run_tpool("coordinator", "--show-id", "--data", tmp_path / "other").stdout.strip()
    refused = run_tpool("pool", "--addr", f"https+pin://{to_path(other)}@{address.partition('@')[2]}")
    assert refused.returncode == 125
    assert refused.stderr.count("\n") == 1
    assert "did not prove the pool's key" in refused.stderr


def test_over_tls_the_pool_of_this_machine_may_be_called_by_any_name(pinned: RealPool) -> None:
    """Another name that is made to lead here gets no further than the handshake; without TLS it is refused by Host."""
    assert pinned.http.get("/pool", headers={"Host": "pool.example.com"}).status_code == 200


# -- docs/clients.md --


class Reader:
    """Does what the document says, on the pool's machine and on a user's, which are both this one."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.ran: list[str] = []
        self.coordinators: list[Daemon] = []
        shown = run_tpool("coordinator", "--show-id", "--data", home / "srv/pool")
        self.pool_id = to_path(shown.stdout.strip())
        authority = Authority(home / "authority")
        (home / "etc/pool").mkdir(parents=True)
        authority.issue(into=(home / "etc/pool/fullchain.pem", home / "etc/pool/privkey.pem"))
        (home / "ca.pem").write_bytes(authority.root.read_bytes())
        (home / "workers.json").write_text("[]")
        tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("TRUSTED_POOL_", "XDG_"))}
        self.env = {**clean, "HOME": str(home), "PATH": tools}

    def here(self, text: str) -> str:
        """Write the document's places and names as they are here."""
        for theirs, ours in (
            ("/srv/pool", f"{self.home}/srv/pool"),
            ("/etc/pool", f"{self.home}/etc/pool"),
            ("https+pin://ID@", f"https+pin://{self.pool_id}@"),
            ("pool.example.com:9000", f"localhost:{self.port}"),
        ):
            text = text.replace(theirs, ours)
        return text

    @property
    def key(self) -> str:
        return (self.home / "key.txt").read_text().strip()

    def do(self, line: str) -> str:
        """Do one line and return what it printed."""
        self.ran.append(line)
        command = self.here(line)
        if command.startswith("tpool coordinator "):
            return self.serve(command)
        if "tpool login" in command and "--token-stdin" not in command:
            return self.type_key(command)
        done = self.shell(command)
        assert done.returncode == 0, (command, done.stderr)
        if command.startswith("tpool keys create"):
            (self.home / "key.txt").write_text(done.stdout)
        elif self.ran[0].startswith("tpool keys create"):
            assert self.key not in done.stdout + done.stderr
        return done.stdout

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.home,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def serve(self, command: str) -> str:
        self.end()
        words = [*TPOOL, *command.split()[1:], "--port", str(self.port), "--log-format", "plain"]
        name = f"coordinator{len(self.coordinators)}.log"
        self.coordinators.append(Daemon(words, self.home / name, cwd=self.home, env=self.env))
        self.coordinators[-1].start()
        return self.coordinators[-1].said("Its address for clients: ")

    def end(self) -> None:
        for coordinator in self.coordinators:
            coordinator.stop()

    def type_key(self, command: str) -> str:
        """Run a login on a terminal and type the key; it is not to be seen."""
        child, ours = pty.fork()
        if child == 0:
            os.chdir(self.home)
            os.execvpe("bash", ["bash", "-c", command], self.env)  # noqa: S606 - one shell is enough
        seen, asked, end = "", False, time.monotonic() + PATIENCE_S
        with contextlib.suppress(OSError):  # the terminal's other end is closed
            while time.monotonic() < end:
                seen += os.read(ours, 65536).decode()
                if not asked and "API key for" in seen:
                    os.write(ours, f"{self.key}\n".encode())
                    asked = True
        os.close(ours)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == 0, seen
        assert self.key not in seen
        return seen


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, curl: str) -> Iterator[Reader]:
    assert curl
    reader = Reader(tmp_path_factory.mktemp("reader"))
    try:
        yield reader
    finally:
        reader.end()


def lines_of(section: str) -> list[str]:
    """Return the commands of a section; one that ends in a pipe goes on."""
    text = DOC.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return re.sub(r"\|\n\s*", "| ", "".join(blocks)).splitlines()


def test_the_document_runs_as_printed(reader: Reader) -> None:
    make, serve, login, whoami, pool = lines_of("The pool's own key")
    reader.do(make)
    line = reader.do(serve)
    assert line.endswith(f"https+pin://{reader.pool_id}@{socket.gethostname()}:{reader.port}")
    assert "without" not in reader.coordinators[-1].log  # no warning: there are keys, and there is TLS
    refused = reader.shell(reader.here(f"tpool pool --addr {login.split()[-1]}"))
    assert refused.returncode == 3
    assert "tpool login" in refused.stderr
    assert "as anna: admin" in reader.do(login)
    assert "anna: admin" in reader.do(whoami)
    assert "0 of 0 workers" in reader.do(pool)

    code = re.search(r"```python\n(.*?)```", DOC, re.DOTALL)
    assert code is not None
    program = reader.home / "program.py"
    program.write_text(reader.here(code[1]))
    assert reader.shell(f"{sys.executable} {program}").stdout.split() == ["anna", "0"]

    from_stdin, by_environment, logout = lines_of("API keys on the command line")
    assert "as anna" in reader.do(from_stdin)
    assert "anna: admin" in reader.do(by_environment)
    assert "logged out" in reader.do(logout)

    digest, call = lines_of("curl")
    reader.do(digest)
    assert '"owner":"anna"' in reader.do(call)
    wrong = reader.shell(reader.here(call).replace("$(cat pin.txt)", "A" * 43 + "="))
    assert "SSL: public key does not match" in wrong.stderr
    assert wrong.stdout == ""

    serve, login, pool, health = lines_of("A certificate")
    assert reader.do(serve).endswith(f"https://localhost:{reader.port}")
    assert "as anna: admin" in reader.do(login)
    assert "0 of 0 workers" in reader.do(pool)  # by the authority that was named at the login
    assert '"healthy"' in reader.do(health)
    printed = "".join(re.findall(r"```sh\n(.*?)```", DOC, re.DOTALL))
    assert len(reader.ran) == len(re.sub(r"\|\n\s*", "| ", printed).splitlines())


def test_every_message_of_the_document_is_one_that_is_said() -> None:
    table = DOC.partition("## When it refuses")[2]
    sources = "".join(path.read_text() for path in (ROOT / "src/trusted_pool").rglob("*.py"))
    said = [
        word for row in table.splitlines() for word in re.findall(r"`([^`]+)`", row.split("|")[1] if "|" in row else "")
    ]
    assert len(said) >= 8
    for words in said:
        assert words.replace("another's: Hostname mismatch", "another's: ") in sources.replace('"\n            f"', "")
