"""From findings to a level and a refusal; from what a kernel says to cause and mend."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trusted_pool.sandbox import causes, standing
from trusted_pool.sandbox.causes import Cause
from trusted_pool.sandbox.standing import Finding, Kind

KINDS = st.sampled_from(list(Kind))
FINDINGS = st.lists(
    st.builds(Finding, name=st.just("x"), title=st.just("t"), kind=KINDS, holds=st.sampled_from([True, False, None]))
)


def broken(kind: Kind, why: str = "why", mend: str = "mend") -> Finding:
    return Finding(name=str(kind), title="t", kind=kind, holds=False, why=why, mend=mend)


@pytest.mark.parametrize(
    ("kinds", "level"),
    [
        ([], 3),
        ([Kind.NOTE], 3),
        ([Kind.OWN_UID], 2),
        ([Kind.LIMIT], 1),
        ([Kind.FILTER], 0),
        ([Kind.WALL], 0),
        ([Kind.OWN_UID, Kind.LIMIT], 1),
        ([Kind.LIMIT, Kind.FILTER, Kind.OWN_UID], 0),
    ],
)
def test_levels(kinds: list[Kind], level: int):
    assert standing.level_of(map(broken, kinds)) == level


@given(FINDINGS, FINDINGS)
def test_more_that_is_broken_never_raises_the_level(some: list[Finding], more: list[Finding]):
    assert standing.level_of(some + more) <= standing.level_of(some)


@given(FINDINGS)
def test_a_worker_starts_exactly_from_level_2_on(findings: list[Finding]):
    level = standing.level_of(findings)
    assert (standing.refusal(findings, allow_weaker=False) is None) == (level >= 2)
    walls = all(f.holds is not False for f in findings if f.kind is Kind.WALL)
    assert (standing.refusal(findings, allow_weaker=True) is None) == walls


def test_what_was_not_looked_at_is_no_fault():
    unknown = Finding(name="x", title="t", kind=Kind.WALL, holds=None)
    assert standing.level_of([unknown]) == 3


def test_the_gravest_is_named_with_its_mend_and_what_weaker_means():
    findings = [
        broken(Kind.OWN_UID),
        broken(Kind.LIMIT, "no groups", "mount"),
        broken(Kind.FILTER, "no filter", "load"),
    ]
    line = standing.refusal(findings, allow_weaker=False)
    assert line == (
        "this machine cannot filter a job's system calls: no filter; load, or say --allow-weaker-isolation to run at "
        "level 0 (`tpool doctor` says more)"
    )
    line = standing.refusal([*findings, broken(Kind.WALL, "no walls", "build")], allow_weaker=True)
    assert line == "no sandbox holds on this machine: no walls; build (`tpool doctor` says more)"


def kernel(at: Path, *, filtered: bool = False, spaces: bool = True, seccomp: bool = True, **settings: str) -> Path:
    """Make a directory that stands for /proc."""
    (at / "self").mkdir()
    (at / "self/status").write_text(f"Name:\tx\nSeccomp:\t{2 if filtered else 0}\nSeccomp_filters:\t0\n")
    if spaces:
        (at / "self/ns").mkdir()
        (at / "self/ns/user").symlink_to("user:[4026531837]")
    for name, value in {"user__max_user_namespaces": "96365", **settings}.items():
        path = at / "sys" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    if seccomp:
        (at / "sys/kernel/seccomp").mkdir(parents=True)
    return at


REFUSED = "Creating new namespace failed: Operation not permitted"


@pytest.mark.parametrize(
    ("made", "words", "why", "mend"),
    [
        ({"spaces": False}, REFUSED, "has no user namespaces", "CONFIG_USER_NS=y"),
        ({"user__max_user_namespaces": "0"}, "No space left on device", "max_user_namespaces is 0", "sysctl -w user."),
        ({"kernel__unprivileged_userns_clone": "0"}, REFUSED, "unprivileged_userns_clone is 0", "userns_clone=1"),
        ({"kernel__unprivileged_userns_clone": "1"}, REFUSED, REFUSED, "in a container"),
        (
            {"kernel__apparmor_restrict_unprivileged_userns": "1"},
            "loopback: Failed RTM_NEWADDR: Operation not permitted",
            "AppArmor forbids",
            "bwrap-userns-restrict",
        ),
        ({"filtered": True}, REFUSED, "a system-call filter", "--security-opt seccomp=unconfined"),
        ({}, "No space left on device", "limit of 96365", "sysctl -w user.max_user_namespaces=100000"),
        ({}, "Can't mount proc on /newroot/proc: Operation not permitted", "partly covered", "systempaths=unconfined"),
        ({}, REFUSED, REFUSED, "allow user namespaces"),
    ],
)
def test_why_no_sandbox_can_be_built(tmp_path: Path, made: dict[str, str], words: str, why: str, mend: str):
    found = causes.of_walls(words, kernel(tmp_path, **made))  # type: ignore[arg-type]
    assert why in found.why
    assert words in found.why or "no user namespaces" in found.why
    assert mend in found.mend


@pytest.mark.parametrize(
    ("made", "why", "mend"),
    [
        ({"seccomp": False}, "has no system-call filters", "CONFIG_SECCOMP_FILTER=y"),
        ({"filtered": True}, "refuses further ones", "seccomp=unconfined"),
        ({}, "Invalid argument", ""),
    ],
)
def test_why_calls_cannot_be_filtered(tmp_path: Path, made: dict[str, bool], why: str, mend: str):
    found = causes.of_filter("Invalid argument", kernel(tmp_path, **made))  # type: ignore[arg-type]
    assert isinstance(found, Cause)
    assert why in found.why
    assert mend in found.mend
