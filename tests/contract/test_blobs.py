"""The contract of the Blobs port, over the directory and the fake."""

import asyncio
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from trusted_pool.blobs.directory import DirectoryBlobs
from trusted_pool.blobs.memory import MemoryBlobs
from trusted_pool.ports.blobs import BlobMissingError, Blobs, BlobsError, BlobsFullError, Staged

NOWHERE = "0" * 64
SMALL = b"small"
#: Bytes around every border: nothing, one, the last that stays in memory, one more, one buffer, several.
SIZES = [0, 1, 64 * 1024, 64 * 1024 + 1, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 1_000_003]

Make = Callable[[], Blobs]


@pytest.fixture(params=["directory", "spool", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    if request.param == "memory":
        return MemoryBlobs
    return lambda: DirectoryBlobs(tmp_path / "blobs", durable=request.param == "directory")


def some_bytes(size: int) -> bytes:
    return (b"0123456789abcdefg" * (size // 17 + 1))[:size]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def stage(blobs: Blobs, data: bytes, piece: int = 100_000) -> Staged:
    writing = await blobs.stage()
    for start in range(0, len(data), piece):
        await writing.write(data[start : start + piece])
    assert writing.size == len(data)
    return await writing.finish()


async def put(blobs: Blobs, data: bytes) -> str:
    staged = await stage(blobs, data)
    await staged.publish()
    return staged.sha256


async def read(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


@pytest.mark.parametrize("size", SIZES)
def test_what_goes_in_comes_out(make: Make, size: int) -> None:
    async def scenario() -> None:
        blobs, data = make(), some_bytes(size)
        staged = await stage(blobs, data)
        assert (staged.sha256, staged.size) == (digest(data), size)
        assert await read(staged.read()) == data
        assert await blobs.size(staged.sha256) is None
        with pytest.raises(BlobMissingError):
            await read(blobs.open(staged.sha256))
        await staged.publish()
        assert await blobs.size(staged.sha256) == size
        assert await read(blobs.open(staged.sha256)) == data
        assert all([len(piece) <= 256 * 1024 async for piece in blobs.open(staged.sha256)])

    asyncio.run(scenario())


@pytest.mark.parametrize("piece", [1, 1000, 65_537, 300_000, 2_000_000])
def test_the_size_of_the_pieces_written_does_not_matter(make: Make, piece: int) -> None:
    async def scenario() -> None:
        data = some_bytes(min(1_000_003, piece * 3000))
        staged = await stage(make(), data, piece)
        assert staged.sha256 == digest(data)
        assert await read(staged.read()) == data
        await staged.discard()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("start", "length"),
    [
        (0, None),
        (0, 0),
        (0, 1),
        (5, None),
        (700_000, 1),
        (700_000, 100),
        (699_999, 1),
        (10**9, None),
        (262_144, 262_145),
    ],
)
def test_ranges(make: Make, start: int, length: int | None) -> None:
    async def scenario() -> None:
        blobs, data = make(), some_bytes(700_001)
        sha256 = await put(blobs, data)
        end = None if length is None else start + length
        assert await read(blobs.open(sha256, start, length)) == data[start:end]

    asyncio.run(scenario())


def test_a_negative_range_is_a_mistake_of_the_caller(make: Make) -> None:
    async def scenario() -> None:
        blobs = make()
        sha256 = await put(blobs, SMALL)
        for start, length in ((-1, None), (0, -1)):
            with pytest.raises(ValueError, match="not negative"):
                await read(blobs.open(sha256, start, length))

    asyncio.run(scenario())


@pytest.mark.parametrize("data", [SMALL, some_bytes(300_000)])
def test_publish_and_discard_end_it_once(make: Make, data: bytes) -> None:
    async def scenario() -> None:
        blobs = make()
        published = await stage(blobs, data)
        await published.publish()
        await published.publish()
        await published.discard()
        assert await blobs.size(digest(data)) == len(data)
        with pytest.raises(BlobsError):
            await read(published.read())
        await blobs.delete(digest(data))
        discarded = await stage(blobs, data)
        await discarded.discard()
        await discarded.discard()
        await discarded.publish()
        assert await blobs.size(digest(data)) is None
        with pytest.raises(BlobsError):
            await read(discarded.read())

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [5, 300_000])
def test_an_ended_stage_takes_nothing_more(make: Make, size: int) -> None:
    async def scenario() -> None:
        blobs, data = make(), some_bytes(size)
        aborted = await blobs.stage()
        await aborted.write(data)
        await aborted.abort()
        await aborted.abort()
        for call in (aborted.write(b"more"), aborted.finish()):
            with pytest.raises(BlobsError, match="ended"):
                await call
        finished = await blobs.stage()
        await finished.write(data)
        staged = await finished.finish()
        with pytest.raises(BlobsError, match="ended"):
            await finished.write(b"more")
        await finished.abort()  # too late: the bytes belong to what `finish` returned
        await staged.publish()
        assert await read(blobs.open(digest(data))) == data

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [10, 300_000])
def test_many_publishes_of_the_same_bytes_at_once_leave_one_blob(make: Make, tmp_path: Path, size: int) -> None:
    async def scenario() -> None:
        blobs, data = make(), some_bytes(size)
        staged = await asyncio.gather(*(stage(blobs, data) for _ in range(16)))
        await asyncio.gather(*(one.publish() for one in staged))
        assert await read(blobs.open(digest(data))) == data
        assert await blobs.sweep() == 0
        if isinstance(blobs, DirectoryBlobs):
            assert [p.name for p in (tmp_path / "blobs").rglob("*") if p.is_file()] == [digest(data)]

    asyncio.run(scenario())


def test_many_stages_at_once_some_aborted(make: Make) -> None:
    async def scenario() -> None:
        blobs = make()

        async def one(number: int) -> tuple[str, bytes] | None:
            data = bytes([number]) * (number * 20_000)
            writing = await blobs.stage()
            for start in range(0, len(data), 50_000):
                await writing.write(data[start : start + 50_000])
            if number % 3 == 0:
                await writing.abort()
                return None
            staged = await writing.finish()
            if number % 3 == 1:
                await staged.discard()
                return None
            await staged.publish()
            return staged.sha256, data

        for kept in filter(None, await asyncio.gather(*(one(n) for n in range(40)))):
            assert await read(blobs.open(kept[0])) == kept[1]
        assert await blobs.sweep() == 0
        if isinstance(blobs, MemoryBlobs):
            assert blobs.unended == 0

    asyncio.run(scenario())


def test_a_reader_that_has_begun_reads_on_after_delete(make: Make) -> None:
    async def scenario() -> None:
        blobs, data = make(), some_bytes(1_000_000)
        sha256 = await put(blobs, data)
        reader = blobs.open(sha256)
        got = await anext(reader)
        await blobs.delete(sha256)
        assert await blobs.size(sha256) is None
        with pytest.raises(BlobMissingError):
            await anext(blobs.open(sha256))
        assert got + await read(reader) == data
        await blobs.delete(sha256)
        assert await put(blobs, data) == sha256  # and it can come again
        assert await read(blobs.open(sha256)) == data

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "/etc/passwd", "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", "\0" * 64, NOWHERE]
)
def test_what_is_no_digest_names_no_blob(make: Make, name: str) -> None:
    async def scenario() -> None:
        blobs = make()
        assert await blobs.size(name) is None
        await blobs.delete(name)
        with pytest.raises(BlobMissingError):
            await anext(blobs.open(name))

    asyncio.run(scenario())


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_cancelled_writer_leaves_nothing(make: Make, tmp_path: Path, cut: int) -> None:
    async def scenario() -> None:
        blobs = make()

        async def writer(turns: asyncio.Semaphore) -> None:
            writing = await blobs.stage()
            try:
                for _ in range(4):
                    turns.release()
                    await writing.write(some_bytes(400_000))
                (await writing.finish()).sha256  # noqa: B018 - not reached
            finally:
                await writing.abort()

        turns = asyncio.Semaphore(0)
        task = asyncio.create_task(writer(turns))
        for _ in range(cut):
            await turns.acquire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await blobs.sweep() == 0
        if isinstance(blobs, DirectoryBlobs):
            assert list((tmp_path / "blobs" / "staging").iterdir()) == []

    asyncio.run(scenario())


# What only the fake can show


def test_a_power_cut_leaves_what_was_published() -> None:
    async def scenario() -> None:
        blobs = MemoryBlobs()
        kept = await put(blobs, b"kept")
        staged = await stage(blobs, b"staged")
        publishing = asyncio.create_task((await stage(blobs, b"half")).publish())
        while await blobs.size(digest(b"half")) is None:  # visible, not durable yet
            assert not publishing.done()
        after = blobs.crash()
        with pytest.raises(BlobsError, match="power"):
            await publishing
        for call in (staged.publish(), blobs.stage(), blobs.delete(kept)):
            with pytest.raises(BlobsError, match="power"):
                await call
        assert await read(after.open(kept)) == b"kept"
        assert await after.size(digest(b"half")) is None
        assert await after.size(staged.sha256) is None
        assert after.unended == 0

    asyncio.run(scenario())


def test_a_spool_forgets_everything_at_a_power_cut() -> None:
    async def scenario() -> None:
        blobs = MemoryBlobs(durable=False)
        sha256 = await put(blobs, SMALL)
        assert await blobs.size(sha256) == len(SMALL)
        assert await blobs.crash().size(sha256) is None

    asyncio.run(scenario())


def test_full_memory() -> None:
    async def scenario() -> None:
        blobs = MemoryBlobs(room=1000)
        sha256 = await put(blobs, some_bytes(900))
        writing = await blobs.stage()
        await writing.write(some_bytes(100))
        with pytest.raises(BlobsFullError):
            await writing.write(b"1")
        await writing.abort()
        await blobs.delete(sha256)
        await put(blobs, some_bytes(1000))

    asyncio.run(scenario())


# What only the directory can show


def needs(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        words = f"{program} is not installed"
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)
    return path


CHILD = """
import asyncio, os, sys
from pathlib import Path
from trusted_pool.blobs.directory import DirectoryBlobs
from trusted_pool.ports.blobs import BlobsFullError

async def put(blobs, data):
    writing = await blobs.stage()
    await writing.write(data)
    staged = await writing.finish()
    await staged.publish()
    return staged.sha256

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


def start(program: str, *arguments: object, before: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    command = [*before, sys.executable, "-c", CHILD + program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(child: "subprocess.Popen[str]") -> list[str]:
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    return out.splitlines()


def test_published_blobs_survive_sigkill_and_sweep_removes_stages(tmp_path: Path) -> None:
    program = """
async def main():
    blobs = DirectoryBlobs(Path(sys.argv[1]))
    async def one(number):
        left = await blobs.stage()
        await left.write(b"left" * 100_000)
        n = 0
        while True:
            n += 1
            data = f"{number} {n} ".encode() * (20_000 if n % 2 else 1)
            say(await put(blobs, data), len(data))
    await asyncio.gather(*(one(n) for n in range(4)))
asyncio.run(main())
"""
    child = start(program, tmp_path)
    assert child.stdout is not None
    with child:
        lines = [child.stdout.readline() for _ in range(60)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL
    answered = [line.split() for line in lines]
    blobs = DirectoryBlobs(tmp_path)

    async def scenario() -> None:
        assert await blobs.sweep() >= 4
        assert await blobs.sweep() == 0
        assert list((tmp_path / "staging").iterdir()) == []
        for sha256, size in answered:
            assert len(await read(blobs.open(sha256))) == int(size)  # `open` compares the digest

    asyncio.run(scenario())


def call(name: str, path: str) -> re.Pattern[str]:
    """Find a system call on a path, whether by descriptor (strace -y) or by name."""
    return re.compile(rf"\b{name}\([^<]*(?:<|\"){path}(?:>|\")")


@pytest.mark.parametrize("size", [10, 64 * 1024 + 1])
def test_order_of_system_calls(tmp_path: Path, size: int) -> None:
    needs("strace")
    root, trace = tmp_path / "blobs", tmp_path / "trace"
    program = """
blobs = DirectoryBlobs(Path(sys.argv[1]))
say("BEGIN")
say("ANSWER", asyncio.run(put(blobs, b"x" * int(sys.argv[2]))))
"""
    calls = "trace=write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,link,linkat"
    before = ("strace", "-f", "-y", "-e", calls, "-o", str(trace))
    sha256 = finish(start(program, root, size, before=before))[1].split()[1]
    lines = trace.read_text().splitlines()
    lines = lines[next(n for n, line in enumerate(lines) if "BEGIN" in line) :]

    def where(pattern: re.Pattern[str]) -> int:
        found = [n for n, line in enumerate(lines) if pattern.search(line)]
        assert len(found) == 1, (pattern.pattern, lines)
        return found[0]

    staging, final = re.escape(f"{root}/staging/") + r"[^>\"]+", re.escape(f"{root}/sha256/{sha256[:2]}")
    order = [
        where(call("write", staging)),
        where(call("fsync", staging)),
        where(re.compile(rf"rename\w*\(.*\"{staging}\".*\"{final}/{sha256}\"")),
        where(call("fsync", final)),
        where(re.compile("ANSWER")),
    ]
    assert order == sorted(order)
    # One thread did it all before the answer: no call began while another was under way.
    assert not any("unfinished" in lines[n] for n in order)


def test_the_directories_are_durable_before_the_first_blob(tmp_path: Path) -> None:
    needs("strace")
    root, trace = tmp_path / "new" / "blobs", tmp_path / "trace"
    program = 'DirectoryBlobs(Path(sys.argv[1])); say("READY")'
    for _ in range(2):  # the second start makes nothing, but the first may have been killed before its fsyncs
        finish(start(program, root, before=("strace", "-f", "-y", "-e", "trace=write,fsync", "-o", str(trace))))
        synced = re.findall(r"fsync\(\d+<([^>]+)>", trace.read_text().split("READY", maxsplit=1)[0])
        assert {str(root / "sha256"), str(root), str(root.parent)} <= set(synced)


def test_a_spool_never_waits_for_the_disk(tmp_path: Path) -> None:
    needs("strace")
    program = """
blobs = DirectoryBlobs(Path(sys.argv[1]), durable=False)
say(asyncio.run(put(blobs, b"x" * 300_000)))
"""
    trace = tmp_path / "trace"
    before = ("strace", "-f", "-e", "trace=fsync,fdatasync,sync,syncfs,rename", "-o", str(trace))
    finish(start(program, tmp_path / "blobs", before=before))
    assert "rename(" in trace.read_text()
    assert "sync" not in trace.read_text()


FILL = """
async def main():
    blobs = DirectoryBlobs(Path(sys.argv[1]))
    first = await put(blobs, b"first" * 20_000)
    try:
        while True:
            last = await put(blobs, os.urandom(200_000))
    except BlobsFullError as error:
        say("full:", error)
    try:
        while True:
            last_small = await put(blobs, os.urandom(20_000))
    except BlobsFullError as error:
        say("full small:", error)
    writing = await blobs.stage()
    try:
        while True:
            await writing.write(b"x" * 300_000)
    except BlobsFullError:
        say("full while writing")
    await writing.abort()
    got = b"".join([piece async for piece in blobs.open(first)])
    say("first", got == b"first" * 20_000)
    say("swept", await blobs.sweep())
    await blobs.delete(first)
    await blobs.delete(last)
    await put(blobs, b"after")
    say("works again")
asyncio.run(main())
"""


def test_a_full_disk(tmp_path: Path) -> None:
    needs("unshare")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = 'mount -t tmpfs -o size=3m tmpfs "$0" && exec "$@"'
    before = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(disk))
    if os.geteuid() == 0:
        before = ("unshare", "--mount", *before[4:])
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        if os.environ.get("CI"):
            pytest.fail("no mount namespaces here")
        pytest.skip("no mount namespaces here")
    lines = finish(start(FILL, disk / "blobs", before=before))
    assert lines[0].startswith(f"full: no space for blobs in {disk / 'blobs'}")
    assert lines[1].startswith("full small: ")
    # A big blob that would not go in was finished, not discarded: its stage is what sweep finds.
    assert lines[2:4] == ["full while writing", "first True"]
    assert lines[4].startswith("swept ")
    assert lines[4] != "swept 0"
    assert lines[5] == "works again"


def test_a_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    program = """
import resource
blobs = DirectoryBlobs(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    asyncio.run(put(blobs, b"x" * 50_000))
except BlobsFullError as error:
    say("full")
say(asyncio.run(put(blobs, b"x" * 20_000)))
say(asyncio.run(blobs.sweep()))
"""
    lines = finish(start(program, tmp_path))
    assert lines == ["full", digest(b"x" * 20_000), "0"]


def test_a_published_blob_cannot_be_written(tmp_path: Path) -> None:
    sha256 = asyncio.run(put(DirectoryBlobs(tmp_path), SMALL))
    assert (tmp_path / "sha256" / sha256[:2] / sha256).stat().st_mode & 0o777 == 0o400
    assert tmp_path.joinpath("sha256").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("size", [10, 500_000])
def test_a_damaged_blob_is_reported_and_can_be_published_again(tmp_path: Path, size: int) -> None:
    async def scenario() -> None:
        blobs, data = DirectoryBlobs(tmp_path), some_bytes(size)
        sha256 = await put(blobs, data)
        path = tmp_path / "sha256" / sha256[:2] / sha256
        path.chmod(0o600)
        path.write_bytes(data[:-1] + b"!")
        with pytest.raises(BlobsError, match="damaged") as caught:
            await read(blobs.open(sha256))
        assert str(path) in str(caught.value)
        path.write_bytes(data[:-1])  # shorter: what a power cut does to a spool
        await put(blobs, data)
        assert await read(blobs.open(sha256)) == data

    asyncio.run(scenario())


def test_a_root_that_cannot_be(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_bytes(b"")
    with pytest.raises(BlobsError, match="blob directory") as caught:
        DirectoryBlobs(in_the_way / "blobs")
    assert str(in_the_way / "blobs") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_root_that_is_not_writable(tmp_path: Path) -> None:
    program = """
from trusted_pool.ports.blobs import BlobsError
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
for _ in range(2):
    try:
        DirectoryBlobs(Path(sys.argv[1]))
    except BlobsError as error:
        say(error)
    else:
        say("no error")
"""
    root = tmp_path / "blobs"
    DirectoryBlobs(root)
    for directory in (root, root / "staging", root / "sha256"):
        directory.chmod(0o555)
    for directory in [tmp_path, *tmp_path.parents]:
        if directory.stat().st_uid == os.geteuid() and str(directory).startswith("/tmp/"):
            directory.chmod(0o755)
    lines = finish(start(program, root))
    assert len(lines) == 2
    assert all(
        line.startswith(f"cannot use the blob directory {root}: Permission denied; give it to") for line in lines
    )


def test_a_root_that_goes_away_while_running(tmp_path: Path) -> None:
    async def scenario() -> None:
        blobs = DirectoryBlobs(tmp_path / "blobs")
        sha256 = await put(blobs, SMALL)
        small, large = await stage(blobs, SMALL + b"2"), await blobs.stage()
        shutil.move(tmp_path / "blobs", tmp_path / "away")
        calls = [
            small.publish(),
            large.write(some_bytes(300_000)),
            anext(blobs.open(sha256)),
            blobs.size(sha256),
            blobs.sweep(),
        ]
        for doing in calls:
            with pytest.raises(BlobsError, match="mount it again") as caught:
                await doing
            assert str(tmp_path / "blobs") in str(caught.value)
            assert not isinstance(caught.value, BlobMissingError)
        shutil.move(tmp_path / "away", tmp_path / "blobs")
        await small.publish()  # its bytes were in memory
        assert await read(blobs.open(small.sha256)) == SMALL + b"2"

    asyncio.run(scenario())


def test_small_blobs_touch_no_disk_before_publish(tmp_path: Path) -> None:
    async def scenario() -> None:
        blobs = DirectoryBlobs(tmp_path)
        staged = await stage(blobs, some_bytes(64 * 1024))
        assert list((tmp_path / "staging").iterdir()) == []
        await staged.discard()
        larger = await stage(blobs, some_bytes(64 * 1024 + 1))
        assert len(list((tmp_path / "staging").iterdir())) == 1
        await larger.discard()
        assert list((tmp_path / "staging").iterdir()) == []

    asyncio.run(scenario())


def test_nothing_stays_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        blobs, data = DirectoryBlobs(tmp_path), some_bytes(1_000_000)
        sha256 = await put(blobs, data)
        reader = blobs.open(sha256)
        await anext(reader)
        await reader.aclose()  # type: ignore[attr-defined]
        writing = await blobs.stage()
        await writing.write(data)
        await writing.abort()
        await (await stage(blobs, data)).discard()
        blobs._threads.shutdown(wait=True)
        links = [Path("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]  # noqa: PTH208 - the same numbers
        targets = [os.readlink(link) for link in links if link.is_symlink()]  # noqa: PTH115
        assert [target for target in targets if target.startswith(str(tmp_path))] == []

    asyncio.run(scenario())
