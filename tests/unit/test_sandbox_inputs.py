"""A job of very many files costs its worker one descriptor."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.archives import tar_gz
from trusted_pool.core.job import InputFile
from trusted_pool.ports.sandbox import Task
from trusted_pool.protocol.manifest import Resolved
from trusted_pool.sandbox import attempt
from trusted_pool.sandbox.interpreters import Interpreter
from trusted_pool.sandbox.owner import Owner

SOMEBODY = 65_534
NOBODY: Any = None  #: what unpacking does not look at


def open_now() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("spool_bytes", [1024 * 1024, 1000, 0])
@pytest.mark.parametrize("archived", [False, True])
def test_the_files_of_a_job_take_one_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spool_bytes: int, archived: bool
) -> None:
    monkeypatch.setattr(attempt, "_SPOOL_BYTES", spool_bytes)
    wanted = {"main.py": b"", **{f"f{n:03}": b"%d" % n * n for n in range(300)}}
    sent = {"x.tar.gz": tar_gz(wanted)} if archived else wanted
    descriptors: list[int] = []

    async def open_input(file: InputFile) -> AsyncIterator[bytes]:
        descriptors.append(open_now())
        yield sent[file.name][:7]
        yield sent[file.name][7:]

    (tmp_path / "job").mkdir()
    if os.geteuid() == 0:
        os.chown(tmp_path / "job", SOMEBODY, SOMEBODY)
    dir_fd = os.open(tmp_path / "job", os.O_RDONLY | os.O_DIRECTORY)
    manifest = msgspec.convert({"entrypoint": "main.py", "interpreter": "python3"}, Resolved)
    inputs = tuple(
        InputFile(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in sent.items()
    )
    task = Task(key="many", slot=0, manifest=manifest, inputs=inputs)
    interpreter = Interpreter(name="python3", path="/usr/bin/python3", version="3")
    one = attempt.Attempt(task, NOBODY, Owner(SOMEBODY if os.geteuid() == 0 else None), NOBODY, interpreter)
    try:
        unpacked = asyncio.run(one._unpack(dir_fd, tmp_path, open_input))
    finally:
        os.close(dir_fd)
    assert {path.name: path.read_bytes() for path in (tmp_path / "job").iterdir()} == wanted
    assert unpacked.size == sum(map(len, wanted.values()))
    assert max(descriptors) - descriptors[0] <= 1
