"""Archives as people make them, and what the reader says of them."""

import gzip
import io
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from trusted_pool.core.job import InputFile
from trusted_pool.protocol.archive import ArchiveLimits, inspect, is_archive, plan, read_archive, require_canonical
from trusted_pool.protocol.archive_streams import unzstd
from trusted_pool.protocol.errors import BadArchiveError, BadRequestError, TooLargeError
from trusted_pool.sandbox.unpack import unpack

LIMITS = ArchiveLimits()


def tree(root: Path) -> None:
    (root / "data" / "deep").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "main.py").write_text("print(1)\n")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o750)
    (root / "data" / "deep" / "é.txt").write_text("x" * 3000)
    (root / ("long" * 40)).write_text("l")
    (root / "._main.py").write_bytes(b"\0\5\26\7")


COMMANDS = {
    "tar-dot.tar.gz": "tar czf {out} .",
    "tar-star.tgz": "tar czf {out} *",
    "posix.tar": "tar cf {out} --format=posix .",
    "ustar.tar": "tar cf {out} --format=ustar main.py run.sh data empty ._main.py",
    "v7.tar": "tar cf {out} --format=v7 main.py run.sh data empty",
    "gnu.tar.zst": "tar cf - --format=gnu . | zstd -q -o {out}",
    "blocked.tar": "tar cf {out} -b 512 .",
    "info.zip": "zip -qr {out} .",
    "streamed.zip": "zip -qr - . | cat > {out}",
    "stored.zip": "zip -q0r {out} .",
    "commented.zip": "zip -qr {out} . && echo 'a comment' | zip -qz {out}",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_archives_of_the_usual_tools(tmp_path: Path, name: str) -> None:
    command = COMMANDS[name]
    for tool in ("tar", "zstd", "zip"):
        if tool in command.split() and shutil.which(tool) is None:
            assert "CI" not in os.environ, f"{tool} is missing"
            pytest.skip(f"{tool} is not installed")
    root = tmp_path / "project"
    root.mkdir()
    tree(root)
    out = tmp_path / name
    subprocess.run(command.format(out=out), shell=True, cwd=root, check=True)  # noqa: S602 - the table above
    with out.open("rb") as file:
        entries = {
            entry.path: (entry.kind, entry.executable, b"".join(entry.chunks)) for entry in read_archive(file, LIMITS)
        }
    assert entries["main.py"] == ("file", False, b"print(1)\n")
    assert entries["run.sh"] == ("file", True, b"#!/bin/sh\n")
    assert entries["data/deep/é.txt"] == ("file", False, b"x" * 3000)
    assert entries["empty"] == ("dir", entries["empty"][1], b"")
    assert "" not in entries
    if "." in command.split():
        assert entries["long" * 40][2] == b"l"
        assert "._main.py" in entries


def test_git_archives_are_read() -> None:
    """They begin with a global header that holds the commit."""
    out = io.BytesIO()
    pax = {"comment": "0" * 40}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers=pax) as archive:
        archive.addfile(tarfile.TarInfo("main.py"))
    assert list(inspect(out, LIMITS).sizes) == ["main.py"]


def test_zip64_and_streams_of_python() -> None:
    class Pipe(io.RawIOBase):
        data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            self.data += bytes(data)  # type: ignore[call-overload]
            return len(bytes(data))  # type: ignore[call-overload]

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"x" * 100)
        archive.writestr("d/", b"")
        archive.writestr("empty", b"")
        with archive.open("big", "w", force_zip64=True) as file:
            file.write(b"123")
    assert inspect(io.BytesIO(pipe.data), LIMITS).sizes == {"a": 100, "empty": 0, "big": 3}
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for n in range(66_000):
            archive.writestr(str(n), b"")
    assert len(inspect(many, LIMITS).sizes) == 66_000


def tar(files: dict[str, bytes], **fields: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_inspect_learns_names_sizes_and_the_manifest() -> None:
    raw = gzip.compress(tar({"./main.py": b"12345", "./job.json": b'{"x": 1}', "d/job.json": b"other"}))
    listing = inspect(io.BytesIO(raw), LIMITS)
    assert listing.sizes == {"main.py": 5, "job.json": 8, "d/job.json": 5}
    assert listing.contents == {"job.json": b'{"x": 1}'}
    assert listing.names == {"main.py", "job.json", "d/job.json"}


def test_inspect_keeps_no_more_of_a_file_than_a_manifest_may_have() -> None:
    raw = tar({"job.json": b" " * 300_000})
    assert len(inspect(io.BytesIO(raw), LIMITS).contents["job.json"]) == 256 * 1024 + 1


def test_what_the_caller_does_not_read_is_passed_over() -> None:
    raw = tar({"a": b"x" * 100_000, "b": b"y" * 1_000})
    entries = read_archive(io.BytesIO(raw), LIMITS)
    first = next(entries)
    assert len(next(first.chunks)) <= 65536
    assert b"".join(next(entries).chunks) == b"y" * 1_000


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "'p.tar.gz' is empty"),
        (b"#!/bin/sh\necho\n", "no archive, by its first bytes"),
        (gzip.compress(b"print(1)\n" * 100), "what it holds is no tar archive"),
        (zstandard.compress(b"print(1)\n"), "what it holds is no tar archive"),
        (b"BZh91AY" + bytes(600), "no archive"),
    ],
)
def test_no_archive_at_all(raw: bytes, words: str) -> None:
    with pytest.raises(BadArchiveError, match=words) as caught:
        inspect(io.BytesIO(raw), LIMITS, name="p.tar.gz")
    assert "tar czf" in caught.value.hint


@pytest.mark.parametrize("kind", [b"S", b"M", b"V", b"D", b"Z"])
def test_kinds_of_members_that_are_refused(kind: bytes) -> None:
    with pytest.raises(BadArchiveError, match="'a' is"):
        inspect(io.BytesIO(tar({"a": b""}, type=kind)), LIMITS)


def test_sparse_files_in_pax_are_refused() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a")
        info.pax_headers = {"GNU.sparse.major": "1"}
        archive.addfile(info)
    with pytest.raises(BadArchiveError, match="sparse"):
        inspect(out, LIMITS)


def test_names_together_are_capped() -> None:
    raw = tar({f"{n:0100}": b"" for n in range(50)})
    with pytest.raises(TooLargeError, match="names"):
        inspect(io.BytesIO(raw), ArchiveLimits(max_name_bytes=1000))


def test_a_directory_may_be_implied_and_listed_twice() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind in (("d/f", b"0"), ("d", b"5"), ("d/", b"5"), ("A", b"0"), ("a", b"0")):
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
    assert set(inspect(out, LIMITS).sizes) == {"d/f", "A", "a"}


@pytest.mark.parametrize("name", ["p.tar.gz", "p.tgz", "p.tar", "p.tar.zst", "p.zip", "P.ZIP"])
def test_which_names_are_archives(name: str) -> None:
    assert is_archive(name)
    assert plan([name]) is None
    assert plan([name, "main.py"]) == (name, "main.py")


def test_plain_files_are_placed_by_their_names() -> None:
    assert plan(["main.py"]) == ("main.py",)
    assert plan(["./a/b.py", "c"]) == ("a/b.py", "c")
    with pytest.raises(BadRequestError, match="no files") as caught:
        plan([])
    assert "curl" in caught.value.hint
    for bad in (["../x"], ["/x"], ["a", "./a"], ["a", "a/b"], ["d/"], [""], ["a\0"], ["\ud800"]):
        with pytest.raises(BadArchiveError):
            plan(bad)


def test_paths_of_outputs_are_written_in_one_way() -> None:
    assert require_canonical("results/é.png") == "results/é.png"
    for bad in ("", "a/./b", "../a", "/a", "a/", "a//b", "a\n", "\ud800"):
        with pytest.raises(BadRequestError):
            require_canonical(bad)


def test_plain_files_are_unpacked(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    begun_ns = tmp_path.stat().st_mtime_ns
    inputs = [
        (InputFile(name="src/main.py", size=3, sha256=""), io.BytesIO(b"abc")),
        (InputFile(name="data.tar.gz", size=2, sha256=""), io.BytesIO(b"xy")),
    ]
    done = unpack(fd, inputs, LIMITS)
    assert (tmp_path / "src" / "main.py").read_bytes() == b"abc"
    assert (tmp_path / "data.tar.gz").read_bytes() == b"xy"
    assert set(done.files) == {"src/main.py", "data.tar.gz"}
    assert done.size == 5
    assert all(stamp.mtime_ns < begun_ns - 10**9 for stamp in done.files.values())  # so that any write shows
    os.close(fd)


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    before = os.umask(0o077)
    try:
        unpack(fd, [(InputFile(name="d/f", size=0, sha256=""), io.BytesIO())], LIMITS)
    finally:
        os.umask(before)
        os.close(fd)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("d", "d/f")] == [0o755, 0o644]


@pytest.mark.parametrize("missing", [1, 4, 5, 100, 1_000, 150_000, 299_000])
def test_a_zstd_stream_that_is_cut_is_never_taken_for_whole(missing: int) -> None:
    """The library itself says nothing when the file ends inside a frame."""
    data = os.urandom(300_000)
    for packed in (zstandard.compress(data), zstandard.ZstdCompressor(write_checksum=True).compress(data)):
        assert b"".join(unzstd(io.BytesIO(packed))) == data
        with pytest.raises(BadArchiveError):
            list(unzstd(io.BytesIO(packed[:-missing])))


def test_plain_files_of_another_size_than_announced(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for size in (2, 4):
        with pytest.raises(BadArchiveError, match="announced"):
            unpack(fd, [(InputFile(name=f"a{size}", size=size, sha256=""), io.BytesIO(b"abc"))], LIMITS)
    with pytest.raises(TooLargeError):
        unpack(fd, [(InputFile(name="b", size=3, sha256=""), io.BytesIO(b"abc"))], ArchiveLimits(max_bytes=2))
    os.close(fd)
