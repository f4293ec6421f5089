"""Control groups of version 2, with their controllers, on a kernel that has nothing else: in a guest of our own."""

import json
import logging
import os
import platform
import sys
from pathlib import Path
from typing import Any

import pytest

from support import guest

pytestmark = [pytest.mark.long, pytest.mark.timeout(3000)]
INSIDE = Path(__file__).with_name("inside.py")
DONE_WITHIN_S = 2400
Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Boot a guest, let it do everything, and hear what came of it."""
    if platform.machine() != "x86_64":
        pytest.skip("the guest is made for x86_64")
    if (words := guest.missing()) is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(words)
    booted = guest.Guest(tmp_path_factory.mktemp("guest"), f"{sys.executable} {INSIDE}")
    lines = booted.run(DONE_WITHIN_S)
    found = [json.loads(line.partition("RESULT ")[2]) for line in lines if "RESULT {" in line]
    took = {result["name"]: result.get("seconds") for result in found}
    logging.getLogger(__name__).warning("the guest ran with %s: %s", booted.accelerator, took)
    assert found, lines[-50:]
    assert found[-1]["name"] == "done", (found[-1]["name"], lines[-50:])
    return {result["name"]: result for result in found}


def held(result: dict[str, Any]) -> dict[str, bool | None]:
    assert "findings" in result["report"], result
    return {finding["name"]: finding["holds"] for finding in result["report"]["findings"]}


def finding(result: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in result["report"]["findings"] if one["name"] == name]
    return dict(found)


def test_the_kernel_has_version_2_with_its_controllers(results: Results):
    assert {"memory", "pids", "cpu"} <= set(results["machine"]["controllers"])


@pytest.mark.parametrize("name", ["root", "container"])
def test_as_root_everything_holds(results: Results, name: str):
    result = results[name]
    assert [one for one in result["report"].get("findings", [result]) if one.get("holds") is not True] == []
    assert (result["code"], result["report"]["isolation"]) == (0, 3)
    assert finding(result, "control_groups")["seen"] == "version 2"


def test_an_ordinary_user_with_a_delegated_group_limits_whole_trees(results: Results):
    result = results["delegated"]
    broken = {name for name, holds in held(result).items() if holds is not True}
    assert broken == {"own_uid", "disk_quota"}, result
    assert (result["code"], result["report"]["isolation"]) == (0, 2)
    assert finding(result, "control_groups")["seen"] == "version 2"


def test_an_ordinary_user_without_one_is_told_what_to_type(results: Results):
    result = results["not delegated"]
    assert (result["code"], result["report"]["isolation"]) == (1, 1)
    assert "not delegated" in finding(result, "control_groups")["why"]
    assert "systemd-run --user --scope -p Delegate=yes" in result["report"]["refusal"]


def test_a_controller_that_was_not_passed_on_is_named(results: Results):
    result = results["without cpu"]
    assert (result["code"], result["report"]["isolation"]) == (1, 1)
    assert "no controller cpu" in finding(result, "control_groups")["why"]
    assert "Delegate=cpu memory pids" in finding(result, "control_groups")["mend"]


def test_a_quota_holds_what_is_too_fast_to_be_counted(results: Results):
    """Two jobs of one slot, whose results are kept: each has its whole disk and no more. The control has room."""
    first, second, roomy = results["quota"]["jobs"]
    for job in (first, second):
        assert (job["reason"], job["said"][0]) == ("disk_limit", "refused"), job
        assert 16 << 20 <= int(job["said"][1]) <= 21 << 20
    assert (roomy["reason"], roomy["said"][:2], roomy["files"]) == (None, ["all", str(200 << 20)], 50)


def test_debians_own_switch_for_user_namespaces_is_named(results: Results):
    result = results["no namespaces for users"]
    assert (result["code"], result["report"]["isolation"]) == (1, 0)
    assert "kernel.unprivileged_userns_clone is 0" in result["report"]["refusal"]
    assert "sysctl -w kernel.unprivileged_userns_clone=1" in result["report"]["refusal"]


def test_a_fork_bomb_is_held_and_gone_and_its_neighbour_lives(results: Results):
    result = results["limited"]
    assert result["bomb"]["reason"] in ("timeout", "out_of_memory")
    assert result["bomb"]["evidence"]["forks_refused"] > 0
    assert result["bomb"]["seconds"] < 15 + 45  # emulated
    assert result["neighbour"] == "alive\n"


def test_what_the_kernel_ended_for_its_memory_is_told_with_evidence(results: Results):
    child = results["limited"]["child"]
    assert (child["reason"], child["approximate"]) == ("out_of_memory", False)
    assert child["evidence"]["oom_kill"] >= 1
    assert 60 << 20 <= child["evidence"]["memory_peak_bytes"] <= 64 << 20


def test_a_tasks_group_goes_with_the_task(results: Results):
    assert results["limited"]["groups"] == []


def test_nothing_survives_a_killed_worker_and_its_groups_go_at_the_next_start(results: Results):
    result = results["killed"]
    assert (result["orphans"], result["was_there"]) == (0, True)
    assert (result["swept"], result["still_there"], result["last"]) == (["held"], False, False)


def test_the_sandboxs_own_tests_pass(results: Results):
    if "tests" not in results:
        pytest.skip("the guest was emulated; these tests have deadlines for real machines")
    assert results["tests"]["code"] == 0, results["tests"]["said"]
    assert " passed" in results["tests"]["said"]


def test_no_group_is_left(results: Results):
    assert results["left"]["groups"] == []
