"""Roles, scopes, and keys as they are written."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trusted_pool.core.access import Access, ApiKey, KeyState, Role, Scope
from trusted_pool.core.job import Job
from trusted_pool.core.request import Request
from trusted_pool.core.words import JobState
from trusted_pool.protocol import apikey

KEY = ApiKey(key_id="key-1", owner="ada", role=Role.VIEWER, scope=Scope.OWN, digest="d", created_at=1.0)


def test_each_role_includes_those_before_it() -> None:
    for (rank, role), (needed_rank, needed) in itertools.product(enumerate(Role), enumerate(Role)):
        access = Access(owner="x", role=role, scope=Scope.OWN)
        assert access.may(needed) is (rank >= needed_rank)
    assert [*Role] == ["viewer", "submitter", "operator", "admin"]


def test_a_scope_reaches_ones_own_jobs_or_everybodys() -> None:
    def job(owner: str) -> Job:
        request = Request(interpreter="x")
        return Job(job_id="p", owner=owner, state=JobState.QUEUED, manifest="{}", request=request, submitted_at=0.0)

    own, everybody = (Access(owner="ada", role=Role.ADMIN, scope=scope) for scope in Scope)
    assert (own.reaches(job("ada")), own.reaches(job("bob")), own.sees_owner) == (True, False, "ada")
    assert (everybody.reaches(job("ada")), everybody.reaches(job("bob")), everybody.sees_owner) == (True, True, None)


@pytest.mark.parametrize(
    ("changes", "now", "state"),
    [
        ({}, 9e9, KeyState.ACTIVE),
        ({"expires_at": 10.0}, 9.99, KeyState.ACTIVE),
        ({"expires_at": 10.0}, 10.0, KeyState.EXPIRED),
        ({"revoked_at": 5.0}, 1.0, KeyState.REVOKED),
        ({"revoked_at": 5.0, "expires_at": 10.0}, 20.0, KeyState.REVOKED),
    ],
)
def test_a_key_opens_until_it_ends(changes: dict[str, float], now: float, state: KeyState) -> None:
    assert msgspec.structs.replace(KEY, **changes).state(now) is state


@given(st.binary(min_size=32, max_size=32))
def test_what_is_written_is_a_key(secret: bytes) -> None:
    text = apikey.write(secret)
    apikey.check(text)
    assert len(text) == 55
    assert apikey.digest(text) != apikey.digest(apikey.write(bytes(32))) or secret == bytes(32)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_two_secrets_are_two_keys(one: bytes, other: bytes) -> None:
    assert (apikey.write(one) == apikey.write(other)) is (one == other)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 54), st.sampled_from("0aZ_-. é"))
def test_one_wrong_character_is_seen(secret: bytes, place: int, wrong: str) -> None:
    text = apikey.write(secret)
    mistyped = text[:place] + wrong + text[place + 1 :]
    if mistyped == text:
        return
    with pytest.raises(apikey.ApiKeyError) as raised:
        apikey.check(mistyped)
    assert mistyped[7:] not in str(raised.value), "an error must not repeat a key"


@given(st.text())
def test_other_texts_are_no_keys(text: str) -> None:
    with pytest.raises(apikey.ApiKeyError):
        apikey.check(text)
