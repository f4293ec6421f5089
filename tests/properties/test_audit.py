"""The audit trail: whatever is done to an export of it, it is found."""

import base64
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from trusted_pool.protocol.audit import (
    CHECKPOINT,
    NOTHING,
    AuditEntry,
    AuditError,
    Head,
    chained,
    checkpoint_of,
    verify_export,
)
from trusted_pool.protocol.identity import identity_of

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
POOL = identity_of(KEY)


def head_at(chain: str, seq: int, last: str, key: Ed25519PrivateKey = KEY) -> Head:
    return Head(chain=chain, seq=seq, hash=last, at=1.5, pool_id=identity_of(key)).sign(key.sign)


def trail(n: int, *, key: Ed25519PrivateKey = KEY, every: int = 3, chain: str = "c", start: int = 0) -> list[Any]:
    """Return a whole export with n entries, some of them checkpoints. `start`: what tells two trails apart."""
    lines: list[Any] = []
    last = NOTHING
    for seq in range(1, n + 1):
        if seq % every == 0:
            action, data = CHECKPOINT, checkpoint_of(head_at(chain, seq - 1, last, key))
        else:
            action, data = "worker.drain", {"number": seq + start, "deep": {"ü": [1.5, None]}}
        entry = AuditEntry(chain=chain, seq=seq, at=seq / 7, actor="ada", action=action, data=data, previous=last)
        lines.append(chained(entry))
        last = lines[-1].hash
    return [*lines, head_at(chain, n, last, key)]


def raw(lines: list[Any]) -> list[bytes]:
    return [msgspec.json.encode(line) for line in lines]


@given(st.integers(0, 20))
def test_a_whole_export_is_verified(n: int) -> None:
    found = verify_export(raw(trail(n)), POOL)
    assert (found.entries, found.checkpoints, found.pool_id) == (n, n // 3, POOL)
    assert verify_export(raw(trail(n))).pool_id == POOL, "whose it is, it says itself"


def removed(lines: list[Any], where: int) -> list[Any]:
    return lines[:where] + lines[where + 1 :]


def swapped(lines: list[Any], where: int) -> list[Any]:
    changed = list(lines)
    changed[where], changed[where - 1] = changed[where - 1], changed[where]
    return changed


def doubled(lines: list[Any], where: int) -> list[Any]:
    return lines[: where + 1] + lines[where:]


def changed(lines: list[Any], where: int) -> list[Any]:
    if isinstance(lines[where], Head):
        return [*lines[:where], msgspec.structs.replace(lines[where], at=99.0)]
    return [*lines[:where], msgspec.structs.replace(lines[where], actor="eve"), *lines[where + 1 :]]


def made_anew(lines: list[Any], where: int) -> list[Any]:
    """Change an entry and chain all that follows anew: what somebody does who has no key."""
    last = lines[where - 1].hash if where else NOTHING
    rest = []
    for line in lines[where:-1]:
        line = chained(msgspec.structs.replace(line, actor="eve", previous=last, hash=""))  # noqa: PLW2901
        rest.append(line)
        last = line.hash
    return [*lines[:where], *rest, lines[-1]]


def cut(lines: list[Any], where: int) -> list[Any]:
    """Leave out the end, but not the head."""
    return [*lines[:where], lines[-1]]


def truncated(lines: list[Any], where: int) -> list[Any]:
    return lines[:where]


@pytest.mark.parametrize("damage", [removed, swapped, doubled, changed, made_anew, cut, truncated])
@given(data=st.data())
def test_damage_is_found(damage: Callable[[list[Any], int], list[Any]], data: st.DataObject) -> None:
    lines = trail(data.draw(st.integers(2, 12)))
    last = len(lines) - (2 if damage in (made_anew, cut) else 1)
    where = data.draw(st.integers(1, last))
    damaged = damage(lines, where)
    if damage is cut and where == len(lines) - 1:
        return
    with pytest.raises(AuditError):
        verify_export(raw(damaged), POOL)


def test_another_pools_trail_is_not_ours() -> None:
    verify_export(raw(trail(7, key=OTHER)), identity_of(OTHER))
    with pytest.raises(AuditError, match="not by the pool"):
        verify_export(raw(trail(7, key=OTHER)), POOL)
    named_ours = [msgspec.structs.replace(line, pool_id=POOL) if isinstance(line, Head) else line for line in trail(2)]
    verify_export(raw(named_ours), POOL)
    forged = [*trail(2, key=OTHER)[:-1], msgspec.structs.replace(trail(2, key=OTHER)[-1], pool_id=POOL)]
    with pytest.raises(AuditError, match="not signed by the pool"):
        verify_export(raw(forged), POOL)


def test_a_later_export_holds_an_earlier_one() -> None:
    older, newer = trail(5), trail(9)
    verify_export(raw(newer), POOL, older[-1])
    with pytest.raises(AuditError, match="ends before"):
        verify_export(raw(older), POOL, newer[-1])
    with pytest.raises(AuditError, match="another than in the earlier"):
        verify_export(raw(trail(9, start=1)), POOL, older[-1])


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes_are_refused_with_one_kind_of_error(lines: list[bytes]) -> None:
    with pytest.raises(AuditError):
        verify_export(lines, POOL)


@pytest.mark.parametrize("signature", ["", "AAAA", "not base64", base64.b64encode(bytes(64)).decode()])
def test_a_bad_signature_is_no_signature(signature: str) -> None:
    lines = trail(2)
    lines[-1] = msgspec.structs.replace(lines[-1], signature=signature)
    with pytest.raises(AuditError, match="not signed"):
        verify_export(raw(lines), POOL)


def test_what_is_not_hashed_cannot_be_slipped_in() -> None:
    lines = raw(trail(1))
    lines[0] = lines[0][:-1] + b',"note":"looks good"}'
    with pytest.raises(AuditError, match="no line of an audit trail"):
        verify_export(lines, POOL)
