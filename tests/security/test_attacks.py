"""Hostile jobs, submitted to a pool as anybody submits one: as root and as an ordinary user, with neighbours beside."""

import contextlib
import json
import os
import statistics
import subprocess

import pytest

from support.arena import STEPS, Arena, Attack
from support.attacks import ATTACKS, LONG_ATTACKS
from support.programs import SPEAK_FALSELY
from support.real_pool import TPOOL

#: Cases that are no job, or need a pool of their own, by the tests that show them.
ELSEWHERE = {30: "test_30_", 58: "test_58_", 59: "test_59_", 60: "test_60_"}


@pytest.fixture(scope="module")
def fought(arena: Arena, request: pytest.FixtureRequest) -> Arena:
    """The arena after all attacks that are tested in this run."""
    wanted = {
        item.callspec.params["attack"].name
        for item in request.session.items
        if "attack" in getattr(getattr(item, "callspec", None), "params", {})
    }
    arena.fight([attack for attack in (*ATTACKS, *LONG_ATTACKS) if attack.name in wanted])
    return arena


@pytest.mark.timeout(300)
@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_an_attack_is_held(fought: Arena, attack: Attack):
    attack.held(fought.results[attack.name], fought)


@pytest.mark.long
@pytest.mark.parametrize("attack", LONG_ATTACKS, ids=[attack.name for attack in LONG_ATTACKS])
def test_a_large_attack_is_held(fought: Arena, attack: Attack):
    attack.held(fought.results[attack.name], fought)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_a_neighbour_does_not_notice(fought: Arena, attack: Attack):
    """Beside each attack one at least takes less than twice its time alone: who disturbs, disturbs all beside it.

    One neighbour may be late for what others do on this machine; none may fail.
    """
    alone_s = statistics.median(one.wall_s - one.waited_s for one in fought.alone)
    beside = fought.beside(fought.results[attack.name])
    assert beside, "no neighbour ran beside it"
    for one in (*fought.alone, *beside):
        assert (one.reason, one.stdout.partition("waited")[0], one.outputs) == (None, STEPS, {"done.txt": 8}), one
    took_s = [one.wall_s - one.waited_s for one in beside]
    assert min(took_s) < 2 * alone_s, (alone_s, took_s, [one.waited_s for one in beside])


def test_the_worker_limits_whole_trees(arena: Arena):
    if os.geteuid() != 0 and arena.level < 2:
        pytest.skip("nobody delegated control groups to this user")
    assert arena.level == (3 if arena.uid is None and os.geteuid() == 0 else 2)


def test_every_case_is_there():
    cases = {int(word) for attack in ATTACKS for word in attack.name.split() if word.isdigit()}
    assert cases | ELSEWHERE.keys() == set(range(21, 61))


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b"])
def test_30_outputs_outside_are_no_manifest(arena: Arena, path: str):
    answer = arena.pool.post({"main.py": b""}, {"outputs": [path]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_manifest")


def test_30_paths_that_are_written_in_another_way_are_not_served(fought: Arena):
    ended = fought.run("open('good.txt', 'w').write('good')")
    assert fought.content(ended.job_id, "good.txt") == b"good"
    for path in ("..%2f..%2f..%2fetc%2fpasswd", "a/%2e/b", "%2e%2e/good.txt", "good.txt%00", "%2fetc%2fpasswd"):
        answer = fought.pool.http.get(f"/outputs/{ended.job_id}/{path}")
        assert answer.status_code in (400, 404), (path, answer.status_code)
        assert "error" in answer.json()


def on_a_terminal(arena: Arena, *words: str) -> bytes:
    """What a `tpool` command shows to somebody at a terminal."""
    ours, theirs = os.openpty()
    env = {**os.environ, "TRUSTED_POOL_ADDR": arena.pool.url, "TERM": "xterm"}
    shown = b""
    with subprocess.Popen([*TPOOL, *words], stdout=theirs, stderr=theirs, stdin=theirs, env=env) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # the other end is closed: all was said
            while piece := os.read(ours, 65536):
                shown += piece
        process.wait(30)
    os.close(ours)
    return shown


def test_56_what_a_job_says_cannot_move_a_terminal(arena: Arena):
    ended = arena.run(SPEAK_FALSELY)
    forged = (b"\x1b]0;owned", b"\x1b[2J")
    for words in (("logs", ended.job_id), ("status", ended.job_id), ("explain", ended.job_id), ("jobs",)):
        shown = on_a_terminal(arena, *words)
        assert shown
        assert not any(sequence in shown for sequence in forged), words
    assert b"owned" in on_a_terminal(arena, "logs", ended.job_id)
    raw = on_a_terminal(arena, "logs", "--raw", ended.job_id)  # the control
    assert all(sequence in raw for sequence in forged)


def test_56_what_a_job_says_is_no_word_of_the_pool(arena: Arena):
    ended = arena.run(SPEAK_FALSELY)
    assert (ended.status["state"], ended.reason) == ("failed", "exit_code")
    followed = arena.pool.http.get(f"/logs/{ended.job_id}", params={"follow": 1}).text
    assert followed.count("\nevent: end\n") + followed.startswith("event: end\n") == 1
    last = followed.strip().split("\n\n")[-1].splitlines()
    assert json.loads(next(line for line in last if line.startswith("data: "))[6:])["state"] == "failed"
    assert "completed" in arena.pool.http.get(f"/logs/{ended.job_id}").json()["stdout"]
