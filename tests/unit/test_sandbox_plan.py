"""The whole policy, compared with files that were looked at: six kinds of machine, one job."""

import hashlib
import itertools
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trusted_pool.sandbox import plan, policy
from trusted_pool.sandbox.plan import Ground

GOLDEN = Path(__file__).parent / "golden"
MB = policy.MB
VIEW = policy.View(
    system=(policy.Entry("/usr"), policy.Entry("/bin", "usr/bin"), policy.Entry("/lib")),
    etc="/data/etc",
    masked=("keys", "acpi/"),
)
LIMITS = policy.Limits(memory_bytes=512 * MB, disk_bytes=1024 * MB, timeout_s=300, cpus=0.5, cpu_seconds=10)
LEVELS = {("root", 1): 3, ("root", 2): 3, ("root", None): 1, ("user", 1): 2, ("user", 2): 2, ("user", None): 1}
KINDS = list(itertools.product(("root", "user"), (1, 2, None)))


def ground(user: str, cgroups: int | None) -> Ground:
    return Ground(
        level=LEVELS[user, cgroups],
        own_uid=user == "root",
        cgroups=cgroups,
        tree=cgroups is not None,
        quota=(user, cgroups) == ("root", 2),
        filter="f" * 64,
        cpus=4,
    )


@pytest.mark.parametrize(("user", "cgroups"), KINDS)
def test_the_policy_is_word_for_word_the_one_that_was_looked_at(user: str, cgroups: int | None):
    path = GOLDEN / f"policy-{user}-{'none' if cgroups is None else f'v{cgroups}'}.txt"
    made = plan.text(VIEW, ground(user, cgroups), LIMITS)
    assert made == path.read_text(), f"when the change is meant, this is the new {path.name}:\n{made}"


def test_the_text_says_what_bubblewrap_is_told():
    """What the golden files pin is what is done: the text holds all options of the plan, in their order."""
    made = plan.plan(VIEW, "/data/jobs/a", LIMITS, policy.BASE_ENV, ground("root", 2))
    text = plan.text(VIEW, ground("root", 2), LIMITS)
    section = text.partition("\nbubblewrap\n")[2].partition("\n\n")[0]
    said = section.replace("{etc}", "/data/etc").replace("{directory}", "/data/jobs/a").split()
    assert said == made.options


def test_without_a_filter_the_policy_says_so():
    bare = msgspec.structs.replace(ground("user", None), level=0, filter=None)
    assert "\nfilter none\n" in plan.text(VIEW, bare, LIMITS)


def test_the_filter_of_jobs_with_a_gpu_is_part_of_it_where_there_is_one():
    bare, with_gpu = ground("root", 2), msgspec.structs.replace(ground("root", 2), gpu_filter="e" * 64)
    assert "GPU" not in plan.text(VIEW, bare)
    assert f"filter of jobs with a GPU {'e' * 64}\n" in plan.text(VIEW, with_gpu)


def test_a_policy_is_named_by_its_text_and_machines_that_differ_have_other_names():
    names = {plan.name(plan.text(VIEW, ground(*kind))) for kind in KINDS}
    assert len(names) == len(KINDS)
    text = plan.text(VIEW, ground("root", 2))
    assert plan.name(text) == hashlib.sha256(text.encode()).hexdigest()
    elsewhere = msgspec.structs.replace(VIEW, etc="/somewhere/else/etc")
    assert plan.text(elsewhere, ground("root", 2)) == text, "where a worker keeps its files is no part of the policy"


@given(st.integers(1, 2**40), st.floats(0.01, 64), st.integers(1, 64))
def test_the_group_has_the_jobs_limits_whatever_they_are(memory: int, cpus: float, there: int):
    limits = msgspec.structs.replace(LIMITS, memory_bytes=memory, cpus=cpus)
    on = msgspec.structs.replace(ground("root", 2), cpus=there)
    group = plan.plan(VIEW, "/d", limits, {}, on).group
    assert group is not None
    assert group.memory_bytes == memory
    assert (group.quota_us is None) == (cpus >= there)
    assert group.quota_us is None or abs(group.quota_us / 100_000 - max(cpus, 0.01)) < 0.001
    assert group.pids - limits.pids == 3


def test_what_is_masked_is_what_others_may_read(tmp_path: Path):
    (tmp_path / "keys").touch(0o444)
    (tmp_path / "kallsyms").touch(0o400)
    (tmp_path / "acpi").mkdir(0o555)
    (tmp_path / "cpuinfo").touch(0o444)
    assert policy.masked(tmp_path) == ("keys", "acpi/")
