"""Whatever is packed comes out again; whatever the bytes, errors are typed; nothing appears outside."""

import contextlib
import gzip
import io
import os
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trusted_pool.core.job import InputFile
from trusted_pool.protocol.archive import ArchiveLimits, Entry, read_archive
from trusted_pool.protocol.errors import PoolError
from trusted_pool.sandbox.unpack import unpack

LIMITS = ArchiveLimits(max_bytes=10**6, max_members=1000)
Files = dict[str, tuple[bytes, bool]]


def in_tar(files: Files, form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, (data, executable) in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755 if executable else 0o644
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def in_zip(files: Files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number, (name, (data, executable)) in enumerate(files.items()):
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o100755 if executable else 0o100644) << 16
            archive.writestr(info, data, (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED)[number % 2])
    return out.getvalue()


FORMATS: dict[str, Callable[[Files], bytes]] = {
    ".tar": lambda files: in_tar(files, tarfile.GNU_FORMAT),
    "pax.tar": lambda files: in_tar(files, tarfile.PAX_FORMAT),
    ".tar.gz": lambda files: gzip.compress(in_tar(files, tarfile.PAX_FORMAT)),
    ".tar.zst": lambda files: zstandard.compress(in_tar(files, tarfile.GNU_FORMAT)),
    ".zip": in_zip,
}

COMPONENT = (
    st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\"), min_size=1, max_size=60)
    .filter(lambda name: name not in (".", "..") and len(name.encode()) <= 255)
    .map(lambda name: unicodedata.normalize("NFC", name))
    .filter(lambda name: "/" not in name)
)
PATH = st.lists(COMPONENT, min_size=1, max_size=4).map("/".join)
FILES = st.dictionaries(PATH, st.tuples(st.binary(max_size=2000), st.booleans()), max_size=8)


def compatible(files: Files) -> bool:
    """No file is a directory of another."""
    return not any(other.startswith(path + "/") for path in files for other in files)


@pytest.mark.parametrize("form", FORMATS)
@given(files=FILES)
def test_whatever_is_packed_comes_out_again(form: str, files: Files) -> None:
    assume(compatible(files))
    raw = FORMATS[form](files)
    read = {e.path: (b"".join(e.chunks), e.executable) for e in read_archive(io.BytesIO(raw), LIMITS)}
    assert read == files
    with tempfile.TemporaryDirectory() as name:
        fd = os.open(name, os.O_RDONLY)
        done = unpack(fd, [(InputFile(name="a" + form, size=len(raw), sha256=""), io.BytesIO(raw))], LIMITS)
        os.close(fd)
        for path, (data, executable) in files.items():
            file = Path(name) / path
            assert file.read_bytes() == data
            assert bool(file.stat().st_mode & 0o111) == executable
            assert done.files[path].size == len(data)


SAMPLE: Files = {
    "main.py": (b"print(1)\n" * 20, True),
    "data/" + "n" * 150: (bytes(range(256)) * 4, False),
    "data/é": (b"", False),
}


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=300)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 6), st.binary(max_size=6)), min_size=1, max_size=3
    ),
    compressed=st.booleans(),
)
def test_any_damage_is_a_typed_error_and_stays_inside(
    form: str, changes: list[tuple[int, int, bytes]], compressed: bool
) -> None:
    """Damage to the inner tar as well, since a compressed one seldom lets any through."""
    raw = FORMATS[form](SAMPLE) if compressed else in_tar(SAMPLE, tarfile.PAX_FORMAT)
    for at, old, new in changes:
        place = at % (len(raw) + 1)
        raw = raw[:place] + new + raw[place + old :]
    if not compressed and form == ".tar.gz":
        raw = gzip.compress(raw, 1)
    with tempfile.TemporaryDirectory() as name:
        job = Path(name) / "job"
        job.mkdir()
        fd = os.open(job, os.O_RDONLY)
        try:
            unpack(fd, [(InputFile(name="a" + form, size=len(raw), sha256=""), io.BytesIO(raw))], LIMITS)
        except PoolError as error:
            status = error.status
        else:
            status = 400
        finally:
            os.close(fd)
        assert 400 <= status < 500
        assert [path.name for path in Path(name).iterdir()] == ["job"]
        assert all(path.is_dir() or path.is_file() for path in job.rglob("*"))


@given(st.binary(max_size=2000), st.sampled_from([b"", b"\x1f\x8b\x08\0", b"PK\3\4", b"PK\5\6", b"\x28\xb5\x2f\xfd"]))
def test_any_bytes_at_all(raw: bytes, magic: bytes) -> None:
    entries: list[Entry] = []
    with contextlib.suppress(PoolError):
        entries += read_archive(io.BytesIO(magic + raw), LIMITS)
    assert entries == []
