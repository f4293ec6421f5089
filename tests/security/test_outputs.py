"""Hostile outputs, cases 21 to 31, each with its control: what a plain copy of the directory would have done."""

import asyncio
import contextlib
import multiprocessing
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trusted_pool.core.words import Reason
from trusted_pool.ports.sandbox import OutputMissingError, SandboxError
from trusted_pool.protocol.errors import BadRequestError
from trusted_pool.sandbox.beneath import open_beneath
from trusted_pool.sandbox.collect import Collected, OutputLimits, collect, open_output
from trusted_pool.sandbox.owner import Owner
from trusted_pool.sandbox.wipe import wipe, wipe_tree

NOBODY = 65534
LIMITS = OutputLimits(max_bytes=2**20, max_files=50, max_seen=5_000)
SECRET = b"canary"


class JobDir:
    """A job's directory, and the thread of its owner."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o700)
        self.root = os.geteuid() == 0
        if self.root:
            os.chown(path, NOBODY, NOBODY)
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self.owner = Owner(NOBODY) if self.root else Owner()
        self.call(self._write, "good.txt", b"good")

    def _write(self, name: str, data: bytes) -> None:
        fd = os.open(name, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=self.fd)
        os.write(fd, data)
        os.close(fd)

    def write(self, name: str, data: bytes) -> None:
        self.call(self._write, name, data)

    def call(self, function: Callable, *args: object, **kwargs: object):
        return asyncio.run(self.owner.call(function, *args, **kwargs))

    def collect(self, *patterns: str, limits: OutputLimits = LIMITS) -> Collected:
        return self.call(collect, self.fd, {}, list(patterns) or None, limits)

    def read(self, path: str, size: int | None = None) -> bytes:
        fd = self.call(open_output, self.fd, path, size)
        with os.fdopen(fd, "rb") as file:
            return file.read()

    def never_hands_out(self, path: str, words: str) -> None:
        """It is passed over among good outputs, fails a job that names it, and cannot be asked for by its path."""
        found = self.collect()
        assert [file.path for file in found.files] == ["good.txt"]
        assert found.reason is None
        assert any(words in problem.words for problem in found.problems)
        named = self.collect("good.txt", path)
        assert [file.path for file in named.files] == ["good.txt"]
        assert named.reason is Reason.BAD_OUTPUT
        assert words in named.detail
        with pytest.raises(OutputMissingError):
            self.read(path)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[JobDir]:
    (tmp_path / "secret").write_bytes(SECRET)
    job = JobDir(tmp_path / "job")
    yield job
    job.call(wipe, job.fd)
    assert list(job.path.iterdir()) == []
    assert (tmp_path / "secret").read_bytes() == SECRET
    job.owner.close()
    os.close(job.fd)


def test_21_a_symlink_to_a_secret(job: JobDir) -> None:
    target = "/etc/shadow" if job.root else str(job.path.parent / "secret")
    job.call(os.symlink, target, "stolen", dir_fd=job.fd)
    assert (job.path / "stolen").read_bytes() == Path(target).read_bytes()
    job.never_hands_out("stolen", "symbolic link")


def test_22_a_directory_symlink_upwards(job: JobDir) -> None:
    job.call(os.symlink, "..", "up", dir_fd=job.fd)
    assert (job.path / "up" / "secret").read_bytes() == SECRET
    job.never_hands_out("up", "symbolic link")
    for pattern in ("up/secret", "up/"):
        found = job.collect("good.txt", pattern)
        assert [file.path for file in found.files] == ["good.txt"]
        assert found.reason is Reason.BAD_OUTPUT
    for pattern in ("up/*", "**/secret", "**"):
        assert all(file.path == "good.txt" for file in job.collect(pattern).files)
    with pytest.raises(OutputMissingError, match="symbolic link"):
        job.read("up/secret")


def test_23_a_hard_link(job: JobDir) -> None:
    outside = job.path.parent / "input"
    outside.write_bytes(SECRET)
    os.link(outside, job.path / "linked")
    assert (job.path / "linked").read_bytes() == SECRET
    job.never_hands_out("linked", "hard links")


def test_24_fifos_and_sockets_do_not_block(job: JobDir) -> None:
    job.call(os.mkfifo, "fifo", dir_fd=job.fd)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{job.fd}/socket")
        opener = threading.Thread(target=lambda: (job.path / "fifo").open("rb").close())
        opener.start()
        opener.join(0.2)
        assert opener.is_alive()  # a plain open waits for a writer
        os.close(os.open(job.path / "fifo", os.O_WRONLY))
        opener.join()
        begun = time.monotonic()
        job.never_hands_out("fifo", "no regular file")
        job.never_hands_out("socket", "no regular file")
        assert time.monotonic() - begun < 5


def test_24_a_fifo_behind_the_walk_does_not_block_either(job: JobDir) -> None:
    """The open itself does not wait, even if a name has become a fifo since it was listed."""
    job.call(os.mkfifo, "fifo", dir_fd=job.fd)
    fd = open_beneath(job.fd, "fifo", os.O_RDONLY)
    os.close(fd)
    with pytest.raises(OutputMissingError, match="no regular file"):
        job.read("fifo")


def test_25_a_sparse_file(job: JobDir) -> None:
    job.write("sparse", b"")
    os.truncate(job.path / "sparse", 2**40)
    assert (job.path / "sparse").stat().st_blocks == 0  # costs the job nothing, a copy a terabyte
    begun = time.monotonic()
    found = job.collect()
    assert time.monotonic() - begun < 5
    assert found.reason is Reason.OUTPUT_LIMIT
    assert found.limit == "output_bytes"
    assert [file.path for file in found.files] == ["good.txt"]


def test_25_all_outputs_together(job: JobDir) -> None:
    for n in range(3):
        job.write(f"part-{n}", bytes(400_000))
    found = job.collect()
    assert found.limit == "output_bytes"
    assert sum(file.size for file in found.files) <= LIMITS.max_bytes


def test_26_many_files(job: JobDir) -> None:
    def fill() -> None:
        for n in range(20_000):
            os.close(os.open(f"f{n}", os.O_CREAT | os.O_WRONLY, dir_fd=job.fd))

    job.call(fill)
    assert len(list(job.path.iterdir())) > LIMITS.max_seen
    found = job.collect()
    assert (found.reason, found.limit) == (Reason.OUTPUT_LIMIT, "output_names")
    wide = OutputLimits(max_files=50)
    found = job.collect(limits=wide)
    assert (found.reason, found.limit, len(found.files)) == (Reason.OUTPUT_LIMIT, "output_files", 50)
    found = job.collect("f1999*", limits=wide)
    assert (found.reason, len(found.files)) == (None, 11)
    begun = time.monotonic()
    job.call(wipe, job.fd)
    assert time.monotonic() - begun < 20
    assert list(job.path.iterdir()) == []


def test_26_paths_that_are_long_together(job: JobDir) -> None:
    for n in range(12):
        job.write(f"{n:02}".ljust(100, "ü"), b"")  # 198 bytes
    narrow = OutputLimits(max_path_bytes=1000)
    found = job.collect(limits=narrow)
    assert (found.reason, found.limit) == (Reason.OUTPUT_LIMIT, "output_path_bytes")
    assert "more than 1000 bytes" in found.detail
    assert sum(len(file.path.encode()) for file in found.files) == 5 * 198
    assert job.collect("good.txt", limits=narrow).reason is None
    assert job.collect(limits=OutputLimits(max_path_bytes=12 * 198 + len("good.txt"))).reason is None


def test_26_time_is_bounded(job: JobDir) -> None:
    found = job.collect(limits=OutputLimits(max_seconds=0.0))
    assert (found.reason, found.limit) == (Reason.OUTPUT_LIMIT, "output_seconds")
    assert job.collect().limit == ""


def swap_for_ever(path: Path, ready: "multiprocessing.synchronize.Event") -> None:
    """Replace a file by a symlink and back, as fast as it goes."""
    file, link, name = path / "file", path / "link", path / "swapped"
    while True:
        file.write_bytes(b"harmless")
        file.rename(name)
        ready.set()
        link.symlink_to("../secret")
        link.rename(name)


def test_27_a_daemon_that_swaps_a_file_for_a_symlink(job: JobDir) -> None:
    """It is dead before collection; should one ever live, what is opened is still never the link's target."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    daemon = context.Process(target=swap_for_ever, args=(job.path, ready), daemon=True)
    daemon.start()
    try:
        assert ready.wait(20)
        seen: set[bytes] = set()
        until = time.monotonic() + 20
        while SECRET not in seen and time.monotonic() < until:
            with contextlib.suppress(OSError):
                if stat.S_ISREG(os.lstat(job.path / "swapped").st_mode):
                    seen.add((job.path / "swapped").read_bytes())
        assert SECRET in seen  # checking first and opening then is a race that is lost
        for _ in range(2_000):
            with contextlib.suppress(OutputMissingError):
                assert job.read("swapped") in (b"", b"harmless")
    finally:
        daemon.kill()
        daemon.join()
    (job.path / "link").unlink(missing_ok=True)


def grow_for_ever(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        while path.stat().st_size < 200 * 2**20:
            file.write(bytes(2**16))
        os.kill(os.getpid(), 9)


def test_28_a_file_that_grows_while_it_is_read(job: JobDir) -> None:
    job.write("growing", bytes(500_000))
    context = multiprocessing.get_context("fork")
    daemon = context.Process(target=grow_for_ever, args=(job.path / "growing",), daemon=True)
    daemon.start()
    try:
        grown = 0
        while grown <= 2**20 and daemon.is_alive():
            grown = (job.path / "growing").stat().st_size
        assert grown > 2**20  # more than all outputs may have, and a plain read would follow it
        found = job.collect("growing", limits=OutputLimits(max_bytes=2**40, max_seconds=60))
    finally:
        daemon.kill()
        daemon.join()
    for file in found.files:  # it had ended growing when it was opened
        assert file.size == (job.path / "growing").stat().st_size
    assert found.files or found.reason is Reason.BAD_OUTPUT
    assert job.collect("growing").files or job.collect("growing").limit == "output_bytes"


def test_28_what_changes_after_collection_is_not_served(job: JobDir) -> None:
    (file,) = job.collect().files
    assert job.read("good.txt", file.size) == b"good"
    job.call(os.truncate, f"/proc/self/fd/{job.fd}/good.txt", 1)
    with pytest.raises(OutputMissingError, match="has changed"):
        job.read("good.txt", file.size)


def nest(dir_fd: int, depth: int) -> None:
    fd = os.dup(dir_fd)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_29_ten_thousand_nested_directories(job: JobDir) -> None:
    job.call(nest, job.fd, 10_000)
    with pytest.raises((RecursionError, OSError)):
        shutil.rmtree(job.path / "d")
    found = job.collect()
    assert (found.reason, found.limit) == (Reason.OUTPUT_LIMIT, "output_depth")
    assert job.collect("good.txt").reason is None
    begun = time.monotonic()
    job.call(wipe, job.fd)
    assert time.monotonic() - begun < 30
    assert list(job.path.iterdir()) == []


def test_29_wiping_leaves_what_links_point_to(job: JobDir) -> None:
    def lay() -> None:
        os.mkdir("shut", dir_fd=job.fd)
        os.mkdir("shut/inner", dir_fd=job.fd)
        for n in range(3):  # names that moved directories would take
            os.close(os.open(f".wiped-{n}", os.O_CREAT | os.O_WRONLY, dir_fd=job.fd))
        os.mkdir(".wiped-3", dir_fd=job.fd)
        os.symlink("../..", "shut/inner/up", dir_fd=job.fd)
        os.symlink("..", "up", dir_fd=job.fd)
        for name in ("shut/inner", "shut"):
            os.chmod(name, 0, dir_fd=job.fd)
        os.fchmod(job.fd, 0)

    job.call(lay)
    job.call(wipe, job.fd)
    assert list(job.path.iterdir()) == []
    assert (job.path.parent / "secret").read_bytes() == SECRET


def test_29_wiping_a_tree_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "tree" / "a" / "b").mkdir(parents=True)
    (tmp_path / "tree" / "a" / "b" / "f").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "tree")
    fd = os.open(tmp_path, os.O_RDONLY)
    wipe_tree(fd, "link")
    assert (tmp_path / "tree" / "a" / "b" / "f").exists()
    wipe_tree(fd, "tree")
    wipe_tree(fd, "tree")
    assert list(tmp_path.iterdir()) == []
    os.close(fd)


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "a/./b", "/etc/passwd", "a//b", "", ".", "..", "a/", "a/../good.txt", "a\0b", "a\nb"]
)
def test_30_paths_that_are_written_in_another_way(job: JobDir, path: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        job.read(path)
    assert caught.value.status == 400


def test_30_a_plain_open_would_have_left_the_directory(job: JobDir) -> None:
    fd = os.open("../secret", os.O_RDONLY, dir_fd=job.fd)
    assert os.read(fd, 100) == SECRET
    os.close(fd)
    with pytest.raises(OSError, match="cross-device"):
        open_beneath(job.fd, "../secret", os.O_RDONLY)


def test_31_missing_or_unreadable(job: JobDir) -> None:
    with pytest.raises(OutputMissingError, match="does not exist"):
        job.read("nothing")
    with pytest.raises(OutputMissingError, match="does not exist"):
        job.read("good.txt/below")
    job.write("shut", b"x")
    job.call(os.chmod, "shut", 0, dir_fd=job.fd)
    job.never_hands_out("shut", "not readable")


def test_31_names_that_nobody_can_ask_for(job: JobDir) -> None:
    for name in (b"\xff", b"a\nb", b"a\x1b[2J"):
        job.write(os.fsdecode(name), b"x")
    found = job.collect()
    assert [file.path for file in found.files] == ["good.txt"]
    assert len(found.problems) == 3
    assert not any("\x1b" in p.path or "\n" in p.path for p in found.problems)


def test_root_is_never_the_owner() -> None:
    with pytest.raises(SandboxError, match="never touched as root"):
        Owner(0)
    if os.geteuid() == 0:
        with pytest.raises(SandboxError, match="never touched as root"):
            Owner()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root could lose its rights")
def test_the_thread_has_no_rights_of_root_and_the_process_keeps_them(job: JobDir) -> None:
    def shadow() -> bytes:
        return Path("/etc/shadow").read_bytes()

    def status() -> dict[str, str]:
        lines = Path(f"/proc/self/task/{threading.get_native_id()}/status").read_text().splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    assert shadow()
    with pytest.raises(PermissionError):
        job.call(shadow)
    thread = job.call(status)
    assert thread["Uid"].split()[3] == thread["Gid"].split()[3] == str(NOBODY)
    assert thread["Groups"].strip() == ""
    assert {thread[key] for key in ("CapEff", "CapPrm", "CapInh")} == {"0" * 16}
    assert shadow()
    assert status()["CapEff"] != "0" * 16


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has groups to lose")
def test_the_thread_has_none_of_the_groups_of_root() -> None:
    program = """if True:
        import asyncio, os
        from trusted_pool.sandbox.owner import Owner
        async def main():
            # getgroups asks the kernel about the thread that calls
            return os.getgroups(), await Owner(65534).call(os.getgroups)
        print(asyncio.run(main()))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, extra_groups=[0, 4])
    assert done.stdout.strip() == b"([0, 4], [])"
