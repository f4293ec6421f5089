"""Which files of a job's directory are its outputs."""

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from trusted_pool.core.job import InputFile, OutputFile
from trusted_pool.protocol.archive import ArchiveLimits
from trusted_pool.sandbox.collect import OutputLimits, collect
from trusted_pool.sandbox.globs import Globs
from trusted_pool.sandbox.unpack import Stamp, unpack


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def fill(fd: int) -> dict[str, Stamp]:
    inputs = [
        (InputFile(name=name, size=3, sha256=""), io.BytesIO(b"abc"))
        for name in ("main.py", "data.csv", "d/same.txt", "d/changed.txt", "d/replaced.txt")
    ]
    return unpack(fd, inputs, ArchiveLimits()).files


def paths(fd: int, before: dict[str, Stamp], patterns: list[str] | None) -> list[str]:
    return [file.path for file in collect(fd, before, patterns, OutputLimits()).files]


def test_everything_new_or_changed(tmp_path: Path, folder: int) -> None:
    before = fill(folder)
    assert paths(folder, before, None) == []
    (tmp_path / "d" / "changed.txt").write_bytes(b"xyz")  # same size, at once
    (tmp_path / "other").write_bytes(b"abc")
    (tmp_path / "other").rename(tmp_path / "d" / "replaced.txt")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "out.png").write_bytes(b"png")
    (tmp_path / "results" / "tool").write_bytes(b"")
    (tmp_path / "results" / "tool").chmod(0o755)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "main.pyc").write_bytes(b"c")
    found = collect(folder, before, None, OutputLimits())
    assert [file.path for file in found.files] == ["d/changed.txt", "d/replaced.txt", "results/out.png", "results/tool"]
    assert found.files[2] == OutputFile(path="results/out.png", size=3, sha256=hashlib.sha256(b"png").hexdigest())
    assert found.files[3].executable
    assert (found.problems, found.reason, found.detail, found.unmatched) == ((), None, "", ())


def test_patterns_return_what_they_match_changed_or_not(folder: int) -> None:
    before = fill(folder)
    assert paths(folder, before, ["data.csv", "d/"]) == ["d/changed.txt", "d/replaced.txt", "d/same.txt", "data.csv"]
    assert paths(folder, before, ["*.py"]) == ["main.py"]
    assert paths(folder, before, []) == []
    found = collect(folder, before, ["*.py", "nothing", "*.png"], OutputLimits())
    assert found.unmatched == ("nothing", "*.png")
    assert found.reason is None


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("results/", ["results/a", "results/b/c"], ["results", "x/results/a", "results2/a"]),
        ("results", ["results", "results/a", "results/b/c"], ["resultsx", "x/results"]),
        ("*.png", ["a.png", ".png"], ["d/a.png", "a.pngx"]),
        ("logs/*.log", ["logs/a.log"], ["logs/d/a.log", "a.log"]),
        ("**", ["a", "a/b/c"], []),
        ("**/*.png", ["a.png", "a/b/c.png"], ["a.jpg"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["z", "a/b", "b/a/z"]),
        ("**/a/**/b", ["a/b", "x/a/y/b", "a/a/b"], ["b/a", "a/b/c"]),
        ("run-*/", ["run-1/a", "run-2/b/c"], ["run-1", "x/run-1/a"]),
        ("f[0-9]?", ["f1x", "f12"], ["fx1", "f1"]),
        ("a/b", ["a/b", "a/b/c"], ["a/bc", "a"]),
    ],
)
def test_what_patterns_mean(pattern: str, yes: list[str], no: list[str]) -> None:
    globs = Globs([pattern])
    assert [path for path in yes if not globs.matches(path)] == []
    assert [path for path in no if globs.matches(path)] == []
    for path in yes:
        parts = path.split("/")
        assert all(globs.lead_into("/".join(parts[:depth])) for depth in range(1, len(parts)))


def test_patterns_keep_the_walk_out_of_what_they_cannot_match() -> None:
    globs = Globs(["results/", "logs/*.log", "*.png"])
    assert globs.lead_into("results")
    assert globs.lead_into("logs")
    assert not globs.lead_into("node_modules")
    assert not globs.lead_into("logs/old")


def test_a_pattern_cannot_make_matching_slow() -> None:
    globs = Globs(["*a" * 40 + "b", "**/a/" * 40 + "b"])
    assert not globs.matches("a" * 255)
    assert not globs.matches("/".join(["a"] * 2000))


def test_both_spellings_of_a_directory_are_matched() -> None:
    globs = Globs(["r", "r/"])
    assert globs.matches("r/x")
    assert globs.unmatched == {}
