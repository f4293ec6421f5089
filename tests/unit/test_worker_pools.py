"""Whom a worker serves: listed, enrolled, forgotten; and which coordinator of a pool is the newest."""

import asyncio
import logging
import os
import stat
import string
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from trusted_pool.journal.memory import MemoryJournal
from trusted_pool.protocol.errors import ForbiddenError, StaleEpochError
from trusted_pool.protocol.identity import identity_of
from trusted_pool.worker.enrolment import EnrolmentError, NotEnrolledError, PoolFile
from trusted_pool.worker.pool_list import MAX_BYTES, PoolList, PoolListError, parse
from trusted_pool.worker.pool_watch import PoolWatch
from trusted_pool.worker.pools import Pools

IDS = [identity_of(Ed25519PrivateKey.generate()) for _ in range(6)]
A, B, C, *_ = IDS
SMALL_ORDER = "A" * 43 + "="
_ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
#: Says the same 32 bytes as an id does: its last digit holds two bits that nobody reads.
NOT_CANONICAL = A[:42] + _ALPHABET[_ALPHABET.index(A[42]) + 1] + "="


def pools_of(tmp_path: Path, **how: object) -> Pools:
    return Pools(enrolment=PoolFile(tmp_path / "worker.pem"), journal=MemoryJournal("j"), **how)  # type: ignore[arg-type]


def refused(pools: Pools, pool_id: str | None) -> str:
    with pytest.raises(ForbiddenError) as caught:
        pools.admit(pool_id)
    return caught.value.hint


def test_the_first_pool_is_enrolled_and_no_other(tmp_path: Path):
    pools = pools_of(tmp_path)
    assert pools.admit(A) == A
    hint = refused(pools, B)
    assert f"tpool worker --pool {B}" in hint
    assert f"tpool worker --forget-pool --worker-key {tmp_path}/worker.pem" in hint
    refused(pools, None)
    assert f"--pool {B}" in refused(pools_of(tmp_path), B), "after a restart"
    listed = pools_of(tmp_path, listed=(B,))
    assert listed.admit(B) == B
    assert f"tpool worker --pool {B} --pool {A}" in refused(listed, A)


def test_a_hint_stays_short_enough_to_be_shown(tmp_path: Path):
    pools = pools_of(tmp_path, listed=IDS[1:])
    assert refused(pools, A).endswith(f"--pool {A}")
    assert len(refused(pools, A)) < 400


def test_a_listed_pool_is_in_and_who_is_not_is_told_what_to_type(tmp_path: Path):
    path = tmp_path / "pools of mine"
    path.write_text(f"# mine\n\n{A}  # the first\n{B}")  # without an end of the last line, as editors may leave it
    pools = pools_of(tmp_path, listed=(C,), pool_list=PoolList(path))
    assert [pools.admit(pool_id) for pool_id in (A, B, C)] == [A, B, C]
    hint = refused(pools, IDS[3])
    command = hint.removeprefix("on the worker's machine type: ")
    assert os.system(command) == 0  # noqa: S605 - what the hint says must work as it stands
    pools.relist(PoolList(path).read())
    assert pools.admit(IDS[3]) == IDS[3]
    assert not (tmp_path / "worker.pem.pool").exists(), "nobody is enrolled where there is a list"


def test_an_empty_list_lets_nobody_in_and_enrols_nobody(tmp_path: Path):
    path = tmp_path / "pools"
    path.write_text("# nobody yet\n")
    refused(pools_of(tmp_path, pool_list=PoolList(path)), A)
    assert not (tmp_path / "worker.pem.pool").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (SMALL_ORDER, "small or mixed order"),
        (NOT_CANONICAL, "not canonical base64"),
        (A[:-1], "standard base64"),
        (A + "=", "base64"),
        (A[:40], "32"),
        (f"{A} {B}", "base64"),
        ("ü", "base64"),
        ("\ufeff" + A, "base64"),
    ],
)
def test_a_line_that_is_no_id_is_named(line: str, words: str):
    with pytest.raises(PoolListError, match=r"pools: line 2: .* is no pool id: .*--show-id") as caught:
        parse(f"{B}\n{line}\n{C}\n".encode(), "pools")
    assert words in str(caught.value)
    assert parse(f"{B}\n{A}\n{C}\n".encode(), "pools") == {A, B, C}, "the control"


@given(raw=st.binary(max_size=300))
def test_any_bytes_are_a_list_or_a_typed_error(raw: bytes):
    try:
        ids = parse(raw, "pools")
    except PoolListError as error:
        said = str(error)
    else:
        assert ids == frozenset()
        return
    assert said.isprintable()


_NOISE = st.sampled_from(["", "  ", "#", "# a comment with " + A, "\t#" + B])


@given(lines=st.lists(st.tuples(st.sampled_from(IDS), _NOISE), max_size=6), end=st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_is_read(lines: list[tuple[str, str]], end: str):
    text = end.join(f"{noise}{end} {pool_id} {noise}" for pool_id, noise in lines)
    assert parse(text.encode(), "pools") == {pool_id for pool_id, _ in lines}


def test_a_list_is_bounded(tmp_path: Path):
    path = tmp_path / "pools"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(PoolListError, match="larger"):
        PoolList(path).read()


async def looks(watch: PoolWatch, pool_list: PoolList, n: int = 2, *, told: bool = False) -> None:
    for _ in range(n):
        await watch._look(pool_list, told=told)


def test_a_changed_list_is_read_when_it_has_settled_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "pools"
    path.write_text(f"{A}\n{B}\n")
    pool_list = PoolList(path)
    pools = pools_of(tmp_path, pool_list=pool_list)
    out: list[str] = []
    pools.on_out.append(out.append)
    watch = PoolWatch(pools, pool_list, PoolFile(tmp_path / "worker.pem"))

    async def play() -> None:
        await looks(watch, pool_list)
        assert caplog.messages == [], "nothing changed"
        path.write_text("")  # as an editor does before it writes
        await looks(watch, pool_list, 1)
        path.write_text(f"{A}\n{C}\n")
        await looks(watch, pool_list, 1)
        assert out == [], "what is being written is not read"
        await looks(watch, pool_list, 1)
        assert out == [B]
        assert (pools.admit(A), pools.admit(C)) == (A, C)
        refused(pools, B)
        assert f"{C} is in, {B} is out" in caplog.text

        caplog.clear()
        path.write_text(f"{A}\nnonsense\n")
        await looks(watch, pool_list, 5)
        assert pools.admit(C) == C
        path.unlink()
        await looks(watch, pool_list, 5)
        assert pools.admit(C) == C
        errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
        assert len(errors) == 2, "each is said once"
        assert "line 2: 'nonsense' is no pool id" in errors[0]
        assert "cannot be read" in errors[1]
        assert all(error.endswith("the pools stay as they were") for error in errors)

        path.write_text(f"{A}\n")
        await looks(watch, pool_list)
        assert out == [B, C]
        path.write_text("# nobody\n")
        await looks(watch, pool_list, 1, told=True)  # who is told reads at once
        assert out == [B, C, A]

    asyncio.run(play())


def test_a_list_is_watched_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("trusted_pool.worker.pool_watch.LOOK_S", 0.01)
    path = tmp_path / "pools"
    path.write_text(f"{A}\n")
    pools = pools_of(tmp_path, pool_list=PoolList(path))
    watch = PoolWatch(pools, PoolList(path), PoolFile(tmp_path / "worker.pem"))

    async def play() -> None:
        watching = asyncio.create_task(watch.run())
        gone, came = asyncio.Event(), asyncio.Event()
        pools.on_out.append(lambda pool_id: gone.set() if pool_id == A else came.set())

        def stumbles(_pool_id: str) -> None:
            raise RuntimeError("whatever it is")

        pools.on_out.append(stumbles)
        async with asyncio.timeout(10):
            path.write_text(f"{B}\n")
            await gone.wait()
            path.write_text(f"{C}\n")
            await came.wait()
        watching.cancel()

    asyncio.run(play())


def test_a_lower_epoch_is_refused_also_after_a_restart(tmp_path: Path):
    async def play() -> None:
        journal = MemoryJournal("j")
        pools = Pools(anyone=True, enrolment=PoolFile(tmp_path / "k"), journal=journal)
        newer: list[tuple[str, int]] = []
        pools.on_newer.append(lambda *news: newer.append(news))
        await pools.check_epoch("a", 5)
        await pools.check_epoch("b", 1)
        with pytest.raises(StaleEpochError, match="its epoch 5 is newer than 4"):
            await pools.check_epoch("a", 4)
        with pytest.raises(StaleEpochError):
            pools.check("a", 4)
        pools.check("a", 5)
        again = Pools(anyone=True, enrolment=PoolFile(tmp_path / "k"), journal=journal.crash())
        again.on_newer.append(lambda *news: newer.append(news))
        with pytest.raises(StaleEpochError):
            await again.check_epoch("a", 4)
        await again.check_epoch("a", 5)
        await again.check_epoch("a", 7)
        assert newer == [("a", 5), ("b", 1), ("a", 7)]

    asyncio.run(play())


def test_an_enrolment_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(fd: int) -> None:
        kind = "directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
        if kind == "file":
            assert (tmp_path / "worker.pem.pool.new").read_text() == A + "\n"
        done.append(kind)
        fsync(fd)

    def renamed(self: Path, target: Path) -> Path:
        done.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    file = PoolFile(tmp_path / "worker.pem")
    assert file.load() is None
    file.save(A)
    assert done == ["file", "rename", "directory"]
    assert file.load() == A
    assert (tmp_path / "worker.pem.pool").stat().st_mode & 0o777 == 0o600
    (tmp_path / "worker.pem.pool").write_text("nonsense")
    with pytest.raises(EnrolmentError, match="delete it: tpool worker --forget-pool"):
        file.load()


def test_an_enrolment_is_forgotten_durably_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = PoolFile(tmp_path / "worker.pem")
    with pytest.raises(NotEnrolledError, match=f"there is no {tmp_path}/worker.pem.pool"):
        file.forget()
    file.save(A)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    assert file.forget() == A
    assert len(synced) == 1
    assert (file.load(), file.is_there()) == (None, False)
    (tmp_path / "worker.pem.pool").write_text("nonsense")
    assert file.forget() is None
    with pytest.raises(NotEnrolledError):
        file.forget()


def test_a_running_worker_that_forgets_a_pool_takes_the_next_other_one(tmp_path: Path):
    file = PoolFile(tmp_path / "worker.pem")
    pools = pools_of(tmp_path)
    watch = PoolWatch(pools, None, file)
    out: list[str] = []
    pools.on_out.append(out.append)

    async def play() -> None:
        await watch._look_for_enrolment()
        pools.admit(A)
        await watch._look_for_enrolment()
        assert (out, pools.enrolled) == ([], A)
        file.forget()
        await watch._look_for_enrolment()
        assert out == [A]
        assert f"tpool worker --pool {A}" in refused(pools, A), "it would be the first again at once"
        assert pools.admit(B) == B
        assert file.load() == B
        await watch._look_for_enrolment()
        assert pools.enrolled == B
        refused(pools, A)

    asyncio.run(play())
    assert pools_of(tmp_path).admit(B) == B
