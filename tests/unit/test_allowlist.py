"""The allowlist as commands and hands change it: the file is the truth, and the trail knows who did what."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.fake_pool import FakePool
from support.memory_file import MemoryFile
from support.virtual_time import LoopClock, elapse, run, until
from trusted_pool.compose.workers_file import WorkersFile
from trusted_pool.coordinator.entries import AllowlistError, parse
from trusted_pool.coordinator.metrics import Metrics
from trusted_pool.core.access import BY_CONSOLE, Access, Role, Scope
from trusted_pool.core.words import JobState, Reason
from trusted_pool.ports.allowlist import Content, FileInDoubtError
from trusted_pool.ports.store import StoreFullError
from trusted_pool.protocol.audit import AuditEntry
from trusted_pool.protocol.errors import BadRequestError, ConflictError, NotFoundError, UnavailableError
from trusted_pool.protocol.identity import identity_of, to_path
from trusted_pool.web.app import create_app

A, B, C, D = (identity_of(Ed25519PrivateKey.generate()) for _ in range(4))
OLGA = Access(owner="olga", role=Role.ADMIN, scope=Scope.ALL, key_id="key-1")
SMALL_ORDER = "A" * 43 + "="


def entry(worker_id: str, host: str = "", **more: Any) -> dict[str, Any]:
    return {
        "worker_id": worker_id,
        "endpoint": f"https://{host or 'w' + str('ABCD'[[A, B, C, D].index(worker_id)])}:8443",
        **more,
    }


def listed(pool: FakePool) -> list[str]:
    return [w.worker_id for w in pool.coordinator.roster.workers()]


async def told(pool: FakePool) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Return what the trail says of the allowlist."""
    entries: list[AuditEntry] = await pool.coordinator.audit.page(0, 1000)
    return [(e.actor, e.action, e.subject, e.data) for e in entries if e.action.startswith("allowlist.")]


def on(file: MemoryFile, test: Callable[[FakePool], Awaitable[None]]) -> None:
    async def main() -> None:
        async with FakePool(file=file, slots=1) as pool:
            await until(lambda: pool.coordinator.roster.somebody() or not listed(pool))
            await test(pool)

    run(main())


def test_who_is_added_is_in_the_file_and_gets_jobs() -> None:
    file = MemoryFile(entry(A))

    async def test(pool: FakePool) -> None:
        blocker = await pool.accepted(await pool.submit())
        job_id = await pool.submit()
        change = await pool.coordinator.allowlist.add(OLGA, entry(B, labels={"room": "3"}, max_concurrent_jobs=2))
        assert (change.added, change.removed, change.changed) == ([B], [], [])
        job = await pool.accepted(job_id)
        assert (blocker.attempts[0].worker_id, job.attempts[0].worker_id) == (A, B)
        assert file.entries == [entry(A), entry(B, labels={"room": "3"}, max_concurrent_jobs=2)]
        facts = {"endpoint": "https://wB:8443".lower(), "max_concurrent_jobs": 2, "labels": {"room": "3"}}
        assert await told(pool) == [("olga", "allowlist.add", B, facts)]
        await elapse(60)
        assert len(await told(pool)) == 1, "our own change of the file is no change by hand"

    on(file, test)


def test_all_that_come_at_once_end_up_in_it() -> None:
    file = MemoryFile(entry(A))

    async def test(pool: FakePool) -> None:
        allowlist = pool.coordinator.allowlist
        await asyncio.gather(
            allowlist.add(OLGA, entry(B)),
            allowlist.add(OLGA, entry(C)),
            allowlist.remove(OLGA, A),
            allowlist.add(OLGA, entry(D)),
        )
        assert [e["worker_id"] for e in file.entries] == [B, C, D] == listed(pool)

    on(file, test)


def test_who_is_removed_is_in_it_no_more_and_the_answer_says_what_became_of_his_jobs() -> None:
    file = MemoryFile(entry(A), entry(B))

    async def test(pool: FakePool) -> None:
        jobs = {}
        for policy in ("hold", "retry"):
            job = await pool.accepted(await pool.submit(json.dumps({"retry": {"on_worker_loss": policy}})))
            jobs[job.attempts[0].worker_id] = job.job_id
        change = await pool.coordinator.allowlist.remove(OLGA, A)
        assert change.removed == [A]
        left = change.left[A]
        assert left is not None
        assert (left.all, left.held + left.retried) == (1, 1)
        assert file.entries == [entry(B)]
        assert await told(pool) == [("olga", "allowlist.remove", A, {"endpoint": "https://wa:8443"})]
        with pytest.raises(NotFoundError):
            await pool.coordinator.allowlist.remove(OLGA, A)
        assert len(await told(pool)) == 1

    on(file, test)


@pytest.mark.parametrize(
    ("bad", "error", "field"),
    [
        (entry(C) | {"worker_id": SMALL_ORDER}, BadRequestError, "worker_id"),
        (entry(C) | {"worker_id": C[:-1]}, BadRequestError, "worker_id"),
        (entry(C) | {"endpoint": "file:///etc/passwd"}, BadRequestError, "endpoint"),
        (entry(C) | {"endpoint": "http://me:secret@wc:8443"}, BadRequestError, "endpoint"),
        (entry(C) | {"endpoint": "http://wc:0"}, BadRequestError, "endpoint"),
        (entry(C, identity="claimed"), BadRequestError, "endpoint"),
        (entry(C, max_concurrent_jobs=0), BadRequestError, "max_concurrent_jobs"),
        (entry(C, labels={"a": 1}), BadRequestError, "labels"),
        (entry(C, slots=1), BadRequestError, "slots"),
        (entry(A, "elsewhere"), ConflictError, "worker_id"),
        (entry(C, "WA"), ConflictError, "endpoint"),
        (entry(C) | {"endpoint": "http://wa"}, ConflictError, "endpoint"),
    ],
)
def test_what_cannot_be_listed_is_refused_by_its_field_and_nothing_is_changed(
    bad: dict[str, Any], error: type[Exception], field: str
) -> None:
    file = MemoryFile(entry(A))

    async def test(pool: FakePool) -> None:
        before = file.raw
        with pytest.raises(error) as caught:
            await pool.coordinator.allowlist.add(OLGA, bad)
        assert caught.value.detail == {"field": field}  # type: ignore[attr-defined]
        assert field in str(caught.value) or error is ConflictError
        assert (file.raw, listed(pool), await told(pool)) == (before, [A], [])

    on(file, test)


def test_a_change_by_hand_is_found_without_being_told_and_written_down_as_the_consoles() -> None:
    file = MemoryFile(entry(A), entry(B))

    async def test(pool: FakePool) -> None:
        job = await pool.accepted(await pool.submit())
        gone, kept = (A, B) if job.attempts[0].worker_id == A else (B, A)
        file.write(entry(kept, max_concurrent_jobs=3), entry(C))
        await until(lambda: listed(pool) == [kept, C], 5.0)
        await pool.until(job.job_id, lambda job: len(job.attempts) == 2)
        await elapse(5)
        ((actor, action, subject, data),) = await told(pool)
        assert (actor, action, subject, data["how"]) == ("console", "allowlist.reload", "", "file")
        assert (list(data["added"]), list(data["removed"]), list(data["changed"])) == ([C], [gone], [kept])
        assert data["changed"][kept]["max_concurrent_jobs"] == 3
        file.raw = file.raw  # touched
        file.write(entry(C), entry(kept, max_concurrent_jobs=3))  # and in another order
        await elapse(10)
        assert len(await told(pool)) == 1, "the same list is no change"

    on(file, test)


def test_a_file_that_is_being_written_is_left_alone_until_it_rests(caplog: pytest.LogCaptureFixture) -> None:
    file = MemoryFile(entry(A))

    async def test(pool: FakePool) -> None:
        await elapse(5)
        reads = file.reads
        whole = json.dumps([entry(A), entry(B)]).encode()
        for end in range(1, len(whole), 20):
            file.raw = whole[:end]
            await elapse(0.7)
        assert file.reads == reads
        file.raw = whole
        await until(lambda: B in listed(pool), 5.0)

    on(file, test)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


def test_a_broken_file_keeps_the_list_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="trusted_pool")
    file = MemoryFile(entry(A))

    def said() -> list[str]:
        return [r.getMessage() for r in caplog.records if "as it was" in r.getMessage()]

    async def test(pool: FakePool) -> None:
        good = file.raw
        file.write(entry(A), entry(B, max_concurrent_jobs=0))
        await elapse(60)
        assert len(said()) == 1
        assert "workers.json: entry 2: max_concurrent_jobs" in said()[0]
        assert "\n" not in said()[0]
        assert listed(pool) == [A]
        for command in (
            pool.coordinator.allowlist.add(OLGA, entry(C)),
            pool.coordinator.allowlist.remove(OLGA, A),
            pool.coordinator.allowlist.reload(OLGA),
        ):
            before = file.raw
            with pytest.raises(ConflictError, match="entry 2: max_concurrent_jobs") as caught:
                await command
            assert caught.value.code == "allowlist_unusable"
            assert "correct workers.json" in caught.value.hint
            assert (file.raw, listed(pool)) == (before, [A])
        file.raw = None
        await elapse(60)
        assert len(said()) == 2
        assert "cannot be read" in said()[1]
        assert listed(pool) == [A]
        file.raw = good
        await elapse(10)
        assert len(said()) == 2
        assert [r for r in caplog.records if "can be read again" in r.getMessage()]
        assert await told(pool) == []
        assert (await pool.accepted(await pool.submit())).attempts[0].worker_id == A

    on(file, test)


def test_a_hands_change_that_nobody_has_seen_yet_comes_along_with_a_command() -> None:
    file = MemoryFile(entry(A), entry(B))

    async def test(pool: FakePool) -> None:
        file.write(entry(B), entry(C))
        await pool.coordinator.allowlist.add(OLGA, entry(D))
        assert listed(pool) == [B, C, D] == [e["worker_id"] for e in file.entries]
        first, second = await told(pool)
        assert first[:3] == ("olga", "allowlist.add", D)
        assert second[:3] == ("console", "allowlist.reload", "")
        assert (list(second[3]["added"]), list(second[3]["removed"])) == ([C], [A])
        file.write(entry(C), entry(D))  # B is out by hand; a command says so too
        await pool.coordinator.allowlist.remove(OLGA, B)
        assert listed(pool) == [C, D]
        assert (await told(pool))[2][:3] == ("olga", "allowlist.remove", B)

    on(file, test)


def test_a_file_that_cannot_be_changed_changes_nothing() -> None:
    file = MemoryFile(entry(A))

    async def test(pool: FakePool) -> None:
        before, file.unwritable = file.raw, "the allowlist workers.json cannot be changed: Read-only file system"
        for command in (pool.coordinator.allowlist.add(OLGA, entry(B)), pool.coordinator.allowlist.remove(OLGA, A)):
            with pytest.raises(ConflictError, match="Read-only") as caught:
                await command
            assert "by hand" in caught.value.hint
            assert (file.raw, listed(pool)) == (before, [A])
        assert [(a, b, c) for a, b, c, _ in await told(pool)] == [
            ("olga", "allowlist.add", B),
            ("olga", "allowlist.undo", ""),
            ("olga", "allowlist.remove", A),
            ("olga", "allowlist.undo", ""),
        ]
        await elapse(60)
        assert len(await told(pool)) == 4

    on(file, test)


class RacedFile(MemoryFile):
    """Somebody changes it between our look and our rename."""

    async def replace(self, old: Content, new: bytes) -> None:
        """Lose the race."""
        self.write(*self.entries, entry(D))
        await super().replace(old, new)


class DoubtfulFile(MemoryFile):
    """It is changed, and the directory cannot be synced."""

    async def replace(self, old: Content, new: bytes) -> None:
        """Change it all the same."""
        await super().replace(old, new)
        raise FileInDoubtError("the allowlist workers.json may not be kept: Input/output error")


def test_what_somebody_else_writes_in_the_same_moment_is_not_overwritten() -> None:
    file = RacedFile(entry(A))

    async def test(pool: FakePool) -> None:
        with pytest.raises(ConflictError, match="somebody else"):
            await pool.coordinator.allowlist.add(OLGA, entry(B))
        assert [e["worker_id"] for e in file.entries] == [A, D]
        await until(lambda: listed(pool) == [A, D], 5.0)

    on(file, test)


def test_a_change_that_may_not_be_kept_is_said_to_be_so_and_is_true_while_it_is() -> None:
    file = DoubtfulFile(entry(A))

    async def test(pool: FakePool) -> None:
        with pytest.raises(UnavailableError, match="may not be kept"):
            await pool.coordinator.allowlist.add(OLGA, entry(B))
        await until(lambda: listed(pool) == [A, B], 5.0)
        assert [(a, b) for a, b, _, _ in await told(pool)] == [("olga", "allowlist.add")]

    on(file, test)


def test_what_cannot_be_written_down_is_not_done_by_a_command_but_a_hand_removes_all_the_same() -> None:
    file = MemoryFile(entry(A), entry(B))

    async def test(pool: FakePool) -> None:
        before = file.raw
        pool.store.full = True
        for command in (pool.coordinator.allowlist.add(OLGA, entry(C)), pool.coordinator.allowlist.remove(OLGA, A)):
            with pytest.raises(StoreFullError):
                await command
        assert (file.raw, listed(pool)) == (before, [A, B])
        file.write(entry(B))
        await until(lambda: listed(pool) == [B], 5.0)
        await elapse(30)
        assert await told(pool) == []
        pool.store.full = False
        await elapse(30)
        ((actor, action, _, data),) = await told(pool)
        assert (actor, action, list(data["removed"])) == ("console", "allowlist.reload", [A])

    on(file, test)


def test_what_was_changed_while_nobody_served_is_written_down_at_the_start() -> None:
    file = MemoryFile(entry(A), entry(B))

    async def test(pool: FakePool) -> None:
        await elapse(1)
        assert await told(pool) == [], "a new pool's first list is no change"
        await pool.coordinator.stop()
        file.write(entry(B), entry(C))
        await pool.start()
        await elapse(1)
        ((actor, action, _, data),) = await told(pool)
        assert (actor, action, data["how"]) == ("console", "allowlist.reload", "start")
        assert (list(data["added"]), list(data["removed"])) == ([C], [A])
        await pool.coordinator.stop()
        await pool.start()
        await elapse(10)
        assert len(await told(pool)) == 1

    on(file, test)


def test_a_reload_is_written_down_when_somebody_asks_for_it() -> None:
    file = MemoryFile(entry(A))

    async def test(pool: FakePool) -> None:
        change = await pool.coordinator.allowlist.reload(OLGA)
        assert (change.added, change.removed, change.changed) == ([], [], [])
        assert await told(pool) == [("olga", "allowlist.reload", "", {"how": "request"})]
        await pool.coordinator.allowlist.reload(BY_CONSOLE, "signal")
        assert len(await told(pool)) == 1, "a signal that changes nothing is nothing"
        file.write()
        change = await pool.coordinator.allowlist.reload(OLGA)
        assert (change.removed, listed(pool)) == ([A], [])
        assert [e[3].get("removed") for e in await told(pool)] == [None, {A: {"endpoint": "https://wa:8443"}}]

    on(file, test)


def test_without_a_file_no_command_changes_the_list() -> None:
    async def main() -> None:
        async with FakePool("a") as pool:
            with pytest.raises(ConflictError, match="no file"):
                await pool.coordinator.allowlist.add(OLGA, entry(B))
            assert listed(pool) == ["a"]

    run(main())


def test_one_who_comes_back_by_a_command_is_let_in_again() -> None:
    file = MemoryFile(entry(A))

    async def test(pool: FakePool) -> None:
        job = await pool.accepted(await pool.submit('{"retry": {"on_worker_loss": "hold"}}'))
        await pool.coordinator.allowlist.remove(OLGA, A)
        await pool.until(job.job_id, lambda job: job.reason is Reason.WORKER_REMOVED)
        await pool.coordinator.allowlist.add(OLGA, entry(A, "elsewhere"))
        job = await pool.until(job.job_id, lambda job: job.reason is None)
        assert job.state in (JobState.DISPATCHED, JobState.RUNNING)
        assert file.entries == [entry(A, "elsewhere")]

    on(file, test)


@pytest.mark.parametrize(
    "text",
    [
        f'[{{"worker_id": "{A}", "worker_id": "{B}", "endpoint": "https://wa"}}]',
        f'[{{"worker_id": "{A}", "endpoint": "https://wa", "labels": {{"a": "1", "a": "2"}}}}]',
    ],
)
def test_what_stands_twice_in_an_entry_means_nobody(text: str) -> None:
    with pytest.raises(AllowlistError, match=r"entry 1: .* stands twice"):
        parse(text.encode())


def test_a_place_is_listed_once_however_it_is_written() -> None:
    keys = [identity_of(Ed25519PrivateKey.generate()) for _ in range(20)]
    entries = [{"worker_id": key, "endpoint": f"https://w{n}:8443"} for n, key in enumerate(keys)]
    assert len(parse(json.dumps(entries).encode())) == 20
    with pytest.raises(AllowlistError, match="entry 21: endpoint is that of entry 7 again"):
        parse(json.dumps([*entries, {"worker_id": D, "endpoint": "http://W6"}]).encode())


def test_all_that_come_at_once_end_up_in_a_real_file(tmp_path: Path) -> None:
    keys = [identity_of(Ed25519PrivateKey.generate()) for _ in range(12)]
    (tmp_path / "workers.json").write_text("[]\n")

    async def main() -> None:
        async with FakePool(file=WorkersFile(tmp_path / "workers.json")) as pool:
            adds = (pool.coordinator.allowlist.add(OLGA, entry(key, f"w{n}")) for n, key in enumerate(keys))
            await asyncio.gather(*adds)
            assert set(listed(pool)) == set(keys)
            await asyncio.gather(*(pool.coordinator.allowlist.remove(OLGA, key) for key in keys[:6]))

    asyncio.run(main())
    assert {e["worker_id"] for e in json.loads((tmp_path / "workers.json").read_text())} == set(keys[6:])


GOOD = {"worker_id": C, "endpoint": "https://wc:8443"}


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (GOOD, 200, "unknown"),
        ({**GOOD, "max_concurrent_jobs": 3, "labels": {"a": "b"}}, 200, '"max_concurrent_jobs":3'),
        ({**GOOD, "worker_id": SMALL_ORDER}, 400, "worker_id"),
        ({**GOOD, "worker_id": 7}, 400, "worker_id"),
        ({"worker_id": C}, 400, "endpoint"),
        ({**GOOD, "endpoint": "file:///etc/passwd"}, 400, "endpoint"),
        ({**GOOD, "endpoint": "https://wc:1\r\nX: y"}, 400, "endpoint"),
        ({**GOOD, "identity": "claimed"}, 400, "endpoint"),
        ({**GOOD, "identity": "sworn"}, 400, "identity"),
        ({**GOOD, "max_concurrent_jobs": 0}, 400, "max_concurrent_jobs"),
        ({**GOOD, "max_concurrent_jobs": True}, 400, "max_concurrent_jobs"),
        ({**GOOD, "labels": {"a": 1}}, 400, "labels"),
        ({**GOOD, "slots": 1}, 400, "slots"),
        ({**GOOD, "worker_id": A}, 409, "tpool workers remove"),
        ({**GOOD, "endpoint": "http://WA:8443/"}, 409, "tpool workers remove"),
    ],
)
def test_the_api_says_which_field_is_wrong(body: dict[str, Any], status: int, word: str) -> None:
    file = MemoryFile(entry(A))

    async def test(pool: FakePool) -> None:
        coordinator = pool.coordinator
        metrics = Metrics(store=pool.store, roster=coordinator.roster, bulletin=coordinator.bulletin, clock=LoopClock())
        app: Any = create_app(coordinator, metrics, loopback_only=True)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
            answer = await http.post("/workers", json=body)
            assert (answer.status_code, word in answer.text) == (status, True), answer.text
            assert (len(file.entries), len(listed(pool))) == ((2, 2) if status == 200 else (1, 1))
            gone = await http.post(f"/workers/{to_path(A)}/remove")
            assert gone.json() == {
                "worker_id": A,
                "endpoint": "https://wa:8443",
                "jobs": {"retried": 0, "held": 0, "failed": 0, "cancelled": 0, "settled": True},
            }
            assert (await http.post(f"/workers/{to_path(A)}/remove")).status_code == 404
            file.write(entry(B))
            reload = (await http.post("/workers/reload")).json()
            assert (reload["workers"], reload["added"]) == (1, [B])
            assert [r["worker_id"] for r in reload["removed"]] == ([C] if status == 200 else [])

    on(file, test)
