"""Limits as numbers and as words."""

from pathlib import Path

import pytest

from trusted_pool.compose.limits import start_limits
from trusted_pool.compose.system import StartError
from trusted_pool.core.limits import Beyond, Bucket, Limits, LimitsChange, OwnerUsage, beyond_bytes, beyond_queue
from trusted_pool.protocol import limits, sizes

ADA = OwnerUsage(owner="ada", queued=3, bytes=100)


def test_a_limit_of_nothing_lets_everything_pass():
    assert beyond_queue(Limits(), OwnerUsage(owner="ada", queued=10**9)) is None
    assert beyond_bytes(Limits(), OwnerUsage(owner="ada", bytes=10**18), 10**18, 10**18) is None


def test_the_queue_is_full_at_its_limit_with_what_is_coming():
    assert beyond_queue(Limits(queued=4), ADA) is None
    assert beyond_queue(Limits(queued=4), ADA, 1) == Beyond(used=4, allowed=4)
    assert beyond_queue(Limits(queued=3), ADA) == Beyond(used=3, allowed=3)


def test_bytes_may_fill_the_limit_and_no_more():
    assert beyond_bytes(Limits(bytes=150), ADA, 30, 20) is None
    assert beyond_bytes(Limits(bytes=150), ADA, 30, 21) == Beyond(used=130, allowed=150, needed=21)


def test_a_change_stands_over_the_usual_limits_and_zero_is_none():
    usual = Limits(queued=10, running=5, bytes=7)
    change = LimitsChange(queued=20, running=0)
    assert change.over(usual) == Limits(queued=20, running=0, bytes=7)
    assert LimitsChange().over(usual) == usual


def test_a_minutes_submits_may_come_at_once_then_at_their_rate():
    bucket = Bucket(60, 100.0)
    assert [bucket.take(60, 100.0) for _ in range(60)] == [0.0] * 60
    assert bucket.take(60, 100.0) == pytest.approx(1.0)
    assert bucket.take(60, 100.4) == pytest.approx(0.6)
    assert bucket.take(60, 101.0) == 0.0
    assert bucket.take(60, 101.0) > 0
    assert bucket.left(60, 131.0) == 30
    assert bucket.left(60, 10_000.0) == 60, "it never holds more than a minute's"


def test_a_clock_that_goes_back_gives_and_takes_nothing():
    bucket = Bucket(2, 100.0)
    assert bucket.take(2, 100.0) == 0.0
    assert bucket.left(2, 50.0) == 1
    assert bucket.left(2, 80.0) == 2  # 30 s after that


def test_a_rate_that_is_raised_gives_what_it_is_raised_by():
    bucket = Bucket(2, 0.0)
    assert [bucket.take(2, 0.0) == 0 for _ in range(3)] == [True, True, False]
    assert [bucket.take(4, 0.0) == 0 for _ in range(3)] == [True, True, False]
    assert bucket.take(1, 60.0) == 0.0
    assert bucket.take(1, 60.0) > 0, "lowered, it holds no more than the lower one"


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("0", 0),
        ("500", 500),
        ("500b", 500),
        ("1k", 1024),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("1.5G", 3 * 2**29),
        ("100 GB", 100 * 10**9),
        ("2TiB", 2 * 2**40),
    ],
)
def test_sizes(text: str, bytes_: int):
    assert sizes.read(text) == bytes_


@pytest.mark.parametrize("text", ["", "G", "-1", "1e9", "1 2", "1XB", "nan", "1iB", "9" * 40, "1e400", "٣"])
def test_what_is_no_size(text: str):
    with pytest.raises(ValueError, match=r"write it like|more than there is"):
        sizes.read(text)


def test_limits_as_they_are_written():
    assert limits.split("submits-per-minute=600") == ("submits_per_minute", "600")
    assert limits.split("Submits_Per_Minute= 600 ") == ("submits_per_minute", "600")
    assert limits.amount("queued", "none") == 0
    assert limits.amount("queued", "0") == 0
    assert limits.amount("bytes", "100gb") == 10**11
    assert limits.say("bytes", 10**11) == "100 GB"
    assert limits.say("queued", 0) == "none"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("queue=5", "did you mean queued"),
        ("colour=5", "there are queued, running, bytes"),
        ("queued", "queued=NUMBER"),
        ("queued=", "queued=NUMBER"),
    ],
)
def test_what_is_no_limit(text: str, words: str):
    with pytest.raises(limits.BadLimitError, match=words):
        limits.split(text)


@pytest.mark.parametrize("value", ["many", "-1", "1.5", "9" * 19, "²", "10k"])
def test_what_is_no_number_of_jobs(value: str):
    with pytest.raises(limits.BadLimitError, match="no number for queued"):
        limits.amount("queued", value)


def test_a_coordinator_starts_with_limits_that_suit_most(tmp_path: Path):
    usual = start_limits([], tmp_path)
    assert usual.owners.bytes > 10**6, "half of the disk"
    assert usual.owners.running == usual.owners.submits_per_minute == 0
    assert usual.owners.queued >= 10**5
    assert usual.connections == 1000
    quarter = start_limits(["bytes=25%", "queued=none", "connections=7", "running=3"], tmp_path)
    assert quarter.owners.bytes == pytest.approx(usual.owners.bytes / 2, rel=0.01)
    assert (quarter.owners.queued, quarter.owners.running, quarter.connections) == (0, 3, 7)


@pytest.mark.parametrize("said", ["bytes=0%", "bytes=101%", "bytes=x%", "connections=x", "queued=50%", "none", ""])
def test_a_coordinator_does_not_start_with_what_is_no_limit(tmp_path: Path, said: str):
    with pytest.raises(StartError, match="--limit") as raised:
        start_limits([said], tmp_path)
    assert raised.value.usage
