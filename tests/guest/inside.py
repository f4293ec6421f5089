"""What is done inside the guest: one step after the other, each of whose results is a line that begins with RESULT."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
GROUPS = Path("/sys/fs/cgroup")
USER = 1234
TESTS = [
    "tests/security/test_running.py",
    "-k",
    "test_32 or test_33 or test_34 or test_35_memory or test_36 or test_38 or test_58",
]


def tell(name: str, **fields: Any) -> None:
    """Print one result."""
    print("RESULT " + json.dumps({"name": name, **fields}), flush=True)  # noqa: T201 - how it is heard outside


def doctor(name: str, begin: Callable[[], None] | None = None, wrap: tuple[str, ...] = ()) -> None:
    """Run the doctor; `begin` runs in its process first."""
    began = time.monotonic()
    command = [*wrap, str(BIN / "tpool"), "doctor", "--json", "--data", "/tmp"]
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


#: In namespaces of its own for mounts and control groups, with the hierarchy mounted anew.
_CONTAINED = 'umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"'


def main() -> None:
    """Go through all steps."""
    os.chdir(ROOT)
    tell("machine", kernel=os.uname().release, controllers=(GROUPS / "cgroup.controllers").read_text().split())
    doctor("root")
    doctor("delegated", delegated("user"))
    doctor("not delegated", become)
    doctor("without cpu", delegated("poor", "+memory +pids"))
    doctor("container", container(), ("unshare", "--cgroup", "--mount", "sh", "-c", _CONTAINED, "sh"))
    setting = Path("/proc/sys/kernel/unprivileged_userns_clone")
    setting.write_text("0")
    doctor("no namespaces for users")
    setting.write_text("1")
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "900", *TESTS]
    began = time.monotonic()
    done = subprocess.run(pytest, capture_output=True, text=True, check=False)
    tell("tests", code=done.returncode, said=done.stdout[-6000:], seconds=round(time.monotonic() - began, 1))
    left = [str(path) for path in GROUPS.glob("tpool-*")]
    tell("left", groups=[path for path in left if not path.endswith("-worker")])
    tell("done")


if __name__ == "__main__":
    main()
