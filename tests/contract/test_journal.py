"""The contract of the Journal port, over SQLite and the fake."""

import asyncio
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trusted_pool.core.job import InputFile, Outcome, OutputFile
from trusted_pool.core.words import AttemptState, Reason
from trusted_pool.journal.memory import MemoryJournal
from trusted_pool.journal.sqlite import SqliteJournal
from trusted_pool.ports.journal import Change, Entry, Journal, JournalError

Reopen = Callable[[Journal], Awaitable[Journal]]
Scenario = Callable[[Journal, Reopen], Coroutine[Any, Any, None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=["sqlite", "memory"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Run a scenario with a new journal and the way to close and open it again."""

    async def reopen(journal: Journal) -> Journal:
        if isinstance(journal, MemoryJournal):
            return await journal.reopen()
        await journal.close()
        return SqliteJournal.open(tmp_path / "journal", journal_id="not taken")

    async def all_of(scenario: Scenario) -> None:
        if request.param == "memory":
            await scenario(MemoryJournal("first"), reopen)
            return
        journal = SqliteJournal.open(tmp_path / "journal", journal_id="first")
        try:
            await scenario(journal, reopen)
        finally:
            await journal.close()

    return lambda scenario: asyncio.run(all_of(scenario))


def entry(number: int = 1, **changes: object) -> Entry:
    made = Entry(
        remote_id=f"job-{number}",
        pool_id="pool",
        job_id=f"pool-{number:016x}",
        attempt=1,
        state=AttemptState.ACCEPTED,
        manifest='{"entrypoint":"main.py"}',
        inputs=(InputFile(name="a.tar.gz", size=3, sha256="0" * 64),),
        accepted_at=1000.5,
    )
    return msgspec.structs.replace(made, **changes)


def ended(number: int = 1) -> Entry:
    outcome = Outcome(
        reason=Reason.EXIT_CODE,
        exit_code=3,
        evidence={"peak": 1, "share": 0.5, "who": "kernel"},
        outputs=(OutputFile(path="a/ü", size=1, sha256="1" * 64, executable=True),),
    )
    return entry(number, state=AttemptState.ENDED, started_at=1001.0, ended_at=1002.25, outcome=outcome, cancelled=True)


def test_what_is_accepted_and_put_is_read_back(play: Play) -> None:
    async def scenario(journal: Journal, reopen: Reopen) -> None:
        assert await journal.entry("job-1") is None
        assert await journal.entries() == []
        assert await journal.accept(entry()) == entry()
        assert await journal.entry("job-1") == entry()
        assert await journal.put(ended()) == 0
        for _ in range(2):
            assert await journal.entry("job-1") == ended()
            assert await journal.entries() == [ended()]
            journal = await reopen(journal)
        await journal.close()

    play(scenario)


def test_accept_of_a_known_attempt_writes_nothing(play: Play) -> None:
    async def scenario(journal: Journal, _: Reopen) -> None:
        await journal.accept(entry())
        again = entry(remote_id="job-other", manifest="{}", accepted_at=2000.0)
        assert await journal.accept(again) == entry()
        await journal.put(ended())
        assert await journal.accept(again) == ended()
        assert await journal.entries() == [ended()]
        for other in (
            entry(2),
            entry(3, job_id=entry().job_id, attempt=2),
            entry(4, job_id=entry().job_id, pool_id="b"),
        ):
            assert await journal.accept(other) == other
        assert [e.remote_id for e in await journal.entries()] == ["job-1", "job-2", "job-3", "job-4"]

    play(scenario)


def test_accepts_of_one_attempt_at_once_give_one_entry(play: Play) -> None:
    async def scenario(journal: Journal, _: Reopen) -> None:
        wishes = [entry(remote_id=f"r{n}", accepted_at=float(n)) for n in range(40)]
        got = await asyncio.gather(*(journal.accept(wish) for wish in wishes))
        assert len({one.remote_id for one in got}) == 1
        assert await journal.entries() == [got[0]]
        assert got[0] in wishes

    play(scenario)


def test_a_remote_id_belongs_to_one_attempt(play: Play) -> None:
    async def scenario(journal: Journal, _: Reopen) -> None:
        await journal.accept(entry())
        results = await asyncio.gather(
            journal.accept(entry(2, remote_id="job-1")),
            journal.accept(entry(3)),  # a neighbour of the same transaction
            journal.put(entry(2, remote_id="job-1")),
            journal.put(entry(9)),
            journal.accept(entry(4)),
            return_exceptions=True,
        )
        assert [type(r) for r in results] == [JournalError, Entry, JournalError, JournalError, Entry]
        assert await journal.entries() == [entry(1), entry(3), entry(4)]
        assert await journal.seq() == 0

    play(scenario)


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "-a", "a\0", "a\n", "ä", "a" * 129])
def test_a_remote_id_must_be_fit_for_a_file_name(play: Play, name: str) -> None:
    async def scenario(journal: Journal, _: Reopen) -> None:
        with pytest.raises(JournalError, match="no remote id"):
            await journal.accept(entry(remote_id=name))
        with pytest.raises(JournalError):
            journal.append_log(name, b"x")
        assert await journal.read_log(name, 0, 10) == b""
        assert journal.log_size(name) == 0
        await journal.delete(name)
        assert await journal.entries() == []

    play(scenario)


def test_events_are_numbered_one_by_one_and_never_again(play: Play) -> None:
    async def scenario(journal: Journal, reopen: Reopen) -> None:
        assert await journal.seq() == 0
        for number in (1, 2, 3):
            await journal.accept(entry(number))
        running = [entry(n, state=AttemptState.RUNNING, started_at=1.0) for n in (1, 2, 3)]
        assert sorted(await asyncio.gather(*(journal.put(one, "started") for one in running))) == [1, 2, 3]
        assert await journal.put(ended(2), "ended") == 4
        assert await journal.put(ended(2)) == 4
        everything = list(await journal.changes(0))
        assert [change.seq for change in everything] == [1, 2, 3, 4]
        assert {(change.kind, change.remote_id) for change in everything[:3]} == {
            ("started", f"job-{n}") for n in (1, 2, 3)
        }
        assert everything[3] == Change(seq=4, kind="ended", remote_id="job-2")
        assert list(await journal.changes(2)) == everything[2:]
        assert list(await journal.changes(4)) == []
        await journal.delete("job-2")
        assert [c.seq for c in await journal.changes(0)] == [c.seq for c in everything if c.remote_id != "job-2"]
        await journal.delete("job-1")
        await journal.delete("job-3")
        for _ in range(2):
            assert list(await journal.changes(0)) == []
            assert await journal.seq() == 4
            journal = await reopen(journal)
        await journal.accept(entry(5))
        assert await journal.put(ended(5), "ended") == 5
        assert list(await journal.changes(0)) == [Change(seq=5, kind="ended", remote_id="job-5")]
        await journal.close()

    play(scenario)


def test_a_refused_put_takes_no_number(play: Play) -> None:
    async def scenario(journal: Journal, _: Reopen) -> None:
        await journal.accept(entry())
        results = await asyncio.gather(
            journal.put(entry(), "started"),
            journal.put(entry(7), "started"),
            journal.put(ended(), "ended"),
            return_exceptions=True,
        )
        assert (results[0], results[2]) == (1, 2)
        assert isinstance(results[1], JournalError)

    play(scenario)


def test_the_journal_keeps_its_id(play: Play) -> None:
    async def scenario(journal: Journal, reopen: Reopen) -> None:
        assert journal.journal_id == "first"
        await journal.accept(entry())
        await journal.delete("job-1")
        journal = await reopen(journal)
        assert journal.journal_id == "first"
        await journal.close()

    play(scenario)


def test_settings(play: Play) -> None:
    async def scenario(journal: Journal, reopen: Reopen) -> None:
        assert await journal.setting("pool") is None
        await journal.set_setting("pool", "a")
        await journal.set_setting("other", "")
        await journal.set_setting("pool", "b")
        await journal.set_setting("id", "mine")
        journal = await reopen(journal)
        assert [await journal.setting(name) for name in ("pool", "other", "id")] == ["b", "", "mine"]
        assert journal.journal_id == "first"
        await journal.set_setting("pool", None)
        await journal.set_setting("pool", None)
        assert await journal.setting("pool") is None
        await journal.close()

    play(scenario)


def test_logs(play: Play) -> None:
    async def scenario(journal: Journal, reopen: Reopen) -> None:
        await journal.accept(entry(1))
        await journal.accept(entry(2))
        assert journal.log_size("job-1") == 0
        assert await journal.read_log("job-1", 0, 100) == b""
        assert journal.append_log("job-1", b"one ") == 4
        assert journal.append_log("job-1", b"") == 4
        assert journal.append_log("job-2", b"other") == 5
        await journal.put(ended(1), "ended")
        assert journal.append_log("job-1", b"two") == 7
        for _ in range(2):
            assert journal.log_size("job-1") == 7
            assert await journal.read_log("job-1", 0, 100) == b"one two"
            assert await journal.read_log("job-1", 4, 2) == b"tw"
            assert await journal.read_log("job-1", 7, 10) == b""
            assert await journal.read_log("job-1", 99, 10) == b""
            journal = await reopen(journal)
        assert journal.append_log("job-2", b"!") == 6
        assert await journal.read_log("job-2", 0, 100) == b"other!"
        await journal.close()

    play(scenario)


def test_delete_forgets_all_of_an_entry(play: Play) -> None:
    async def scenario(journal: Journal, reopen: Reopen) -> None:
        await journal.accept(entry(1))
        await journal.accept(entry(2))
        journal.append_log("job-1", b"secret")
        journal.append_log("job-2", b"kept")
        for _ in range(2):
            await journal.delete("job-1")
            assert await journal.entry("job-1") is None
            assert journal.log_size("job-1") == 0
            assert await journal.read_log("job-1", 0, 10) == b""
        with pytest.raises(JournalError):
            journal.append_log("job-1", b"late")
        with pytest.raises(JournalError):
            await journal.put(ended(1), "ended")
        journal = await reopen(journal)
        assert await journal.entries() == [entry(2)]
        assert await journal.read_log("job-2", 0, 10) == b"kept"
        assert await journal.accept(entry(1, accepted_at=5.0)) == entry(1, accepted_at=5.0)
        assert await journal.read_log("job-1", 0, 10) == b""
        await journal.close()

    play(scenario)


def test_negative_places_in_a_log_are_mistakes(play: Play) -> None:
    async def scenario(journal: Journal, _: Reopen) -> None:
        await journal.accept(entry())
        for start, size in ((-1, 1), (0, -1)):
            with pytest.raises(ValueError, match="not negative"):
                await journal.read_log("job-1", start, size)

    play(scenario)


def test_a_closed_journal_says_so(play: Play) -> None:
    async def scenario(journal: Journal, _: Reopen) -> None:
        await journal.accept(entry())
        await asyncio.gather(journal.close(), journal.close())
        await journal.close()
        calls = (
            journal.accept(entry()),
            journal.put(entry()),
            journal.entry("job-1"),
            journal.entries(),
            journal.changes(0),
            journal.seq(),
            journal.delete("job-1"),
            journal.read_log("job-1", 0, 1),
            journal.setting("a"),
            journal.set_setting("a", "b"),
        )
        for doing in calls:
            with pytest.raises(JournalError, match="closed"):
                await doing
        with pytest.raises(JournalError, match="closed"):
            journal.append_log("job-1", b"x")
        with pytest.raises(JournalError, match="closed"):
            journal.log_size("job-1")

    play(scenario)


# What only the fake can show


def test_a_crash_forgets_what_was_not_answered() -> None:
    async def scenario() -> None:
        journal = MemoryJournal("id")
        await journal.accept(entry(1))
        journal.append_log("job-1", b"log")
        begun = [
            asyncio.create_task(call)
            for call in (journal.accept(entry(2)), journal.put(ended(1), "ended"), journal.set_setting("a", "b"))
        ]
        await asyncio.sleep(0)  # all three have begun and wait for their turn
        after = journal.crash()
        results = await asyncio.gather(*begun, return_exceptions=True)
        assert [type(result) for result in results] == [JournalError] * 3
        with pytest.raises(JournalError, match="killed"):
            await journal.entries()
        with pytest.raises(JournalError, match="killed"):
            journal.append_log("job-1", b"x")
        assert await after.entries() == [entry(1)]
        assert (await after.seq(), await after.setting("a")) == (0, None)
        assert await after.read_log("job-1", 0, 10) == b"log"

    asyncio.run(scenario())


# What only SQLite can show


def needs(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        words = f"{program} is not installed"
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)
    return path


CHILD = """
import asyncio, itertools, os, sys
from pathlib import Path
from trusted_pool.core.words import AttemptState
from trusted_pool.journal.sqlite import SqliteJournal
from trusted_pool.ports.journal import Entry, JournalError

def entry(n, state="accepted"):
    return Entry(remote_id=f"r{n}", pool_id="p", job_id=f"j{n}", attempt=1, state=AttemptState(state), manifest="{}",
                 accepted_at=1.0)

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


def start(program: str, *arguments: object, before: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    command = [*before, sys.executable, "-c", CHILD + program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("lines_before", [1, 40, 400])
def test_every_answered_entry_survives_sigkill(tmp_path: Path, lines_before: int) -> None:
    program = """
async def main():
    journal = SqliteJournal.open(Path(sys.argv[1]), journal_id="one")
    numbers = itertools.count()
    async def one():
        for n in numbers:
            await journal.accept(entry(n))
            say("accepted", n)
            size = journal.append_log(f"r{n}", b"line of the log")
            say("logged", n, size)
            say("put", n, await journal.put(entry(n, "ended"), "ended"))
            if n % 5 == 4:
                await journal.delete(f"r{n}")
                say("deleted", n)
    await asyncio.gather(*(one() for _ in range(8)))
asyncio.run(main())
"""
    child = start(program, tmp_path)
    assert child.stdout is not None
    with child:
        lines = [child.stdout.readline() for _ in range(lines_before)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL
    said = [line.split() for line in lines]

    async def scenario() -> None:
        journal = SqliteJournal.open(tmp_path, journal_id="two")
        assert journal.journal_id == "one"
        changes = {change.remote_id: change for change in await journal.changes(0)}
        deleted = {f"r{words[1]}" for words in said if words[0] == "deleted"}
        # A delete that began may have been committed and not answered.
        open_ended = {f"r{words[1]}" for words in said if int(words[1]) % 5 == 4 and words[0] == "put"}
        for what, number, *rest in said:
            remote_id = f"r{number}"
            kept = await journal.entry(remote_id)
            if kept is None:
                assert remote_id in open_ended
            elif what == "put":
                assert remote_id not in deleted
                assert kept.state is AttemptState.ENDED
                assert changes[remote_id].seq == int(rest[0])
            elif what == "logged" and remote_id not in open_ended:
                assert await journal.read_log(remote_id, 0, 100) == b"line of the log"
        assert all([await journal.entry(remote_id) is None for remote_id in deleted])
        answered = [int(words[2]) for words in said if words[0] == "put"]
        assert await journal.seq() >= max(answered, default=0)
        logs = {path.stem for path in (tmp_path / "logs").iterdir()}
        assert logs <= {one.remote_id for one in await journal.entries()}
        await journal.close()

    asyncio.run(scenario())


def test_an_answer_comes_after_the_fsync(tmp_path: Path) -> None:
    needs("strace")
    program = """
async def main():
    journal = SqliteJournal.open(Path(sys.argv[1]), journal_id="one")
    say("BEGIN")
    await journal.accept(entry(1))
    say("ANSWER")
    await journal.put(entry(1, "ended"), "ended")
    say("ANSWER")
    os._exit(0)
asyncio.run(main())
"""
    trace = tmp_path / "trace"
    before = ("strace", "-f", "-y", "-e", "trace=write,pwrite64,fsync,fdatasync", "-o", str(trace))
    child = start(program, tmp_path / "journal", before=before)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    story = ""
    for line in trace.read_text().split("BEGIN", maxsplit=1)[1].splitlines():
        if "ANSWER" in line:
            story += "A"
        elif re.search(r"pwrite64\(\d+<[^>]*journal\.db-wal>", line):
            story += "w"
        elif re.search(r"f(data)?sync\(\d+<[^>]*journal\.db-wal>", line):
            story += "s"
    # The WAL's first header has a sync of its own. Whatever was written was synced before each answer.
    assert re.fullmatch(r"(w+s)+A(w+s)+A", story), story


def test_writes_at_once_share_a_commit(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = SqliteJournal.open(tmp_path, journal_id="one")
        before = journal._writer.commits
        await asyncio.gather(*(journal.accept(entry(n)) for n in range(200)))
        assert len(await journal.entries()) == 200
        assert journal._writer.commits - before <= 20  # the first may go alone, the rest wait for it together
        await journal.close()

    asyncio.run(scenario())


def test_a_write_that_fails_takes_nothing_with_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = SqliteJournal.open(tmp_path, journal_id="one")

        def half(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO setting VALUES ('half', 'done')")
            raise JournalError("no")

        results = await asyncio.gather(
            journal.set_setting("a", "1"),
            asyncio.wrap_future(journal._writer.write(half)),
            journal.set_setting("b", "2"),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [type(None), JournalError, type(None)]
        assert [await journal.setting(name) for name in ("a", "half", "b")] == ["1", None, "2"]
        await journal.close()

    asyncio.run(scenario())


def test_a_cancelled_write_is_whole_or_absent(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = SqliteJournal.open(tmp_path, journal_id="one")
        tasks = [asyncio.create_task(journal.accept(entry(n))) for n in range(50)]
        await asyncio.sleep(0)
        for task in tasks[1::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        kept = {one.remote_id for one in await journal.entries()}
        assert {one.remote_id for one in results if isinstance(one, Entry)} <= kept
        assert all(f"job-{n}" in kept for n in range(0, 50, 2))
        assert await journal.accept(entry(99)) == entry(99)
        await journal.close()

    asyncio.run(scenario())


def test_in_use_by_another_process(tmp_path: Path) -> None:
    program = 'journal = SqliteJournal.open(Path(sys.argv[1]), journal_id="one"); say("OPEN"); sys.stdin.read()'
    command = [sys.executable, "-c", CHILD + program, str(tmp_path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "OPEN\n"
        with pytest.raises(JournalError, match=f"in use by another worker \\(process {child.pid}\\)") as caught:
            SqliteJournal.open(tmp_path, journal_id="two")
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    finally:
        child.kill()
        child.communicate()
    asyncio.run(SqliteJournal.open(tmp_path, journal_id="two").close())


def closed_journal(directory: Path) -> Path:
    async def fill() -> None:
        journal = SqliteJournal.open(directory, journal_id="one")
        await asyncio.gather(*(journal.accept(entry(n)) for n in range(300)))
        await journal.close()

    asyncio.run(fill())
    return directory / "journal.db"


def damage_header(path: Path) -> None:
    path.write_bytes(b"no database at all" * 500)


def damage_middle(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[4096 * 3 : 4096 * 6] = b"\xff" * (4096 * 3)
    path.write_bytes(raw)


def damage_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 4096 * 5])


def lose_id(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM journal")
    db.close()


@pytest.mark.parametrize("damage", [damage_header, damage_middle, damage_end, lose_id])
def test_a_damaged_journal_is_named_and_left_alone(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = closed_journal(tmp_path)
    damage(path)
    before = path.read_bytes()
    for _ in range(2):  # the second time shows that the first let go of the lock
        with pytest.raises(JournalError, match="is damaged") as caught:
            SqliteJournal.open(tmp_path, journal_id="two")
        assert str(path) in str(caught.value)
        assert "move" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_damage_found_while_running(tmp_path: Path) -> None:
    path = closed_journal(tmp_path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE entry SET body = X'7B' WHERE remote_id = 'job-7'")
    db.close()

    async def scenario() -> None:
        journal = SqliteJournal.open(tmp_path, journal_id="two")
        assert await journal.entry("job-8") == entry(8)
        for doing in (journal.entry("job-7"), journal.entries(), journal.accept(entry(7))):
            with pytest.raises(JournalError, match="is damaged"):
                await doing
        await journal.close()

    asyncio.run(scenario())


def test_what_is_no_journal_of_ours(tmp_path: Path) -> None:
    path = closed_journal(tmp_path / "newer")
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(JournalError, match="newer version"):
        SqliteJournal.open(tmp_path / "newer", journal_id="two")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    with sqlite3.connect(foreign / "journal.db") as db:
        db.execute("CREATE TABLE photos (x)")
    db.close()
    with pytest.raises(JournalError, match="not a worker's journal"):
        SqliteJournal.open(foreign, journal_id="two")
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="must be ours to write"):
        SqliteJournal.open(tmp_path / "file", journal_id="two")


FILL = """
async def main():
    journal = SqliteJournal.open(Path(sys.argv[1]), journal_id="one")
    await journal.accept(entry(0))
    journal.append_log("r0", b"0123456789")
    kept = 0
    try:
        while True:
            try:
                journal.append_log("r0", b"x" * 10_007)
            except JournalError as error:
                say("log:", error)
                break
        for n in range(1, 100_000):
            await asyncio.gather(*(journal.accept(entry(f"{n}-{m}")) for m in range(10)))
            kept = n
    except JournalError as error:
        say("entry:", error)
    log = await journal.read_log("r0", 0, 1 << 30)
    say("whole", (len(log) - 10) % 10_007 == 0, journal.log_size("r0") == len(log))
    say("entries", len(await journal.entries()) >= 1 + 10 * kept)
    await journal.delete("r0")
    await journal.accept(entry("after"))
    say(await journal.put(entry("after", "ended"), "ended"))
    await journal.close()
asyncio.run(main())
"""


def test_a_full_disk(tmp_path: Path) -> None:
    needs("unshare")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    before = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(disk))
    if os.geteuid() == 0:
        before = ("unshare", "--mount", *before[4:])
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        if os.environ.get("CI"):
            pytest.fail("no mount namespaces here")
        pytest.skip("no mount namespaces here")
    child = start(FILL, disk / "journal", before=before)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("log: ")
    assert str(disk / "journal" / "logs" / "r0.log") in lines[0]
    assert lines[1].startswith(f"entry: the journal {disk / 'journal' / 'journal.db'} cannot do it: ")
    assert lines[2:] == ["whole True True", "entries True", "1"]


def test_files_are_closed_when_an_entry_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = SqliteJournal.open(tmp_path, journal_id="one")

        def logs_open() -> int:
            links = [Path("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]  # noqa: PTH208 - the same numbers
            return sum(link.is_symlink() and "/logs/" in os.readlink(link) for link in links)  # noqa: PTH115

        for number in range(10):
            await journal.accept(entry(number))
            journal.append_log(f"job-{number}", b"x")
        assert logs_open() == 10
        for number in range(5):
            await journal.put(ended(number), "ended")
        assert logs_open() == 5
        await journal.delete("job-5")
        assert logs_open() == 4
        assert journal.append_log("job-1", b"late") == 5
        await journal.close()
        assert logs_open() == 0

    asyncio.run(scenario())


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        old = os.umask(0)
        try:
            journal = SqliteJournal.open(tmp_path / "journal", journal_id="one")
            await journal.accept(entry())
            journal.append_log("job-1", b"x")
        finally:
            os.umask(old)
        for path in [tmp_path / "journal", *(tmp_path / "journal").rglob("*")]:
            assert path.stat().st_mode & 0o077 == 0, path
        await journal.close()

    asyncio.run(scenario())
