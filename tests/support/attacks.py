"""Hostile jobs, cases 21 to 60, and what must come of each when it is submitted to a pool.

Controls are named, not repeated: the tests of the launcher run the same programs where nothing holds them.
"""

import json
from collections.abc import Callable
from typing import Any

from support import programs
from support.arena import Arena, Attack, Ended
from support.programs import CALLS, CANARY, HARMLESS, HOGS

MB = 2**20
_RUNNING, _ESCAPE = "tests/security/test_running.py", "tests/security/test_running_escape.py"
_OUTPUTS, _CONTROLS = "tests/security/test_outputs.py", "tests/security/test_attack_controls.py"
Held = Callable[[Ended, Arena], None]


def says(text: str, reason: str | None = None) -> Held:
    """It printed exactly this, and ended so."""

    def held(ended: Ended, _: Arena) -> None:
        assert (ended.stdout, ended.reason) == (text, reason), ended

    return held


def limited(reason: str, limit: str, **evidence: Any) -> Held:
    """A limit ended it, and is named with what was seen."""

    def held(ended: Ended, _: Arena) -> None:
        assert (ended.reason, ended.outcome["limit"], ended.status["fault"]) == (reason, limit, "limit"), ended
        assert ended.status["detail"]
        assert evidence.items() <= ended.evidence.items(), ended.evidence
        assert "done" not in ended.stdout

    return held


def met(limit: str, **evidence: Any) -> Held:
    """A call inside it failed at a limit, and that is told."""

    def held(ended: Ended, _: Arena) -> None:
        assert limit in ended.evidence["limits_met"].split(", "), ended
        assert evidence.items() <= ended.evidence.items(), ended.evidence

    return held


def no_memory(limit_mb: int) -> Held:
    """It ran out of memory, and never had more than it may."""

    def held(ended: Ended, arena: Arena) -> None:
        limited("out_of_memory", "memory_mb", memory_limit_bytes=limit_mb * MB)(ended, arena)
        used = ended.status["worker_status"]["execution_metadata"]
        assert not used["approximate"]
        assert used["memory_peak_bytes"] <= limit_mb * MB

    return held


def refused_output(words: str, *, files: tuple[str, ...] = ("good.txt",)) -> Held:
    """An output that was named cannot be handed out; the others are there, and nothing of the machine is."""

    def held(ended: Ended, arena: Arena) -> None:
        assert (ended.reason, ended.status["fault"]) == ("bad_output", "user"), ended
        assert words in ended.status["detail"]
        hands_out_only(*files)(ended, arena)

    return held


def hands_out_only(*files: str) -> Held:
    """These outputs and no others; the secret is in none."""

    def held(ended: Ended, arena: Arena) -> None:
        assert tuple(ended.outputs) == files, ended
        whole = arena.pool.http.get(f"/download/{ended.job_id}").content
        assert CANARY.encode() not in whole
        assert not any(CANARY.encode() in arena.content(ended.job_id, path) for path in files)

    return held


def _both(*each: Held) -> Held:
    def held(ended: Ended, arena: Arena) -> None:
        for one in each:
            one(ended, arena)

    return held


def _restless(ended: Ended, arena: Arena) -> None:
    assert ended.reason is None, ended
    assert CANARY.encode() not in arena.pool.http.get(f"/download/{ended.job_id}").content
    size = ended.outputs["grown.bin"]
    assert len(arena.content(ended.job_id, "grown.bin")) == size > 0
    assert set(ended.outputs) <= {"grown.bin", "swapped.txt", "next"}


def _calls(ended: Ended, _: Arena) -> None:
    said = json.loads(ended.stdout)
    wrong = {
        name: said[name]
        for name, *_ in CALLS
        if said[name] != ("EAFNOSUPPORT" if name.startswith("socket_") else "ENOSYS")
    }
    assert not wrong
    assert {said[name] for name, _number, *_ in HARMLESS} == {"ok"}


def _forks(ended: Ended, arena: Arena) -> None:
    assert ended.stdout.startswith("refused 11"), ended
    assert int(ended.stdout.split()[-1]) <= 515
    met("processes", processes_limit=512)(ended, arena)
    assert ended.evidence["forks_refused"] >= 1


def _bomb(ended: Ended, arena: Arena) -> None:
    limited("timeout", "timeout", timeout_s=1.0)(ended, arena)
    assert ended.wall_s < 10, "its processes took long to go"


def _cpu(ended: Ended, arena: Arena) -> None:
    limited("cpu_limit", "cpu_seconds", cpu_limit_s=0.3)(ended, arena)
    assert 0.3 <= ended.status["worker_status"]["execution_metadata"]["cpu_seconds"] < 5


def _deaf(ended: Ended, arena: Arena) -> None:
    limited("timeout", "timeout")(ended, arena)
    assert ended.stdout == "deaf\n"
    assert 2 <= ended.wall_s < 10


def _daemon(ended: Ended, arena: Arena) -> None:
    says("left\n")(ended, arena)
    assert ended.wall_s < 5


def _flood(ended: Ended, arena: Arena) -> None:
    assert ended.reason is None, ended
    met("log_bytes", log_limit_bytes=16 * MB)(ended, arena)
    assert ended.evidence["log_bytes"] >= FLOOD_MIB * MB
    used = ended.status["worker_status"]["execution_metadata"]
    assert 0.99 * 16 * MB < used["bytes_out"] <= 16 * MB
    assert arena.pool.http.get(f"/logs/{ended.job_id}").json()["truncated"]
    assert arena.seen["memory_grown"] < 64 * MB


def _smashed(ended: Ended, _: Arena) -> None:
    """Whatever it makes of its own end: it is the job's, and what it used is known."""
    assert ended.stdout == "begun\nsmashed\n", ended
    assert (ended.reason, ended.status["fault"]) == ("signal", "user"), ended
    assert ended.status["worker_status"]["execution_metadata"]["cpu_seconds"] >= 0.4


def _unreadable(ended: Ended, arena: Arena) -> None:
    refused_output("is not readable")(ended, arena)


def _missing(ended: Ended, arena: Arena) -> None:
    hands_out_only("good.txt")(ended, arena)
    assert ended.evidence["outputs_unmatched"] == "nothing.txt"
    gone = arena.pool.http.get(f"/outputs/{ended.job_id}/nothing.txt")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "no_such_output")


def _killed(ended: Ended, _: Arena) -> None:
    assert (ended.reason, ended.outcome["signal"]) == ("signal", 31), ended  # SIGSYS


def _lent(ended: Ended, arena: Arena) -> None:
    assert ended.reason is None, ended
    assert ended.stdout == "['data.txt', 'sub'] data /binds/tools\n"
    assert sorted(str(path.relative_to(arena.lent)) for path in arena.lent.rglob("*")) == [
        "data.txt",
        "sub",
        "sub/more.txt",
    ]
    assert ((arena.lent / "data.txt").read_text(), oct((arena.lent / "data.txt").stat().st_mode)) == (
        "data",
        "0o100777",
    )


GOOD = "open('good.txt', 'w').write('good')\nimport os, socket, time\n"
FLOOD_MIB = 256


def attack(name: str, source: str, held: Held, control: str, **manifest: Any) -> Attack:
    return Attack(name, source, held, control, manifest)


ATTACKS = [
    # The long ones first, so that the short ones fill what is left of the time.
    attack(
        "26 many names",
        programs.MANY_NAMES,
        limited("disk_limit", "files", files_limit=100_000),
        f"{_OUTPUTS}::test_26_many_files",
        outputs=["none"],
    ),
    attack("52 flood", programs.flood(FLOOD_MIB), _flood, f"{_CONTROLS}::test_52_without_a_cap_all_of_it_comes"),
    attack(
        "35 /job",
        programs.FILL,
        limited("disk_limit", "disk_mb", disk_limit_bytes=20 * MB),
        f"{_RUNNING}::test_35_the_job_directory_is_limited",
        disk_mb=20,
    ),
    attack(
        "35 no name",
        programs.UNNAMED,
        limited("disk_limit", "disk_mb"),
        f"{_RUNNING}::test_35_files_without_a_name_count",
        disk_mb=20,
    ),
    attack(
        "35 open files",
        programs.OPEN_FILES,
        _both(met("open_files", open_files_limit=4096), says("refused 24 True\n", "exit_code")),
        f"{_CONTROLS}::test_35_without_a_limit_more_files_are_opened",
    ),
    attack("32 bomb", programs.FORK_BOMB, _bomb, f"{_RUNNING}::test_32_forks_are_counted", timeout="1s", cpus=0.5),
    attack("32 forks", programs.COUNT_FORKS, _forks, f"{_RUNNING}::test_32_forks_are_counted", memory_mb=2048),
    attack(
        "36 cpu",
        programs.SPINNING_CHILDREN,
        _cpu,
        f"{_RUNNING}::test_36_forked_children_cannot_hide_their_cpu_time",
        cpu_seconds=0.3,
    ),
    attack(
        "53 grandchild",
        programs.GRANDCHILD,
        _both(says("bye\n"), lambda ended, _: _soon(ended)),
        f"{_RUNNING}::test_53_a_grandchild_with_the_pipe_does_not_delay_the_end",
    ),
    attack(
        "57 init",
        programs.SMASH_INIT,
        _smashed,
        f"{_CONTROLS}::test_57_who_may_write_a_process_decides_how_it_ends",
        timeout="60s",
    ),
    attack(
        "37 deaf",
        programs.DEAF,
        _deaf,
        f"{_RUNNING}::test_37_the_wall_clock_ends_what_ignores_signals",
        timeout="2s",
    ),
    attack(
        "29 nested",
        programs.NESTED,
        limited("disk_limit", "directory_depth"),
        f"{_OUTPUTS}::test_29_ten_thousand_nested_directories",
    ),
    attack(
        "27 28 restless", programs.RESTLESS, _restless, f"{_OUTPUTS}::test_27_a_daemon_that_swaps_a_file_for_a_symlink"
    ),
    *(
        attack(
            f"33 {kind}",
            source,
            no_memory(170 if kind == "tmpfs" else 128),
            f"{_RUNNING}::test_33_memory_is_limited_however_it_is_held",
            memory_mb=170 if kind == "tmpfs" else 128,
        )
        for kind, source in HOGS.items()
    ),
    attack(
        "34 child",
        programs.HOG_IN_A_CHILD,
        no_memory(100),
        f"{_RUNNING}::test_34_a_child_that_runs_out_of_memory_is_reported_though_the_exit_status_is_0",
        memory_mb=100,
    ),
    *(
        attack(
            f"35 {place}",
            f"open('{place}/x', 'wb').write(bytes(80 * 2**20)); print('done')",
            lambda ended, _: _full(ended),
            f"{_RUNNING}::test_35_memory_disks_are_full_at_their_size",
            memory_mb=128,
        )
        for place in ("/tmp", "/dev/shm")
    ),
    attack(
        "35 inodes",
        programs.MANY_FILES.format(count=101_000, place="/tmp") + "\nimport time; time.sleep(3); print('done')",
        limited("disk_limit", "files", files_limit=100_000),
        f"{_CONTROLS}::test_35_a_memory_disk_holds_as_many_files_as_there_is_memory",
        memory_mb=1024,
    ),
    attack(
        "25 sparse",
        programs.LONG_FILE,
        _both(
            limited("output_limit", "output_bytes", output_bytes_limit=32 * MB),
            lambda ended, _: _is(ended.stdout, "refused 27\n"),
        ),
        f"{_OUTPUTS}::test_25_a_sparse_file",
        disk_mb=32,
    ),
    attack(
        "21 link to a secret",
        GOOD + "os.symlink('SECRET', 'leak.txt'); os.symlink('/etc/shadow', 'shadow')",
        refused_output("is a symbolic link"),
        f"{_OUTPUTS}::test_21_a_symlink_to_a_secret",
        outputs=["good.txt", "leak.txt", "shadow"],
    ),
    attack(
        "21 link that nobody named",
        GOOD + "os.symlink('SECRET', 'leak.txt'); os.symlink('/etc', 'etc')",
        _both(hands_out_only("good.txt"), lambda ended, _: _is(ended.evidence["outputs_passed_over"], 2)),
        f"{_OUTPUTS}::test_21_a_symlink_to_a_secret",
    ),
    attack(
        "22 link upwards",
        GOOD + "os.symlink('..', 'up')",
        hands_out_only("good.txt"),
        f"{_OUTPUTS}::test_22_a_directory_symlink_upwards",
        outputs=["good.txt", "up/**"],
    ),
    attack(
        "23 hard link",
        GOOD + "os.link('main.py', 'copy.py')",
        refused_output("hard link"),
        f"{_OUTPUTS}::test_23_a_hard_link",
        outputs=["good.txt", "copy.py"],
    ),
    attack(
        "24 fifo and socket",
        GOOD + "os.mkfifo('pipe'); socket.socket(socket.AF_UNIX).bind('sock')",
        refused_output("is no regular file"),
        f"{_OUTPUTS}::test_24_fifos_and_sockets_do_not_block",
        outputs=["good.txt", "pipe", "sock"],
    ),
    attack(
        "31 unreadable",
        GOOD + "open('shut', 'w').write('x'); os.chmod('shut', 0)",
        _unreadable,
        f"{_OUTPUTS}::test_31_missing_or_unreadable",
        outputs=["good.txt", "shut"],
    ),
    attack(
        "31 missing",
        GOOD,
        _missing,
        f"{_OUTPUTS}::test_31_missing_or_unreadable",
        outputs=["good.txt", "nothing.txt"],
    ),
    attack("38 daemon", programs.daemon("7351.38"), _daemon, f"{_RUNNING}::test_38_a_daemon_does_not_outlive_its_job"),
    attack(
        "39 40 41 42 43 44 calls",
        f"CALLS = {json.dumps(CALLS + HARMLESS)}\n{programs.PROBER}",
        _calls,
        f"{_ESCAPE}::test_39_to_44_calls_that_no_job_may_make",
    ),
    attack(
        "44 interfaces",
        programs.INTERFACES,
        says("['lo']\n"),
        f"{_CONTROLS}::test_44_outside_the_machine_answers",
    ),
    attack(
        "44 network",
        programs.NETWORK,
        says("refused 97\nrefused 97\n"),
        f"{_CONTROLS}::test_44_outside_the_machine_answers",
    ),
    attack(
        "45 kernel",
        programs.KERNEL,
        lambda ended, _: _is(ended.stdout.split(), ["False"] * 3),
        f"{_ESCAPE}::test_45_the_kernel_shows_and_takes_nothing",
    ),
    attack(
        "45 read-only system",
        programs.WRITE_EVERYWHERE,
        lambda ended, _: _is(ended.stdout.split(), ["/tmp", "/dev/shm", "/job"]),
        f"{_CONTROLS}::test_45_outside_a_system_may_be_written_to",
    ),
    attack(
        "46 abstract socket",
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('\\0ABSTRACT'); print('connected')",
        says("", "exit_code"),
        f"{_ESCAPE}::test_46_abstract_sockets_of_the_machine_are_not_there",
    ),
    attack(
        "47 kill all",
        programs.KILL_ALL,
        lambda ended, _: _soon(ended),
        f"{_RUNNING}::test_47_kill_all_reaches_nobody_else",
    ),
    attack(
        "48 neighbour's files",
        programs.FIND_CANARIES,
        says("[] 2 False\n"),
        f"{_ESCAPE}::test_48_a_neighbours_files_and_processes_are_not_there",
    ),
    attack("49 inherited", programs.SCAN, says(""), f"{_ESCAPE}::test_49_nothing_of_the_worker_is_inherited"),
    attack(
        "50 terminal",
        programs.TERMINAL,
        lambda ended, _: _is(ended.stdout.split(), ["EPERM"] * 3),
        f"{_ESCAPE}::test_50_bytes_cannot_be_put_into_a_terminal",
    ),
    attack(
        "51 core",
        programs.DUMP_CORE,
        _both(says("refused\n", "signal"), lambda ended, _: _is(ended.outputs, {})),
        f"{_CONTROLS}::test_51_outside_the_limit_of_cores_may_be_raised",
    ),
    attack("54 int80", programs.FOREIGN, _killed, f"{_ESCAPE}::test_54_calls_of_other_architectures_are_killed"),
    attack("54 x32", programs.X32, _killed, f"{_ESCAPE}::test_54_calls_of_other_architectures_are_killed"),
    attack("55 setuid", programs.SETUID, says("1000\n"), f"{_CONTROLS}::test_55_outside_setuid_gains_a_user"),
    attack(
        "55 privileges",
        programs.PRIVILEGES,
        lambda ended, _: _is(ended.stdout.split(), ["1", "0", "True", "True", "1000"]),
        f"{_ESCAPE}::test_55_setuid_gains_nothing",
    ),
    attack(
        "56 false words",
        programs.SPEAK_FALSELY,
        lambda ended, _: _is(ended.reason, "exit_code"),
        "tests/security/test_attacks.py::test_56_what_a_job_says_cannot_move_a_terminal",
    ),
    attack(
        "57 status",
        programs.FORGED_STATUS,
        lambda ended, _: _is(ended.outcome["exit_code"], 5),
        f"{_CONTROLS}::test_57_who_may_write_a_process_decides_how_it_ends",
    ),
    attack(
        "60 binds",
        programs.CHANGE_WHAT_IS_LENT,
        _lent,
        f"{_CONTROLS}::test_60_outside_what_is_lent_can_be_changed",
        binds=["dataset", "tools"],
    ),
]
#: The same at their full size.
LONG_ATTACKS = [
    attack(
        "26 a million files",
        programs.MANY_FILES.format(count=1_000_000, place="/job"),
        limited("disk_limit", "files", files_limit=100_000),
        f"{_OUTPUTS}::test_26_many_files",
    ),
    attack(
        "26 many outputs",
        programs.MANY_FILES.format(count=10_001, place="/job"),
        limited("output_limit", "output_files", output_files_limit=10_000),
        f"{_OUTPUTS}::test_26_many_files",
    ),
    attack(
        "52 flood of 10 GiB",
        programs.flood(10 * 1024),
        _flood,
        f"{_CONTROLS}::test_52_without_a_cap_all_of_it_comes",
    ),
]


def _is(found: object, expected: object) -> None:
    assert found == expected


def _soon(ended: Ended) -> None:
    assert ended.wall_s < 5, ended


def _full(ended: Ended) -> None:
    """The file system was full, or the memory that it is; which of both comes first is no matter."""
    assert ended.reason in ("exit_code", "out_of_memory"), ended
    assert "done" not in ended.stdout
