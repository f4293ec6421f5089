"""What is done inside the guest: one step after the other, each of whose results is a line that begins with RESULT."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trusted_pool.sandbox.bubblewrap import BubblewrapSandbox
from trusted_pool.sandbox.cgroups import processes
from trusted_pool.sandbox.doctor import run

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
GROUPS = Path("/sys/fs/cgroup")
USER = 1234
TESTS = ["tests/security/test_running.py", "tests/contract/test_sandbox.py"]


def tell(name: str, **fields: Any) -> None:
    """Print one result."""
    print("RESULT " + json.dumps({"name": name, **fields}), flush=True)  # noqa: T201 - how it is heard outside


def doctor(
    name: str, begin: Callable[[], None] | None = None, wrap: tuple[str, ...] = (), *, quick: bool = True
) -> None:
    """Run the doctor; `begin` runs in its process first. `quick`: no limits are overrun, which takes minutes here."""
    began = time.monotonic()
    command = [*wrap, str(BIN / "tpool"), "doctor", "--json", "--data", "/tmp", *(["--quick"] * quick)]
    done = subprocess.run(command, preexec_fn=begin, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = {"said": done.stdout[-500:]}
    took = round(time.monotonic() - began, 1)
    tell(name, code=done.returncode, report=report, complaint=done.stderr[-500:], seconds=took)


def become() -> None:
    """Be an ordinary user from here on."""
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)


def delegated(name: str, controllers: str = "+memory +pids +cpu") -> Callable[[], None]:
    """Make a group for the user, as systemd does for Delegate=yes; return what enters it and becomes the user."""
    parent, group = GROUPS / f"{name}.slice", GROUPS / f"{name}.slice" / "own.scope"
    (GROUPS / "cgroup.subtree_control").write_text("+memory +pids +cpu")
    parent.mkdir()
    (parent / "cgroup.subtree_control").write_text(controllers)
    group.mkdir()
    for path in (group, *(group / f"cgroup.{part}" for part in ("procs", "threads", "subtree_control"))):
        os.chown(path, USER, USER)

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        become()

    return enter


def container() -> Callable[[], None]:
    """Make what a container's first process finds: a group of its own that looks like the root of all."""
    group = GROUPS / "container"
    group.mkdir()

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    return enter


#: Writes 200 MB as fast as it can, in pieces that each may be as large as they are.
_WRITER = b"""
import os
n = 0
try:
    for number in range(50):
        with open(f"f{number}", "wb", 0) as file:
            n += file.write(bytes(4 << 20))
    print("all", n)
except OSError as error:
    print("refused", n, error.strerror)
"""


async def filled(root: Path) -> list[dict[str, Any]]:
    """Let jobs of one slot fill their disks, one after the other, with their results kept."""
    sandbox = BubblewrapSandbox(root, slots=1)
    await sandbox.start()
    found = []
    for key, disk_mb in (("first", 20), ("second", 20), ("roomy", 500)):
        outcome, said = await run(sandbox, 0, key, source=_WRITER, disk_mb=disk_mb, keep=True)
        found.append({"reason": outcome.reason, "said": said.split(), "files": len(outcome.outputs)})
    await sandbox.close()
    return found


#: Starts as many processes as it can, for ever.
_BOMB = b"""
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
_NEIGHBOUR = b"import time\ntime.sleep(10)\nprint('alive')\n"
_HOLDING = b"import time\nprint('up', flush=True)\ntime.sleep(3000)\n"


async def limited(root: Path) -> dict[str, Any]:
    """Run a fork bomb beside a neighbour, and what the kernel has to end for its memory; tell what was seen of it."""
    sandbox = BubblewrapSandbox(root, slots=2)
    await sandbox.start()
    began = time.monotonic()
    bomb = asyncio.ensure_future(run(sandbox, 0, "bomb", source=_BOMB, timeout_s=15.0))
    neighbour = asyncio.ensure_future(run(sandbox, 1, "neighbour", source=_NEIGHBOUR, timeout_s=300.0))
    bombed, _ = await bomb
    took = time.monotonic() - began
    _, said = await neighbour
    child, _ = await run(sandbox, 0, "memory_of_children", memory_mb=64)
    groups = [path.name for place in sandbox.places for path in place.iterdir() if path.is_dir()]
    await sandbox.close()
    return {
        "bomb": {"reason": bombed.reason, "seconds": took, "evidence": bombed.evidence},
        "neighbour": said,
        "child": {"reason": child.reason, "evidence": child.evidence, "approximate": child.usage.approximate},
        "groups": groups,
    }


async def hold(root: Path) -> None:
    """Be a worker that runs a job, until killed."""
    sandbox = BubblewrapSandbox(root, slots=1)
    await sandbox.start()
    holding = asyncio.ensure_future(run(sandbox, 0, "held", source=_HOLDING, timeout_s=3000.0))
    (place,) = sandbox.places
    while not processes(place / "slot-0"):  # noqa: ASYNC110 - the kernel tells nobody
        await asyncio.sleep(0.1)
    print("up", place, flush=True)  # noqa: T201 - heard by who kills this
    await holding


async def killed(root: Path) -> dict[str, Any]:
    """Kill a worker with its job, then start it again; tell what was left of the first, and of the second."""
    command = [sys.executable, __file__, "hold", str(root)]
    worker = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert worker.stdout is not None
    place = Path((await worker.stdout.readline()).decode().split()[1])
    worker.kill()
    await worker.wait()
    end = time.monotonic() + 60
    while (left := processes(place / "slot-0")) and time.monotonic() < end:  # noqa: ASYNC110 - the same
        await asyncio.sleep(0.1)
    orphans = len(left)
    was_there = (place / "slot-0").is_dir()
    sandbox = BubblewrapSandbox(root, slots=1)
    await sandbox.start()
    swept, there = await sandbox.sweep(frozenset()), (place / "slot-0").is_dir()
    await sandbox.close()
    return {"orphans": orphans, "was_there": was_there, "swept": swept, "still_there": there, "place": str(place)}


#: In namespaces of its own for mounts and control groups, with the hierarchy mounted anew.
_CONTAINED = 'umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"'


def main() -> None:
    """Go through all steps."""
    os.chdir(ROOT)
    for path in (Path(sys.base_prefix), ROOT):
        for above in (path, *path.parents):
            above.chmod(0o755)  # here alone: others than root are to reach it
    tell("machine", kernel=os.uname().release, controllers=(GROUPS / "cgroup.controllers").read_text().split())
    doctor("root", quick=False)
    doctor("delegated", delegated("user"), quick=False)
    doctor("not delegated", become)
    doctor("without cpu", delegated("poor", "+memory +pids"))
    doctor("container", container(), ("unshare", "--cgroup", "--mount", "sh", "-c", _CONTAINED, "sh"))
    tell("limited", **asyncio.run(limited(Path("/tmp/limited"))))
    result = asyncio.run(killed(Path("/tmp/killed")))
    tell("killed", last=Path(result["place"]).is_dir(), **result)
    tell("quota", jobs=asyncio.run(filled(Path("/tmp/quota"))))
    setting = Path("/proc/sys/kernel/unprivileged_userns_clone")
    setting.write_text("0")
    doctor("no namespaces for users")
    setting.write_text("1")
    if "guest.accelerator=kvm" in Path("/proc/cmdline").read_text().split():
        tests()
    left = [str(path) for path in GROUPS.glob("tpool-*")]
    tell("left", groups=[path for path in left if not path.endswith("-worker")])
    tell("done")


def tests() -> None:
    """Run the sandbox's own tests, which emulated would take longer than their deadlines."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "900", *TESTS]
    began = time.monotonic()
    done = subprocess.run(pytest, capture_output=True, text=True, check=False)
    tell("tests", code=done.returncode, said=done.stdout[-6000:], seconds=round(time.monotonic() - began, 1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["hold"]:
        asyncio.run(hold(Path(sys.argv[2])))
    else:
        main()
