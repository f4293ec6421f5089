"""What bubblewrap is told, to the word; and the environment, filter and verdicts beside it."""

import hashlib
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trusted_pool.core.job import Usage
from trusted_pool.core.words import Reason
from trusted_pool.protocol import frames
from trusted_pool.sandbox import disk, held, interpreters, machine, policy, seccomp, syscalls
from trusted_pool.sandbox.breach import Breach
from trusted_pool.sandbox.cgroups import Reading
from trusted_pool.sandbox.interpreters import Interpreter
from trusted_pool.sandbox.loglimit import LogLimit
from trusted_pool.sandbox.verdict import Facts, judge

MB = policy.MB
LIMITS = policy.Limits(memory_bytes=512 * MB, disk_bytes=1024 * MB, timeout_s=300, cpu_seconds=10)
_GOLDEN = """
--unshare-user --uid 1000 --gid 1000
--unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup --disable-userns
--die-with-parent --new-session --hostname sandbox
--ro-bind /usr /usr --symlink usr/bin /bin --ro-bind /lib /lib
--ro-bind /data/etc /etc
--proc /proc --dev /dev
--size 268435456 --tmpfs /dev/shm --remount-ro /dev
--size 268435456 --tmpfs /tmp
--bind /data/jobs/a /job --remount-ro / --chdir /job
--setenv A b
"""
GOLDEN = _GOLDEN.split()


def test_the_arguments_are_these_and_no_others():
    system = (policy.Entry("/usr"), policy.Entry("/bin", "usr/bin"), policy.Entry("/lib"))
    view = policy.View(system=system, etc="/data/etc")
    assert policy.options(view, "/data/jobs/a", LIMITS, {"A": "b"}) == GOLDEN


def test_options_are_packed_with_a_nul_behind_each():
    assert policy.packed(["--setenv", "A", "b c"]) == b"--setenv\0A\0b c\0"


def test_limits_of_each_process():
    assert policy.rlimits(LIMITS, tree=True) == {
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": 1024 * MB,
        "RLIMIT_NOFILE": 4096,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_CPU": 12,
    }
    weaker = policy.rlimits(LIMITS, tree=False)
    assert (weaker["RLIMIT_NPROC"], weaker["RLIMIT_DATA"]) == (512, 1280 * MB)


def test_the_pools_variables_win_over_the_manifests_and_those_over_the_base():
    env = policy.environment({"PATH": "/job", "X": "manifest"}, {"X": "pool"})
    assert (env["PATH"], env["X"], env["HOME"]) == ("/job", "pool", "/tmp")


def test_merged_and_unmerged_systems_are_seen_as_they_are(tmp_path: Path):
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib64").write_text("neither")
    assert policy.look(tmp_path) == (policy.Entry("/usr"), policy.Entry("/bin", "usr/bin"), policy.Entry("/lib"))


def test_the_filter_is_named_by_its_bytes_and_is_compiled_once():
    compiled = seccomp.compiled()
    assert compiled.name == hashlib.sha256(compiled.program).hexdigest()
    assert seccomp.compiled() is compiled
    fd = compiled.memfd()
    try:
        assert os.pread(fd, len(compiled.program) + 1, 0) == compiled.program
    finally:
        os.close(fd)


def test_dangerous_calls_are_in_no_list():
    dangerous = "ptrace process_vm_readv keyctl mount unshare setns bpf io_uring_setup userfaultfd clone3 chroot reboot"
    assert not set(dangerous.split()) & set(syscalls.ALLOWED)
    assert len(set(syscalls.ALLOWED)) == len(syscalls.ALLOWED)


def facts(status: int | None, breach: Breach | None = None, oom: int = 0, words: str = "") -> Facts:
    usage = Usage(cpu_seconds=1.0, memory_peak_bytes=5 * MB, wall_time_ms=10)
    reading = Reading(oom_kills=oom)
    return Facts(
        status=status, words=words, breach=breach, reading=reading, usage=usage, limits=LIMITS, command="/job/x"
    )


@pytest.mark.parametrize(
    ("status", "reason", "code", "number"),
    [
        (0, None, 0, None),
        (3, Reason.EXIT_CODE, 3, None),
        (127, Reason.EXIT_CODE, 127, None),
        (128, Reason.EXIT_CODE, 128, None),
        (137, Reason.SIGNAL, 137, 9),
        (139, Reason.SIGNAL, 139, 11),
        (255, Reason.EXIT_CODE, 255, None),
    ],
)
def test_statuses(status: int, reason: Reason | None, code: int, number: int | None):
    outcome = judge(facts(status))
    assert (outcome.reason, outcome.exit_code, outcome.signal) == (reason, code, number)
    assert bool(outcome.detail) == (reason is not None)


@given(
    st.sampled_from([Reason.TIMEOUT, Reason.CPU_LIMIT, Reason.OUT_OF_MEMORY, Reason.DISK_LIMIT]), st.integers(0, 255)
)
def test_a_limit_goes_before_whatever_status_the_job_claims(reason: Reason, status: int):
    outcome = judge(facts(status, Breach(reason=reason, seen=11.0)))
    assert outcome.reason is reason
    assert outcome.limit in ("timeout", "cpu_seconds", "memory_mb", "disk_mb")
    assert outcome.detail
    assert outcome.evidence["memory_limit_bytes"] == 512 * MB


def test_a_program_that_never_started():
    assert judge(facts(None, words="bwrap: No permissions to create new namespace")).reason is Reason.SANDBOX_FAILED
    missing = judge(facts(None, words="bwrap: execvp /job/x: No such file or directory"))
    assert (missing.reason, missing.detail) == (
        Reason.BAD_INPUT,
        "/job/x cannot be executed: No such file or directory",
    )


def test_the_log_is_cut_once_for_both_streams():
    said: list[tuple[int, bytes]] = []
    limit = LogLimit(lambda stream, data: said.append((stream, data)), 10 + 2 * frames.HEADER.size)
    limit(frames.STDOUT, b"123456")
    limit(frames.STDERR, b"abcdef")
    limit(frames.STDOUT, b"more")
    assert said == [(1, b"123456"), (2, b"abcd"), (3, b"the log was cut after 36 bytes\n")]
    assert limit.cut


@given(st.integers(0, 400_000), st.lists(st.sampled_from([1, 2, 100, 65_536, 65_537, 200_000]), max_size=60))
def test_the_log_takes_no_more_of_the_disk_than_its_cap(cap: int, sizes: list[int]):
    written: list[bytes] = []
    limit = LogLimit(lambda stream, data: written.append(frames.encode(0.0, stream, data)), cap)
    for size in sizes:
        limit(frames.STDOUT, bytes(size))
    whole = sum(len(frames.encode(0.0, frames.STDOUT, bytes(size))) for size in sizes)
    taken = sum(map(len, written[:-1] if limit.cut else written))
    assert taken <= cap
    assert limit.cut == (whole > cap)
    if limit.cut:
        assert taken >= cap - frames.HEADER.size  # and no less than it may


def test_interpreters_are_given_files_never_options():
    python = Interpreter("python3", "/usr/bin/python3", "3")
    assert interpreters.command(python, "-c", ["-x"]) == ["/usr/bin/python3", "/job/-c", "-x"]
    assert interpreters.command(Interpreter("exec", "", ""), "bin/run", []) == ["./bin/run"]


def test_slots_uids_are_in_the_users_own_map():
    root = Path("/data")
    whole = machine.first_uid(root, "0 0 4294967295\n")
    assert whole == machine.first_uid(root, "0 0 4294967295\n") >= 1_900_000_000
    assert whole != machine.first_uid(Path("/other"), "0 0 4294967295\n")
    assert machine.first_uid(root, "0 100000 65536\n") + 256 <= 65_000


def test_disk_use_counts_and_stops(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(bytes(100_000))
    (tmp_path / "out").symlink_to("/usr")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        use = disk.use_of(fd, stop_bytes=MB, stop_files=10)
        assert (use.files, use.too_deep) == (3, False)
        assert 100_000 <= use.bytes <= 120_000
        for n in range(20):
            (tmp_path / str(n)).touch()
        assert disk.use_of(fd, stop_bytes=MB, stop_files=10).files == 11
        deep = os.dup(fd)
        for _ in range(disk.MAX_DEPTH + 5):
            os.mkdir("d", dir_fd=deep)
            below = os.open("d", os.O_RDONLY, dir_fd=deep)
            os.close(deep)
            deep = below
        os.close(deep)
        assert disk.use_of(fd, stop_bytes=MB, stop_files=1000).too_deep
    finally:
        os.close(fd)


def test_files_without_a_name_are_counted_while_open_and_while_mapped(tmp_path: Path):
    directory = os.open(tmp_path, os.O_RDONLY)
    on = held.devices(directory)
    os.close(directory)
    me = [os.getpid()]
    path = tmp_path / "x"
    with path.open("w+b") as file:
        file.write(bytes(200_000))
        file.flush()
        mapped = mmap.mmap(file.fileno(), 200_000)
        before = held.held_by(me, on).bytes
        path.unlink()
        assert 200_000 <= held.held_by(me, on).bytes - before < 400_000
    assert held.held_by(me, on).bytes - before >= 200_000  # Python's mapping has a descriptor of its own
    mapped.close()
    assert held.held_by(me, on).bytes == before


ON_THEIR_WAY = """
import os, socket, sys, tempfile
ours, theirs = socket.socketpair()
file = tempfile.TemporaryFile()
print("none", flush=True)
sys.stdin.readline()
socket.send_fds(ours, [b"x"], [file.fileno()])
print("sent", flush=True)
sys.stdin.readline()
os.close(socket.recv_fds(theirs, 1, 1)[1][0])
print("taken", flush=True)
sys.stdin.readline()
"""


def test_descriptors_on_their_way_are_seen():
    # A process of its own: this one may hold anything.
    command = [sys.executable, "-c", ON_THEIR_WAY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for word, unseen in (("none", False), ("sent", True), ("taken", False)):
            assert child.stdout.readline() == word + "\n"
            assert held.held_by([child.pid], frozenset()).unseen is unseen, word
            child.stdin.write("\n")
            child.stdin.flush()


def test_bubblewrap_missing_says_what_to_type(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(machine.SandboxError, match="apt-get install bubblewrap"):
        machine.bubblewrap()
