"""Hostile input archives, cases 1 to 20, each with its control: an unprotected reader that the same bytes do harm."""

import asyncio
import gzip
import io
import os
import shutil
import stat
import struct
import tarfile
import tracemalloc
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from trusted_pool.core.job import InputFile
from trusted_pool.protocol.archive import ArchiveLimits, inspect
from trusted_pool.protocol.errors import BadArchiveError, PoolError, TooLargeError
from trusted_pool.sandbox.owner import Owner
from trusted_pool.sandbox.unpack import Unpacked, unpack
from trusted_pool.sandbox.wipe import wipe

NOBODY = 65534
LIMITS = ArchiveLimits(max_bytes=2**20)


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

    def unpack(self, raw: bytes, name: str = "a.tar", limits: ArchiveLimits = LIMITS) -> Unpacked:
        given = InputFile(name=name, size=len(raw), sha256="")
        return self.call(unpack, self.fd, [(given, io.BytesIO(raw))], limits)

    def call(self, function: Callable, *args: object):
        return asyncio.run(self.owner.call(function, *args))


@pytest.fixture
def job(tmp_path: Path) -> Iterator[JobDir]:
    job = JobDir(tmp_path / "job")
    yield job
    job.call(wipe, job.fd)
    assert list(job.path.iterdir()) == []
    job.owner.close()
    os.close(job.fd)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Where the controls unpack."""
    path = tmp_path / "victim" / "in"
    path.mkdir(parents=True)
    return path


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def header(block: bytes, at: int, new: bytes) -> bytes:
    """Overwrite part of a header block and set its checksum right."""
    block = block[:at] + new + block[at + len(new) :]
    blank = block[:148] + b" " * 8 + block[156:512]
    return block[:148] + b"%06o\0 " % sum(blank) + block[156:]


def unprotected(raw: bytes, where: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        archive.extraction_filter = lambda info, _: info  # what Pythons without filters do
        archive.extractall(where)  # noqa: S202 - the control


def names_in(raw: bytes) -> list[str]:
    """List a tar archive as an unprotected reader does."""
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        return archive.getnames()


def outside(job: JobDir) -> list[str]:
    """List what is beside the job's directory."""
    found = []
    for folder, directories, files in os.walk(job.path.parent):
        if Path(folder) == job.path.parent:
            directories.remove(job.path.name)
        found += [str(Path(folder) / name) for name in directories + files]
    return sorted(found)


def refused(job: JobDir, raw: bytes, words: str, error: type[PoolError] = BadArchiveError) -> None:
    """Both ends refuse it; the message says what is wrong; nothing appears outside the job's directory."""
    job.call(wipe, job.fd)
    before = outside(job)
    name = "a.zip" if raw.startswith(b"PK") else "a.tar"
    with pytest.raises(error, match=words):
        inspect(io.BytesIO(raw), LIMITS)
    with pytest.raises(error, match=words):
        job.unpack(raw, name)
    assert outside(job) == before


def test_01_a_name_that_leaves_the_project(job: JobDir, victim: Path) -> None:
    raw = tar(member("ok.txt", b"x"), member("../escaped", b"x"))
    unprotected(raw, victim)
    assert (victim.parent / "escaped").exists()
    (victim.parent / "escaped").unlink()
    refused(job, raw, r"'\.\./escaped' leaves the project")
    refused(job, tar(member("a/../../escaped", b"x")), "leaves")


def test_02_an_absolute_name(job: JobDir, victim: Path) -> None:
    raw = tar(member(str(victim.parent / "absolute"), b"x"))
    unprotected(raw, victim)
    (victim.parent / "absolute").unlink()
    refused(job, raw, "is absolute")


def test_03_an_absolute_symlink(job: JobDir, victim: Path) -> None:
    raw = tar(member("link", type=tarfile.SYMTYPE, linkname="/etc/shadow"))
    unprotected(raw, victim)
    assert (victim / "link").readlink() == Path("/etc/shadow")
    refused(job, raw, "'link' is a symbolic link")


def test_03_a_symlink_in_a_zip(job: JobDir) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/shadow")
    assert stat.S_ISLNK(zipfile.ZipFile(out).getinfo("link").external_attr >> 16)
    refused(job, out.getvalue(), "'link' is a symbolic link")


def test_04_a_write_through_a_symlink(job: JobDir, victim: Path) -> None:
    raw = tar(member("d", type=tarfile.SYMTYPE, linkname=".."), member("d/through", b"x"))
    unprotected(raw, victim)
    (victim.parent / "through").unlink()
    refused(job, raw, "symbolic link")


def test_04_unpacking_follows_no_symlink_that_is_there_already(job: JobDir, victim: Path) -> None:
    """Even in a directory that is not empty, which the reader's own checks do not see."""
    raw = tar(member("d/through", b"x"), member("f", b"x"))
    for name, target in (("d", victim.parent), ("f", victim.parent / "f")):
        (victim / name).symlink_to(target)
    unprotected(raw, victim)
    assert (victim.parent / "through").exists()
    (victim.parent / "through").unlink()
    (job.path / "d").symlink_to(victim.parent)
    with pytest.raises((BadArchiveError, OSError)):
        job.unpack(raw)
    (job.path / "d").unlink()
    (job.path / "f").symlink_to(victim.parent / "g")
    with pytest.raises(BadArchiveError, match="'f' cannot be made"):
        job.unpack(raw)
    assert not (victim.parent / "through").exists()
    assert not (victim.parent / "g").exists()


def test_05_a_hard_link_outside(job: JobDir, victim: Path) -> None:
    secret = victim.parent / "secret"
    secret.write_text("s")
    raw = tar(member("link", type=tarfile.LNKTYPE, linkname="../secret"))
    unprotected(raw, victim)
    assert (victim / "link").read_text() == "s"
    refused(job, raw, "'link' is a hard link")


@pytest.mark.parametrize(
    ("kind", "words"), [(tarfile.FIFOTYPE, "a fifo"), (tarfile.CHRTYPE, "character"), (tarfile.BLKTYPE, "block")]
)
def test_06_devices_and_fifos(job: JobDir, victim: Path, kind: bytes, words: str) -> None:
    raw = tar(member("thing", type=kind, devmajor=1, devminor=3))
    if kind == tarfile.FIFOTYPE or job.root:
        unprotected(raw, victim)
        assert not (victim / "thing").is_file()
        assert (victim / "thing").exists()
    refused(job, raw, words)


def test_07_modes_are_normalised(job: JobDir, victim: Path) -> None:
    raw = tar(member("run", b"x", mode=0o6777), member("data", b"x", mode=0o6666), member("d", type=b"5", mode=0o7777))
    unprotected(raw, victim)
    assert (victim / "run").stat().st_mode & stat.S_ISUID
    job.unpack(raw)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in job.path.iterdir()}
    assert modes == {"run": 0o755, "data": 0o644, "d": 0o755}
    if job.root:
        assert {p.stat().st_uid for p in job.path.iterdir()} == {NOBODY}


def test_08_the_chain_of_cve_2025_4517(job: JobDir, victim: Path) -> None:
    """Symlinks whose resolved path is longer than PATH_MAX, so that `realpath` gives up and the filter lets it pass."""
    part, steps, path, members = "d" * 247, "abcdefghijklmnop", "", []
    for step in steps:
        members.append(member(path + part, type=tarfile.DIRTYPE, mode=0o755))
        members.append(member(path + step, type=tarfile.SYMTYPE, linkname=part))
        path += part + "/"
    long = "/".join(steps) + "/" + "l" * 254
    members += [
        member(long, type=tarfile.SYMTYPE, linkname="../" * len(steps)),
        member("escape", type=tarfile.SYMTYPE, linkname=long + "/.."),
        member("escape/pwned", b"x"),
    ]
    raw = tar(*members)
    if not escapes_the_data_filter(raw, victim):
        unprotected(raw, victim)
    assert (victim.parent / "pwned").exists()
    (victim.parent / "pwned").unlink()
    refused(job, raw, "symbolic link")


def escapes_the_data_filter(raw: bytes, where: Path) -> bool:
    """Unpack as Python recommends; False where this Python has the fix, or no filters."""
    if not hasattr(tarfile, "data_filter"):
        return False
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        try:
            archive.extractall(where, filter="data")
        except (tarfile.FilterError, OSError):
            shutil.rmtree(where)
            where.mkdir()
            return False
    return True


ZEROS = bytes(64 * 2**20)


def bombs() -> dict[str, tuple[bytes, Callable[[bytes], bytes]]]:
    raw = tar(member("zeros", ZEROS))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", ZEROS)
    return {
        "gzip": (gzip.compress(raw, 1), gzip.decompress),
        "zstd": (zstandard.compress(raw), zstandard.decompress),
        "zip": (packed.getvalue(), lambda data: zipfile.ZipFile(io.BytesIO(data)).read("zeros")),
    }


@pytest.mark.parametrize("kind", ["gzip", "zstd", "zip"])
def test_09_bombs(job: JobDir, kind: str) -> None:
    raw, inflate = bombs()[kind]
    assert len(raw) < len(ZEROS) / 100
    assert len(inflate(raw)) >= len(ZEROS)
    tracemalloc.start()
    refused(job, raw, "unpack to more than", TooLargeError)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_09_many_members_that_are_a_bomb_together(job: JobDir) -> None:
    raw = tar(*(member(str(n), bytes(300_000)) for n in range(4)))
    refused(job, raw, "unpack to more than", TooLargeError)


def test_09_a_zip_that_lies_about_its_size(job: JobDir) -> None:
    """Both headers say 10 bytes; the data inflates to a megabyte, and no further byte of it is written."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = deflate.compress(bytes(2**20)) + deflate.flush()
    assert len(zlib.decompress(data, -15)) == 2**20
    raw = zip_of((b"a", data, 8, zlib.crc32(bytes(10)), 10))
    refused(job, raw, "'a' is damaged")
    written = job.path / "a"
    assert not written.exists() or written.stat().st_size == 0


def zip_of(*members: tuple[bytes, bytes, int, int, int], local_name: bytes | None = None, flags: int = 0) -> bytes:
    """Write a zip file by hand: (name, packed data, method, crc, size)."""
    out, central = b"", b""
    for name, data, method, crc, size in members:
        said = local_name or name
        entry = struct.pack("<2H", 0x21, 0)[::-1]
        common = struct.pack("<3I", crc, len(data), size)
        central += struct.pack("<4s4H4s", b"PK\1\2", 20, 20, flags, method, entry) + common
        central += struct.pack("<5H2I", len(name), 0, 0, 0, 0, 0, len(out)) + name
        out += struct.pack("<4s3H4s", b"PK\3\4", 20, flags, method, entry) + common
        out += struct.pack("<2H", len(said), 0) + said + data
    count = len(members)
    return out + central + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(central), len(out), 0)


class EndlessTar(io.RawIOBase):
    """A tar archive of a million empty files, made as it is read."""

    def __init__(self) -> None:
        self.at = 0

    def readable(self) -> bool:
        return True

    def seek(self, at: int, whence: int = 0) -> int:
        assert whence == 0
        self.at = at
        return at

    def tell(self) -> int:
        return self.at

    def read(self, size: int = -1) -> bytes:
        assert size >= 0
        first, skip = divmod(self.at, 512)
        blocks = b"".join(
            header(TEMPLATE, 0, b"%07d" % n) for n in range(first, min(10**6, first + (skip + size + 511) // 512))
        )
        data = blocks[skip : skip + size]
        self.at += len(data)
        return data


TEMPLATE = tar(member("0000000"))[:512]


def test_10_a_million_members() -> None:
    with tarfile.open(fileobj=EndlessTar(), mode="r:") as archive:
        assert sum(1 for _, _ in zip(range(5_001), archive, strict=False)) == 5_001
    with pytest.raises(TooLargeError, match="more than 5000 files"):
        inspect(EndlessTar(), ArchiveLimits(max_members=5_000))
    with pytest.raises(TooLargeError, match="more than 100000 files"):
        inspect(EndlessTar(), ArchiveLimits())


def test_10_directories_that_names_imply_count_too(job: JobDir) -> None:
    raw = tar(*(member("/".join([f"{n}"] + ["d"] * 40), b"") for n in range(30)))
    assert len(names_in(raw)) == 30
    with pytest.raises(TooLargeError, match="more than 1000 files"):
        job.unpack(raw, limits=ArchiveLimits(max_members=1000))


def test_11_duplicate_names(job: JobDir, victim: Path) -> None:
    raw = tar(member("main.py", b"good"), member("./main.py", b"evil"))
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        first = archive.extractfile("main.py")
        assert first is not None
        assert first.read() == b"good"
    unprotected(raw, victim)
    assert (victim / "main.py").read_bytes() == b"evil"
    refused(job, raw, "'main.py' is in the archive twice")


@pytest.mark.parametrize("order", [1, -1])
def test_12_a_file_and_a_directory_of_one_name(job: JobDir, victim: Path, order: int) -> None:
    raw = tar(*[member("a", b"x"), member("a/b", b"x")][::order])
    with pytest.raises(OSError, match="a"):
        unprotected(raw, victim)
    refused(job, raw, "'a' is in the archive as a file and as a directory")


def test_13_names_that_are_equal_after_normalisation(job: JobDir, victim: Path) -> None:
    names = [unicodedata.normalize(form, "é.txt") for form in ("NFC", "NFD")]
    raw = tar(*(member(name, b"x") for name in names))
    unprotected(raw, victim)
    assert len({unicodedata.normalize("NFC", p.name) for p in victim.iterdir()}) < len(list(victim.iterdir()))
    refused(job, raw, "differ only in how Unicode writes them")
    refused(job, tar(*(member(name[:-4] + "/" + name, b"x") for name in names)), "differ only")


def test_14_nul_and_newline_in_a_name(job: JobDir, victim: Path) -> None:
    raw = header(tar(member("x" * 12, b"x")), 0, b"evil.py\0.png")
    assert names_in(raw) == ["evil.py"]
    refused(job, raw, "NUL")
    raw = tar(member("a\nINFO: all is well", b"x"))
    unprotected(raw, victim)
    assert any("\n" in p.name for p in victim.iterdir())
    refused(job, raw, "control character")
    refused(job, tar(member("a\0b", b"x"), form=tarfile.PAX_FORMAT), "control character|NUL")
    for name in ("a\x1b[2J", "a\x7f", "a\x85"):
        refused(job, tar(member(name, b"x"), form=tarfile.PAX_FORMAT), "control character")


def test_15_names_that_are_too_long(job: JobDir, victim: Path) -> None:
    raw = tar(member("first", b"x"), member("n" * 300, b"x"))
    with pytest.raises(OSError, match="too long"):
        unprotected(raw, victim)
    assert (victim / "first").exists()  # half of it was unpacked
    refused(job, raw, "longer than 255 bytes")
    refused(job, tar(member("d/" * 2500 + "f", b"x")), "longer than|at most 4096")
    refused(job, tar(member("d/" * 2500 + "f", b"x"), form=tarfile.PAX_FORMAT), "longer than 4095 bytes")


def test_15_the_longest_path_works(job: JobDir) -> None:
    path = "/".join(["d" * 254] * 16)[:4095]
    assert len(path) > 4000
    assert list(job.unpack(tar(member(path, b"x"), form=tarfile.PAX_FORMAT)).files) == [path]


def test_16_names_that_are_not_utf_8(job: JobDir, victim: Path) -> None:
    raw = header(tar(member("xxx", b"x")), 0, b"\xff\xfe\xfd")
    unprotected(raw, victim)
    assert [os.fsencode(p.name) for p in victim.iterdir()] == [b"\xff\xfe\xfd"]
    refused(job, raw, "not valid UTF-8")
    refused(job, zip_of((b"\xff", b"", 0, 0, 0)), "not valid UTF-8")


def test_17_a_huge_pax_header(job: JobDir) -> None:
    raw = tar(member("a", b"x", pax_headers={"comment": "c" * (20 * 2**20)}), form=tarfile.PAX_FORMAT)
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        assert len(archive.getmembers()[0].pax_headers["comment"]) == 20 * 2**20
    tracemalloc.start()
    refused(job, raw, "an extended header of 20971")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_18_negative_and_absurd_sizes(job: JobDir) -> None:
    raw = tar(member("a", b"x"))
    negative = header(raw, 124, struct.pack(">Bxxxq", 0xFF, -512)[:12].replace(b"\0\0\0", b"\xff\xff\xff"))
    assert tarfile.TarInfo.frombuf(negative[:512], "utf-8", "strict").size < 0
    refused(job, negative, "negative size")
    refused(job, header(raw, 124, b"\x80" + b"\xff" * 11), "more than", TooLargeError)
    refused(job, header(raw, 124, b"-0000000001\0"), "no number")
    pax = tar(member("a", b"x", pax_headers={"size": "-5"}), form=tarfile.PAX_FORMAT)
    refused(job, pax, "wrong size")


def test_18_zip_offsets(job: JobDir) -> None:
    raw = zip_of((b"a", b"x", 0, zlib.crc32(b"x"), 1))
    assert list(inspect(io.BytesIO(raw), LIMITS).sizes) == ["a"]
    wrong = {  # places in the end record, from behind
        -6: struct.pack("<I", 2**31),  # where the directory begins
        -10: struct.pack("<I", 2**31),  # its size
        -14: struct.pack("<2H", 7, 7),  # its members
    }
    for at, value in wrong.items():
        refused(job, raw[:at] + value + raw[at + 4 :], "zip")
    central = raw.index(b"PK\1\2")
    refused(job, raw[: central + 42] + struct.pack("<I", 2**31) + raw[central + 46 :], "unaccounted bytes")


def test_18_zip64_that_lies(job: JobDir) -> None:
    """The central directory defers to a zip64 field that is missing, too short, or says 2^63."""
    raw = zip_of((b"a", b"x", 0, zlib.crc32(b"x"), 1))
    central = raw.index(b"PK\1\2")
    deferred = raw[: central + 24] + b"\xff" * 4 + raw[central + 28 :]
    refused(job, deferred, "zip64 sizes of 'a' are missing")


def test_19_directories_without_permissions(job: JobDir) -> None:
    raw = tar(member("d", type=tarfile.DIRTYPE, mode=0), member("d/f", b"x", mode=0))
    job.unpack(raw)
    assert stat.S_IMODE((job.path / "d").stat().st_mode) == 0o755

    def lock() -> None:
        os.chmod("d", 0, dir_fd=job.fd)
        with pytest.raises(PermissionError):
            shutil.rmtree("d", dir_fd=job.fd)

    job.call(lock)
    job.call(wipe, job.fd)
    assert list(job.path.iterdir()) == []


def test_20_truncated(job: JobDir) -> None:
    raw = tar(member("a", b"x" * 600), member("b", b"y"))
    cut = raw[: 512 + 1024]
    assert names_in(cut) == ["a"]
    refused(job, cut, "truncated")
    whole = 512 + 1024 + 1024 + 1024
    for end in (1, 511, 512, 700, 1536, 2048, 2560, 3072, whole - 1):
        with pytest.raises(BadArchiveError):
            inspect(io.BytesIO(raw[:end]), LIMITS)
    assert len(inspect(io.BytesIO(raw[:whole]), LIMITS).sizes) == 2
    for packed in (gzip.compress(raw), zstandard.compress(raw), zstd_with_checksum(raw), zip_with("a", raw)):
        for end in range(1, len(packed)):
            with pytest.raises(BadArchiveError):
                inspect(io.BytesIO(packed[:end]), LIMITS)


def test_20_truncated_in_the_padding() -> None:
    """Where the tar archive is whole already, and only its compression is cut."""
    raw = tar(member("a", b"x")) + bytes(300_000)
    for packed in (zstandard.compress(raw), zstd_with_checksum(raw), gzip.compress(raw)):
        for end in range(len(packed) - 12, len(packed)):
            with pytest.raises(BadArchiveError):
                inspect(io.BytesIO(packed[:end]), LIMITS)


def test_20_a_zip_whose_data_was_changed(job: JobDir) -> None:
    raw = zip_of((b"a", b"good", 0, zlib.crc32(b"good"), 4))
    assert list(inspect(io.BytesIO(raw), LIMITS).sizes) == ["a"]
    refused(job, raw.replace(b"good", b"evil"), "'a' is damaged")


def zstd_with_checksum(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(raw)


def zip_with(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return out.getvalue()


def test_20_concatenated_and_trailing(job: JobDir) -> None:
    one, two = tar(member("a", b"1")), tar(member("b", b"2"))
    assert names_in(one + two) == ["a"]  # the second is hidden from it
    zipped = zip_with("b", b"2")
    hidden = [one + two, one + b"junk", gzip.compress(one) + gzip.compress(two), gzip.compress(one) + b"junk"]
    hidden += [gzip.compress(one + two), zstandard.compress(one) + zstandard.compress(two)]
    hidden += [zstandard.compress(one) + b"junk", zipped + b"junk", zipped + zip_with("a", b"1"), one + zipped]
    for raw in hidden:
        refused(job, raw, "bytes follow|goes on behind|unaccounted|whole zip|wrong place|zstd stream is damaged")
    assert len(inspect(io.BytesIO(one + bytes(100_000)), LIMITS).sizes) == 1


def test_20_zip_headers_that_contradict_each_other(job: JobDir) -> None:
    raw = zip_of((b"good.py", b"x", 0, zlib.crc32(b"x"), 1), local_name=b"evil.py")
    assert zipfile.ZipFile(io.BytesIO(raw)).namelist() == ["good.py"]
    assert b"evil.py" in raw
    refused(job, raw, "two headers of 'good.py' contradict")


def test_20_zip_members_that_overlap(job: JobDir) -> None:
    """Two directory entries of one local header: a bomb that counts its data twice."""
    raw = zip_of((b"a", b"x", 0, zlib.crc32(b"x"), 1), (b"b", b"y", 0, zlib.crc32(b"y"), 1))
    second = raw.rindex(b"PK\1\2")
    overlapping = raw[: second + 42] + bytes(4) + raw[second + 46 :]
    assert len(zipfile.ZipFile(io.BytesIO(overlapping)).infolist()) == 2
    refused(job, overlapping, "overlaps")


def test_20_an_encrypted_zip(job: JobDir) -> None:
    raw = zip_of((b"a", b"x", 0, zlib.crc32(b"x"), 1), flags=1)
    assert zipfile.ZipFile(io.BytesIO(raw)).infolist()[0].flag_bits & 1
    refused(job, raw, "'a' is encrypted")
