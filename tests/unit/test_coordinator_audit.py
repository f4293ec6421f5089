"""The audit trail as the coordinator keeps it: over restarts, over crashes, and when somebody writes into the store."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.virtual_time import CountingDice, LoopClock, elapse, run
from trusted_pool.compose.head_file import HeadFile
from trusted_pool.coordinator.audit import CHAIN, EVERY, Audit
from trusted_pool.coordinator.keys import FAILURES, Keys
from trusted_pool.core.access import BY_CONSOLE, Access, KeyWish, Role, Scope
from trusted_pool.ports.store import StoreError, StoreFullError, Unit
from trusted_pool.protocol.audit import CHECKPOINT, AuditError, Head, verify_export
from trusted_pool.protocol.errors import UnauthenticatedError
from trusted_pool.protocol.identity import identity_of
from trusted_pool.store.memory import MemoryStore

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ADA = Access(owner="ada", role=Role.OPERATOR, scope=Scope.ALL, key_id="key-1")


class KeptHead:
    """An anchor in memory."""

    def __init__(self) -> None:
        self.head: Head | None = None

    def load(self) -> Head | None:
        return self.head

    def save(self, head: Head) -> None:
        self.head = head


class World:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.anchor = KeptHead()
        self.dice = CountingDice()
        self.audit = self._new()

    def _new(self) -> Audit:
        return Audit(
            store=self.store,
            clock=LoopClock(),
            dice=self.dice,
            pool_id=identity_of(KEY),
            sign=KEY.sign,
            anchor=self.anchor,
        )

    async def restart(self) -> Audit:
        self.store = self.store.crash()
        self.audit = self._new()
        await self.audit.start()
        return self.audit

    @property
    def rows(self) -> dict[tuple[str, int], object]:
        """What somebody sees who can write into the store."""
        return self.store._tables.audit  # type: ignore[return-value]

    async def export(self) -> list[bytes]:
        lines = [msgspec.json.encode(entry) async for entry in self.audit.entries()]
        return [*lines, msgspec.json.encode(self.audit.head())]


def in_world(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        # `to_thread`, for the anchor, is no matter of virtual time.
        world = World()
        await world.audit.start()
        await test(world)

    asyncio.run(main())


def test_what_was_done_is_kept_together_with_who_did_it() -> None:
    async def look(world: World) -> None:
        unit = Unit(settings={"a": "1"})
        committed = await world.audit.commit(ADA, "worker.drain", "w1", {"deadline": 3}, unit)
        assert committed.ok
        (entry,) = [e async for e in world.audit.entries()]
        assert (entry.actor, entry.key_id, entry.action, entry.subject) == ("ada", "key-1", "worker.drain", "w1")
        assert entry.data == {"deadline": 3}
        assert (await world.store.settings())["a"] == "1"
        world.store.full = True
        with pytest.raises(StoreFullError):
            await world.audit.commit(ADA, "worker.drain", "w1", {}, Unit(settings={"a": "2"}))
        world.store.full = False
        assert (await world.store.settings())["a"] == "1", "what cannot be written down is not done"
        await world.audit.commit(ADA, "worker.cordon", "w1")
        assert verify_export(await world.export(), identity_of(KEY)).entries == 2

    in_world(look)


def test_the_chain_goes_on_over_restarts_and_is_signed_now_and_then() -> None:
    async def look(world: World) -> None:
        for number in range(EVERY * 2):
            await world.audit.commit(ADA, "worker.cordon", str(number))
            if number % 50 == 49:
                await world.restart()
        found = verify_export(await world.export(), identity_of(KEY))
        assert (found.entries, found.checkpoints) == (EVERY * 2 + 2, 2)
        assert world.anchor.head == world.audit.head() or world.anchor.head is not None
        older = msgspec.json.decode((await world.export())[-1], type=Head)
        await world.audit.commit(ADA, "worker.cordon", "later")
        verify_export(await world.export(), identity_of(KEY), older)

    in_world(look)


def test_entries_that_come_together_are_one_chain() -> None:
    async def look(world: World) -> None:
        await asyncio.gather(*(world.audit.commit(ADA, "worker.cordon", str(n)) for n in range(40)))
        assert verify_export(await world.export(), identity_of(KEY)).entries == 40

    in_world(look)


def test_a_crash_between_commit_and_head_is_no_damage(caplog: pytest.LogCaptureFixture) -> None:
    async def look(world: World) -> None:
        await world.audit.commit(ADA, "worker.cordon", "1")
        kept = world.anchor.head
        await world.audit.commit(ADA, "worker.cordon", "2")
        world.anchor.head = kept
        await world.restart()
        assert "not what it was" not in caplog.text
        await world.audit.commit(ADA, "worker.cordon", "3")
        assert verify_export(await world.export(), identity_of(KEY)).entries == 3

    in_world(look)


@pytest.mark.parametrize("damage", ["the end is cut", "an entry is changed", "the end is made anew", "all is gone"])
def test_what_was_written_into_the_store_behind_our_back_is_said_and_stays_visible(
    damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def look(world: World) -> None:
        for number in range(3):
            await world.audit.commit(ADA, "worker.cordon", str(number))
        (chain,) = {place[0] for place in world.rows}
        entries = [entry async for entry in world.audit.entries()]
        if damage == "the end is cut":
            del world.rows[chain, 3]
        elif damage == "an entry is changed":
            world.rows[chain, 3] = msgspec.structs.replace(entries[2], actor="eve")
        elif damage == "the end is made anew":
            anew = msgspec.structs.replace(entries[2], actor="eve", hash="")
            world.rows[chain, 3] = msgspec.structs.replace(anew, hash=anew.hashed())
        else:
            world.rows.clear()
        with caplog.at_level(logging.ERROR):
            await world.restart()
        assert "The audit trail is not what it was" in caplog.text
        await world.audit.commit(ADA, "worker.cordon", "after")
        actions = [entry.action async for entry in world.audit.entries()]
        assert "audit.broken" in actions
        with pytest.raises(AuditError):
            verify_export(await world.export(), identity_of(KEY))

    in_world(look)


def test_while_it_runs_a_cut_shows_in_the_next_export() -> None:
    async def look(world: World) -> None:
        await world.audit.commit(ADA, "worker.cordon", "1")
        await world.audit.commit(ADA, "worker.cordon", "2")
        verify_export(await world.export(), identity_of(KEY))
        world.rows.popitem()
        with pytest.raises(AuditError):
            verify_export(await world.export(), identity_of(KEY))

    in_world(look)


def test_an_entry_of_somebody_else_in_the_chain_stops_what_was_to_be_done() -> None:
    async def look(world: World) -> None:
        await world.audit.commit(ADA, "worker.cordon", "1")
        chain = (await world.store.settings())[CHAIN]
        foreign = msgspec.structs.replace((await world.store.audit(chain, 0, 1))[0], seq=2)
        await world.store.commit([Unit(audit=(foreign,))])
        with pytest.raises(StoreError, match="somebody else"):
            await world.audit.commit(ADA, "worker.cordon", "2", {}, Unit(settings={"a": "1"}))
        assert "a" not in await world.store.settings()

    in_world(look)


def test_the_heads_file_is_replaced_whole_and_is_ours_alone(tmp_path: Path) -> None:
    file = HeadFile(tmp_path / "audit.head")
    assert file.load() is None
    head = Head(chain="c", seq=1, hash="h", at=1.0, pool_id=identity_of(KEY)).sign(KEY.sign)
    file.save(head)
    file.save(msgspec.structs.replace(head, seq=2))
    loaded = file.load()
    assert loaded is not None
    assert (loaded.seq, loaded.genuine(), head.genuine()) == (2, False, True)
    assert (tmp_path / "audit.head").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["audit.head"]
    (tmp_path / "audit.head").write_bytes(b"{")
    with pytest.raises(ValueError, match="truncated"):
        file.load()


def keys_of(world: World) -> Keys:
    return Keys(store=world.store, audit=world.audit, clock=LoopClock(), dice=world.dice, without_key=None)


def test_keys_and_the_time_of_their_use_outlast_a_restart() -> None:
    async def main() -> None:
        world = World()
        world.audit._anchor = None
        await world.audit.start()
        keys = keys_of(world)
        await keys.start()
        made = await keys.create(BY_CONSOLE, KeyWish(owner="ada", role=Role.ADMIN, expires_in_s=100.0))
        assert keys.view()[0].last_used_at is None
        await elapse(10)
        assert keys.access_of(made.token).owner == "ada"
        await keys.keep_uses_now()
        world.store = world.store.crash()
        again = keys_of(world)
        await again.start()
        (view,) = again.view()
        assert view == keys.view()[0]
        assert view.last_used_at == view.created_at + 10
        assert again.access_of(made.token).owner == "ada"

    run(main())


def test_whoever_tries_keys_all_day_does_not_fill_the_trail() -> None:
    async def main() -> None:
        world = World()
        world.audit._anchor = None
        await world.audit.start()
        keys = keys_of(world)
        for _ in range(500):
            await keys.failed("10.0.0.9", "no")
        entries = [entry async for entry in world.audit.entries()]
        assert [entry.action for entry in entries] == ["login.failed"] * FAILURES
        await elapse(61)
        await keys.failed("10.0.0.9", "no")
        last = [entry async for entry in world.audit.entries()][-1]
        assert last.data == {"words": "no", "more_before": 500 - FAILURES}
        assert (last.subject, last.actor) == ("10.0.0.9", "")

    run(main())


def test_checkpoints_stand_in_the_chain_itself() -> None:
    async def look(world: World) -> None:
        for number in range(EVERY):
            await world.audit.commit(ADA, "worker.cordon", str(number))
        (signed,) = [entry async for entry in world.audit.entries() if entry.action == CHECKPOINT]
        assert signed.seq == EVERY
        assert signed.data["pool_id"] == identity_of(KEY)

    in_world(look)


def test_a_key_is_revoked_though_its_asker_is_gone_before_the_answer() -> None:
    async def main() -> None:
        world = World()
        world.audit._anchor = None
        await world.audit.start()
        keys = keys_of(world)
        await keys.create(BY_CONSOLE, KeyWish(owner="ada", role=Role.ADMIN))
        made = await keys.create(BY_CONSOLE, KeyWish(owner="bob"))
        world.store._syncs = True  # a commit takes two turns of the loop from here on
        asker = asyncio.create_task(keys.revoke(BY_CONSOLE, made.key.key_id))
        asyncio.get_running_loop().call_soon(asker.cancel)  # it has begun by then, and has not been answered
        await elapse(1)
        assert asker.cancelled()
        ((_, _), (kept, _)) = await world.store.api_keys()
        assert kept.revoked_at is not None, "the control: it is kept"
        with pytest.raises(UnauthenticatedError, match="is revoked"):
            keys.access_of(made.token)

    run(main())
