"""Control groups: finding them, and version 2 as the kernel documents it, on a directory that stands for it."""

import os
from pathlib import Path

import pytest

from trusted_pool.sandbox import cgroup_search
from trusted_pool.sandbox.cgroup_search import Mount, mounts, own_path
from trusted_pool.sandbox.cgroup_v2 import V2Group
from trusted_pool.sandbox.cgroups import GroupLimits

MOUNTINFO = """\
25 30 0:22 / {at}/memory rw,relatime shared:9 - cgroup cgroup rw,memory
26 30 0:23 / {at}/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
27 30 0:24 /box {at}/pids rw,relatime - cgroup cgroup rw,pids
28 30 0:25 / {at}/unified rw,relatime - cgroup2 cgroup2 rw
29 30 0:26 / /proc rw - proc proc rw
"""
MEMBERSHIP = "4:memory:/a/b\n3:cpu,cpuacct:/\n2:pids:/box/c\n0::/user.slice/x.scope\n"


def test_mounts_are_read_with_their_controllers():
    found = mounts(MOUNTINFO.format(at="/cg"))
    assert [mount.point for mount in found] == [Path("/cg") / n for n in ("memory", "cpu,cpuacct", "pids", "unified")]
    assert found[3].controllers is None
    assert "cpuacct" in (found[1].controllers or ())


def test_our_own_group_is_found_in_each_hierarchy(tmp_path: Path):
    for name in ("memory/a/b", "pids/c", "unified/user.slice/x.scope"):
        (tmp_path / name).mkdir(parents=True)
    found = {mount.point.name: own_path(mount, MEMBERSHIP) for mount in mounts(MOUNTINFO.format(at=tmp_path))}
    assert found["memory"] == tmp_path / "memory/a/b"
    assert found["pids"] == tmp_path / "pids/c"  # a container sees the part below its root
    assert found["unified"] == tmp_path / "unified/user.slice/x.scope"


def test_a_group_out_of_sight_is_its_mount(tmp_path: Path):
    assert own_path(Mount(tmp_path, "/", frozenset({"pids"})), "2:pids:/../gone\n") == tmp_path


def test_without_control_groups_the_words_say_so():
    found = cgroup_search.find("name", mountinfo="", membership="")
    assert (found.cgroups, found.cause.why) == (None, "no control groups are mounted")
    assert "mount -t cgroup2" in found.cause.mend


def test_control_groups_that_something_covers_are_none(tmp_path: Path):
    found = cgroup_search.find("name", mountinfo=MOUNTINFO.format(at=tmp_path), membership=MEMBERSHIP)
    assert found.cgroups is None
    assert f"something covers {tmp_path}/memory" in found.cause.why


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_groups_of_others_are_not_delegated(tmp_path: Path):
    for name in ("memory", "cpu,cpuacct", "pids"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").touch()
        (tmp_path / name).chmod(0o555)
    found = cgroup_search.find("name", mountinfo=MOUNTINFO.format(at=tmp_path), membership="")
    assert found.cgroups is None
    assert "delegated" in found.cause.why
    assert "as root" in found.cause.mend


def unified(at: Path, controllers: str, *, root: bool = True, processes: str = "") -> cgroup_search.Found:
    """Look at a directory that stands for a version 2 group."""
    (at / "cgroup.controllers").write_text(controllers + "\n")
    (at / "cgroup.procs").write_text(processes)
    if not root:
        (at / "cgroup.events").write_text("populated 1\n")
    line = f"28 30 0:25 / {at} rw - cgroup2 cgroup2 rw\n"
    return cgroup_search.find("name", mountinfo=line, membership="0::/\n")


def test_version_2_needs_the_controllers(tmp_path: Path):
    found = unified(tmp_path, "cpuset memory")
    assert found.cgroups is None
    assert "no controller pids, cpu" in found.cause.why
    assert "cgroup_enable=pids" in found.cause.mend


def test_controllers_that_version_1_has_taken(tmp_path: Path):
    (tmp_path / "memory").mkdir()
    (tmp_path / "unified").mkdir()
    assert "systemd.unified_cgroup_hierarchy=1" in unified(tmp_path / "unified", "").cause.mend


def test_controllers_that_systemd_does_not_pass_on(tmp_path: Path):
    mend = unified(tmp_path, "memory pids", root=False).cause.mend
    assert "Delegate=cpu memory pids" in mend
    assert "user@.service.d/delegate.conf" in mend


def test_a_group_with_others_in_it_is_not_taken(tmp_path: Path):
    found = unified(tmp_path, "cpu memory pids", root=False, processes="1\n")
    assert found.cgroups is None
    assert "holds other processes" in found.cause.why
    assert "systemd-run --user --scope -p Delegate=yes" in found.cause.mend


FILES = {
    "memory.max": "max",
    "memory.swap.max": "max",
    "memory.oom.group": "0",
    "pids.max": "max",
    "cpu.max": "max 100000",
    "memory.current": "4096\n",
    "memory.peak": "8192\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 1\n",
    "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\n",
    "pids.events": "max 7\n",
    "cgroup.procs": "",
}


def test_version_2_is_written_and_read_as_the_kernel_documents_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "slot-0"
    plain = Path.mkdir

    def mkdir(self: Path, *args: int, **kwargs: bool) -> None:
        plain(self, *args, **kwargs)
        for name, text in FILES.items():
            (self / name).write_text(text)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    group = V2Group(path)
    group.begin(GroupLimits(memory_bytes=1_000_000, pids=9, cpus=0.5))
    assert (path / "memory.max").read_text().startswith("1000000")
    assert (path / "memory.swap.max").read_text().startswith("0")
    assert (path / "memory.oom.group").read_text() == "1"
    assert (path / "pids.max").read_text().startswith("9")
    assert (path / "cpu.max").read_text() == "max 100000"
    group.throttle()
    assert (path / "cpu.max").read_text() == "50000 100000"
    reading = group.read()
    assert (reading.cpu_seconds, reading.memory_bytes, reading.memory_peak_bytes) == (1.5, 4096, 8192)
    assert (reading.oom_kills, reading.forks_refused) == (2, 7)
    group.join(4711)
    assert (path / "cgroup.procs").read_text() == "4711"
    group.unthrottle()
    assert (path / "cpu.max").read_text().startswith("max 100000")
