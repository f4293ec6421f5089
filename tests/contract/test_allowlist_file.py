"""The contract of `AllowlistFile`: on disk, and the fake of it."""

import asyncio
import errno
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from support.memory_file import MemoryFile
from trusted_pool.compose import workers_file
from trusted_pool.compose.workers_file import WorkersFile
from trusted_pool.ports.allowlist import AllowlistFile, FileChangedError, FileError, FileInDoubtError

ROOT = os.geteuid() == 0


class Bench:
    """A file, and the hand that changes it."""

    def __init__(self, file: AllowlistFile, write: Callable[[bytes | None], None]) -> None:
        self.file, self.write = file, write


@pytest.fixture(params=["disk", "memory"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    if request.param == "memory":
        memory = MemoryFile()

        def keep(raw: bytes | None) -> None:
            memory.raw = raw

        return Bench(memory, keep)
    path = tmp_path / "workers.json"

    def write(raw: bytes | None) -> None:
        path.unlink() if raw is None else path.write_bytes(raw)

    write(b"[]")
    return Bench(WorkersFile(path), write)


def test_a_change_is_read_back_and_has_another_mark(bench: Bench) -> None:
    async def main() -> None:
        old = await bench.file.read()
        assert old.mark == await bench.file.mark()
        await bench.file.replace(old, b"[1]")
        new = await bench.file.read()
        assert new.raw == b"[1]"
        assert new.mark == await bench.file.mark() != old.mark

    asyncio.run(main())


def test_a_change_by_hand_has_another_mark_and_is_not_overwritten(bench: Bench) -> None:
    async def main() -> None:
        old = await bench.file.read()
        bench.write(b"{}")  # as long as before
        assert await bench.file.mark() != old.mark
        with pytest.raises(FileChangedError):
            await bench.file.replace(old, b"[1]")
        assert (await bench.file.read()).raw == b"{}"

    asyncio.run(main())


def test_one_that_is_not_there_says_so(bench: Bench) -> None:
    async def main() -> None:
        old = await bench.file.read()
        bench.write(None)
        assert await bench.file.mark() == ""
        with pytest.raises(FileError, match="No such file"):
            await bench.file.read()
        with pytest.raises(FileError):
            await bench.file.replace(old, b"[1]")
        assert await bench.file.mark() == ""

    asyncio.run(main())


# What only a disk has


def change(path: Path, new: bytes = b"[1]") -> None:
    file = WorkersFile(path)
    asyncio.run(file.replace(file.read_now(), new))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "workers.json"
    path.write_bytes(b"[]")
    return path


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_mode_and_owner_stay(path: Path, mode: int) -> None:
    owner = (1234, 5678) if ROOT else (os.getuid(), os.getgid())
    path.chmod(mode)
    os.chown(path, *owner)
    change(path)
    status = path.stat()
    assert (path.read_bytes(), stat.S_IMODE(status.st_mode)) == (b"[1]", mode)
    assert (status.st_uid, status.st_gid) == owner
    assert [p.name for p in path.parent.iterdir()] == ["workers.json"]


def test_who_else_may_write_it_stays(path: Path) -> None:
    acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x06\0\xd2\x04\0\0\x04\0\0\0\xff\xff\xff\xff"
    acl += b"\x10\0\x06\0\xff\xff\xff\xff \0\0\0\xff\xff\xff\xff"  # user 1234 may write; the group may nothing
    try:
        os.setxattr(path, "system.posix_acl_access", acl)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip("this file system has no access control lists")
    change(path)
    assert os.getxattr(path, "system.posix_acl_access") == acl


def test_a_link_stays_one_and_what_it_points_to_is_changed(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "etc" / "workers.json"
    link.parent.mkdir()
    link.symlink_to("../workers.json")
    before = asyncio.run(WorkersFile(link).mark())
    change(link)
    assert link.is_symlink()
    assert path.read_bytes() == b"[1]"
    assert asyncio.run(WorkersFile(link).mark()) != before
    assert [p.name for p in link.parent.iterdir()] == ["workers.json"]


def test_the_mark_sees_what_set_the_time_back(path: Path) -> None:
    status = path.stat()
    before = asyncio.run(WorkersFile(path).mark())
    path.write_bytes(b"{}")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert asyncio.run(WorkersFile(path).mark()) != before


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(FileError):
            WorkersFile(path).read_now()


def test_an_ordinary_user_does_not_make_anothers_file_his() -> None:
    if not ROOT:
        pytest.skip("needs to be root")
    code = (
        "import os, sys; from pathlib import Path\n"
        "from trusted_pool.compose.workers_file import WorkersFile\n"
        "os.setresgid(4321, 4321, 4321); os.setresuid(4321, 4321, 4321)\n"
        "file = WorkersFile(Path(sys.argv[1])); file._replace(file.read_now(), b'[1]')\n"
    )
    with tempfile.TemporaryDirectory() as name:  # any user can get to it; pytest's own are private
        path = Path(name, "workers.json")
        path.write_bytes(b"[]")
        Path(name).chmod(0o777)
        path.chmod(0o666)
        os.chown(path, 1234, 1234)

        def replace() -> subprocess.CompletedProcess[str]:
            return subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)

        assert "belongs to user 1234" in replace().stderr
        assert (path.read_bytes(), path.stat().st_uid) == (b"[]", 1234)
        assert [p.name for p in path.parent.iterdir()] == ["workers.json"]
        os.chown(path, 4321, 4321)  # the control: his own
        done = replace()
        assert (done.returncode, path.read_bytes()) == (0, b"[1]"), done.stderr


@pytest.mark.parametrize("step", ["write", "fsync", "fchmod", "rename"])
def test_whatever_fails_before_the_new_one_has_its_name_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fails(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if step == "rename":
        monkeypatch.setattr(Path, "rename", fails)
    elif step == "write":
        monkeypatch.setattr(workers_file.os, "fdopen", fails)
    else:
        monkeypatch.setattr(workers_file.os, step, fails)
    file = WorkersFile(path)
    content = asyncio.run(MemoryFile().read()) if step == "write" else file.read_now()
    with pytest.raises(FileError, match="No space left"):
        file._replace(content, b"[1]")
    monkeypatch.undo()
    assert path.read_bytes() == b"[]"
    assert [p.name for p in path.parent.iterdir()] == ["workers.json"]


def test_a_directory_that_cannot_be_synced_leaves_a_doubt(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, synced = os.fsync, []

    def fsync(fd: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(fd).st_mode))
        if synced[-1]:
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    monkeypatch.setattr(workers_file.os, "fsync", fsync)
    with pytest.raises(FileInDoubtError, match="may not be kept"):
        change(path)
    assert synced == [False, True], "the file before its name, the directory after it"
    assert path.read_bytes() == b"[1]"


def test_whoever_reads_meanwhile_finds_the_old_file_or_the_new_one(path: Path) -> None:
    sizes = {2}
    for n in range(1, 200):
        new = b"[" + b"1," * (50 * n) + b"1]"
        sizes.add(len(new))
        with path.open("rb") as held:
            change(path, new)
            assert len(held.read()) in sizes - {len(new)}, "who has it open has the old one"
        assert path.read_bytes() == new
