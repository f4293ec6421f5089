"""Turns between owners: served evenly by bytes, and nobody saves up or owes."""

from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from trusted_pool.core.limits import Bucket
from trusted_pool.core.turns import Turns

OWNERS = "abc"
MOST = 100
sizes = st.integers(1, MOST)
#: An owner comes with pieces, or somebody is served.
steps = st.lists(
    st.tuples(st.sampled_from(OWNERS), st.lists(sizes, min_size=1, max_size=8)) | st.none(), min_size=1, max_size=120
)


@given(steps)
def test_who_both_wait_are_served_evenly(todo: list[tuple[str, list[int]] | None]) -> None:
    turns: Turns[tuple[str, int]] = Turns()
    waiting: dict[str, deque[int]] = {owner: deque() for owner in OWNERS}
    since: dict[frozenset[str], Counter[str]] = {}  # bytes served since both of a pair wait
    for step in todo:
        if step is not None:
            owner, pieces = step
            for piece in pieces:
                turns.wait(owner, turns.stamp(owner, piece), (owner, piece))
                waiting[owner].append(piece)
        elif len(turns):
            owner, piece = _next(turns)
            assert waiting[owner].popleft() == piece, "in the order in which they came"
            for pair, served in since.items():
                if owner in pair:
                    served[owner] += piece
        for one in OWNERS:
            for other in OWNERS:
                if one < other and waiting[one] and waiting[other]:
                    since.setdefault(frozenset((one, other)), Counter())
                else:
                    since.pop(frozenset((one, other)), None)
        for pair, served in since.items():
            one, other = sorted(pair)
            assert abs(served[one] - served[other]) <= 2 * MOST
    assert len(turns) == sum(map(len, waiting.values()))


def _next(turns: Turns[tuple[str, int]]) -> tuple[str, int]:
    found = turns.next()
    assert found is not None
    assert found[0] == found[1][0]
    return found[1]


@given(st.integers(1, 50), sizes)
def test_one_piece_among_many_of_another_waits_for_few(crowd: int, size: int) -> None:
    """However many of another's pieces wait, no more than two of that size go before it."""
    turns: Turns[str] = Turns()
    for _ in range(crowd):
        turns.wait("many", turns.stamp("many", size), "many")
    for _ in range(crowd // 2):
        turns.next()
    turns.wait("one", turns.stamp("one", size), "one")
    before = 0
    while turns.next() != ("one", "one"):
        before += 1
    assert before <= 2


@given(st.lists(st.tuples(st.sampled_from(OWNERS), sizes), max_size=40), st.lists(st.sampled_from("abcx"), max_size=60))
def test_nobody_is_served_twice_or_forgotten(coming: list[tuple[str, int]], asked: list[str]) -> None:
    """Whether the next of all is taken or the next of one owner."""
    turns: Turns[int] = Turns()
    waiting: dict[str, deque[int]] = {owner: deque() for owner in OWNERS}
    for number, (owner, size) in enumerate(coming):
        turns.wait(owner, turns.stamp(owner, size), number)
        waiting[owner].append(number)
    for which in asked:
        if which == "x":
            found = turns.next()
            assert (found is None) is not any(waiting.values())
            if found is not None:
                assert waiting[found[0]].popleft() == found[1]
        else:
            assert turns.next_of(which) == (waiting[which].popleft() if waiting[which] else None)
        assert len(turns) == sum(map(len, waiting.values()))


@given(st.integers(1, 30), st.lists(st.floats(0, 20), max_size=60))
def test_no_minute_sees_more_than_two_minutes_submits(per_minute: int, gaps: list[float]) -> None:
    bucket, now, taken = Bucket(per_minute, 0.0), 0.0, []
    for gap in gaps:
        now += gap
        while bucket.take(per_minute, now) == 0.0:
            taken.append(now)
    for begin in taken:
        assert sum(begin <= at <= begin + 60 for at in taken) <= 2 * per_minute + 1


@given(st.integers(1, 30), st.floats(0, 100))
def test_who_waits_as_long_as_he_is_told_gets_one(per_minute: int, begin: float) -> None:
    bucket = Bucket(per_minute, begin)
    now = begin
    for _ in range(3 * per_minute):
        while (wait_s := bucket.take(per_minute, now)) > 0:
            assert wait_s <= 60.001
            now += wait_s + 1e-9
