"""The disk that a worker's jobs share: what is offered, what is there, and who is ended when it runs out unseen."""

import os
from pathlib import Path

import msgspec
import pytest

from trusted_pool.core.request import Capacity
from trusted_pool.protocol.errors import BusyError, PoolError
from trusted_pool.protocol.manifest import Resolved
from trusted_pool.sandbox.fake import FakeSandbox, Play
from trusted_pool.sandbox.policy import MB
from trusted_pool.sandbox.room import Room
from trusted_pool.worker.slots import Slots


class Job:
    """Takes note of its end."""

    def __init__(self) -> None:
        self.words = ""

    def over_room(self, seen: int, words: str) -> None:
        assert seen > 0
        self.words = words


class Measured(FakeSandbox):
    """Its disk is as full as the test says."""

    there = 100_000

    def disk_there_mb(self) -> int:
        return self.there


def resolved(disk_mb: int) -> Resolved:
    return msgspec.convert({"entrypoint": "main.py", "interpreter": "python3", "disk_mb": disk_mb}, Resolved)


def test_a_full_disk_is_later_and_only_a_small_one_is_never():
    sandbox = Measured(lambda *_: Play())
    capacity = Capacity(slots=3, disk_mb=100_000, interpreters={"python3": "3"}, isolation=3)
    slots = Slots(capacity, "w", sandbox)
    with pytest.raises(PoolError) as never:
        slots.promise(slots.take(), resolved(100_001))
    assert (never.value.status, never.value.code) == (422, "unplaceable")
    sandbox.there = 3000
    with pytest.raises(BusyError) as later:
        slots.promise(1, resolved(4000))
    assert later.value.status == 429
    slots.promise(1, resolved(2000))
    with pytest.raises(BusyError, match="1000 of 100000 MB"):
        slots.promise(2, resolved(2000))
    slots.give_back(1)
    slots.promise(2, resolved(2000))


def test_what_is_offered_does_not_depend_on_how_full_the_disk_is(tmp_path: Path):
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        room = Room(directory)
        found = os.statvfs(tmp_path)
        total = found.f_blocks * found.f_frsize
        assert room.offered_mb == (total - min(total // 20, 512 * MB)) // MB
        before = room.there_mb()
        account = room.enter(Job(), 16 * MB)
        account.explained = 64 * MB
        assert room.there_mb() >= before + 32  # others write to this disk too
        room.leave(account)
    finally:
        os.close(directory)


def test_the_job_with_most_unseen_is_ended_and_one_at_a_time(tmp_path: Path):
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        room = Room(directory)
        jobs = [Job() for _ in range(4)]
        accounts = [room.enter(job, 16 * MB) for job in jobs]
        for account, before in zip(accounts, (900, 800, 900, 900), strict=True):
            account.free_before = before * MB
        blind, smaller, open_book, roomy = accounts
        blind.unseen = smaller.unseen = roomy.unseen = True
        roomy.limit = 2000 * MB
        open_book.explained = 100 * MB
        room.judge(room.reserve)
        assert not any(job.words for job in jobs)
        room.reserve, free = 512 * MB, 500 * MB
        room.judge(free)
        assert [bool(job.words) for job in jobs] == [True, False, False, False]
        assert jobs[0].words.startswith("300 MB of the worker's disk")
        assert "2 jobs may hold them and cannot be told apart" in jobs[0].words
        room.judge(free)  # what the first one held is not free yet
        assert not jobs[1].words
        room.leave(blind)
        room.judge(free)
        assert [bool(job.words) for job in jobs] == [True, True, False, False]
    finally:
        os.close(directory)
