"""Packing: the same tree gives the same bytes; what must not travel does not; what cannot is named."""

import gzip
import io
import os
import socket
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trusted_pool.client.errors import PackError
from trusted_pool.client.pack import Limits, Pack, pack


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def packed_bytes(root: Path) -> bytes:
    packed = pack(root)
    with packed.file:
        return packed.file.read()


def names(root: Path) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(packed_bytes(root))) as tar:
        return [m.name + ("/" if m.isdir() else "") for m in tar.getmembers()]


def test_the_same_tree_gives_the_same_bytes_whenever_and_in_whatever_order_it_was_made(tmp_path: Path) -> None:
    files = {"main.py": "print(1)", "lib/b.py": "b", "lib/a.py": "a", "ü.txt": "u"}
    one = plant(tmp_path / "one", files)
    two = plant(tmp_path / "two", dict(reversed(files.items())))
    for path in two.rglob("*"):
        os.utime(path, (1, 1))
    (two / "main.py").chmod(0o600)
    assert packed_bytes(one) == packed_bytes(two)
    (two / "main.py").chmod(0o700)
    assert packed_bytes(one) != packed_bytes(two), "the executable bit travels"


def test_headers_hold_no_time_owner_or_other_modes(tmp_path: Path) -> None:
    root = plant(tmp_path / "p", {"run.sh": "x", "d/data": "y"})
    (root / "run.sh").chmod(0o4775)
    data = packed_bytes(root)
    assert data[4:8] == b"\0\0\0\0", "gzip's time"
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {m.name: m for m in tar.getmembers()}
    assert {n: m.mode for n, m in members.items()} == {"d": 0o755, "d/data": 0o644, "run.sh": 0o755}
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members.values()} == {(0, 0, 0, "", "")}


def test_git_caches_and_environments_are_never_packed(tmp_path: Path) -> None:
    kept = {"main.py": "", "sub/x.py": ""}
    left = [".git/config", ".venv/bin/python", "sub/__pycache__/x.pyc", "node_modules/m/i.js", "tpool-outputs/j/f"]
    root = plant(tmp_path, kept | dict.fromkeys(left, ""))
    packed = pack(root)
    packed.file.close()
    assert names(root) == ["main.py", "sub/", "sub/x.py"]
    assert (packed.n_files, packed.n_skipped) == (2, 5)


def test_ignore_files_are_read_as_git_reads_them_nested_and_ours_wins(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        {
            ".gitignore": "*.log\n!keep.log\n/build/\n*.bin\n",
            "a.log": "",
            "keep.log": "",
            "build/x": "",
            "sub/build/x": "",
            "sub/.gitignore": "!*.log\nlocal.txt\n",
            "sub/b.log": "",
            "sub/local.txt": "",
            "local.txt": "",
            ".tpoolignore": "secret*\n!model.bin\n",
            "secret.key": "",
            "model.bin": "",
            "other.bin": "",
        },
    )
    assert names(root) == [
        ".gitignore",
        ".tpoolignore",
        "keep.log",
        "local.txt",
        "model.bin",
        "sub/",
        "sub/.gitignore",
        "sub/b.log",
        "sub/build/",
        "sub/build/x",
    ]


def test_a_link_to_a_file_inside_is_packed_as_that_file(tmp_path: Path) -> None:
    root = plant(tmp_path, {"real.txt": "content"})
    (root / "link.txt").symlink_to("real.txt")
    with tarfile.open(fileobj=io.BytesIO(packed_bytes(root))) as tar:
        member = tar.getmember("link.txt")
        file = tar.extractfile(member)
        assert member.isreg()
        assert file is not None
        assert file.read() == b"content"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/etc/passwd", "outside"),
        ("../elsewhere", "outside"),
        ("nothing", "nowhere"),
        ("d", "no file"),
        ("l", "nowhere"),
    ],
)
def test_other_links_are_refused_by_name(tmp_path: Path, target: str, words: str) -> None:
    (tmp_path / "elsewhere").write_text("secret")
    root = plant(tmp_path / "p", {"d/x": "", "main.py": ""})
    (root / "l").symlink_to(target)
    with pytest.raises(PackError, match=words) as caught:
        pack(root)
    assert str(root / "l") in caught.value.message
    assert ".tpoolignore" in caught.value.hint
    (root / ".tpoolignore").write_text("/l\n")
    assert "l" not in names(root)


def test_what_is_neither_file_nor_directory_is_refused_and_blocks_nobody(tmp_path: Path) -> None:
    root = plant(tmp_path, {"main.py": ""})
    os.mkfifo(root / "pipe")
    with pytest.raises(PackError, match="pipe is neither"):
        pack(root)
    (root / "pipe").unlink()
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(root)  # the names of sockets are short
        try:
            listener.bind("sock")
        finally:
            os.chdir(here)
        with pytest.raises(PackError, match="sock is neither"):
            pack(root)


def test_limits_are_kept(tmp_path: Path) -> None:
    root = plant(tmp_path, {"a": "x" * 100, "b": "x" * 100})
    with pytest.raises(PackError, match="more than 1 files"):
        pack(root, limits=Limits(files=1))
    with pytest.raises(PackError, match="larger than 199 bytes"):
        pack(root, limits=Limits(size=199))
    exactly = pack(root, limits=Limits(files=2, size=200))
    exactly.file.close()
    assert (exactly.n_files, exactly.unpacked_size) == (2, 200)


def test_nothing_to_send_is_said(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="no files to send"):
        pack(tmp_path)
    plant(tmp_path, {"x.log": "", ".gitignore": "*\n"})
    with pytest.raises(PackError, match="all are ignored"):
        pack(tmp_path)
    with pytest.raises(PackError, match="no directory"):
        pack(tmp_path / "x.log")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    root = plant(tmp_path, {"main.py": "", "locked": ""})
    (root / "locked").chmod(0)
    with pytest.raises(PackError, match="locked: Permission denied"):
        pack(root)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"new\nline"])
def test_names_that_no_worker_would_take_are_refused(tmp_path: Path, name: bytes) -> None:
    plant(tmp_path, {"main.py": ""})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text("")
    with pytest.raises(PackError, match="name"):
        pack(tmp_path)


def test_a_file_that_shrinks_while_it_is_packed_is_an_error_not_a_broken_archive(tmp_path: Path) -> None:
    root = plant(tmp_path, {"a": "a", "b": "x" * 1_000_000})

    def shrink(n_files: int, _size: int) -> None:
        if n_files == 1:
            os.truncate(root / "b", 0)

    # Shrunk before it is opened, it is simply packed as it is.
    packed = pack(root, on_progress=shrink)
    with packed.file:
        assert packed.unpacked_size == 1


def test_a_deep_tree_needs_no_deep_stack(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 1200)
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(1200):
            os.mkdir("d", dir_fd=here)
            deeper = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
        os.close(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    finally:
        os.close(here)
    try:
        assert f"{deep}/f" in names(tmp_path)
    finally:
        # pytest would stumble over it when it cleans up: Python 3.11's rmtree needs a deep stack.
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)


NAME = st.text("abcü.-_ ", min_size=1, max_size=6).filter(lambda n: n.strip(". ") and n not in (".", ".."))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(NAME, st.binary(max_size=300), min_size=1, max_size=6))
def test_what_is_packed_is_what_is_there(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for name, content in files.items():
            (root / name).write_bytes(content)
        packed: Pack = pack(root)
        with packed.file, gzip.open(packed.file) as zipped, tarfile.open(fileobj=zipped) as tar:
            found = {m.name: reader.read() for m in tar.getmembers() if (reader := tar.extractfile(m))}
        assert found == files
        assert packed.n_files == len(files)
