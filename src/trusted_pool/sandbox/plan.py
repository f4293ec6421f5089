"""Everything that is laid on one job, as a pure function of its limits and of what the machine has.

The launcher does what a plan says and nothing else. Written as text, the plan of a job with a manifest's defaults is
the machine's policy; its sha256 is the policy's name, by which a result says under which policy it was made.
"""

import hashlib
from collections.abc import Mapping

import msgspec

from trusted_pool.sandbox import cgroup_v1, cgroup_v2, policy
from trusted_pool.sandbox.cgroups import GroupLimits

#: Bubblewrap itself and the sandbox's init, which count as processes of the job's group.
_OWN_PROCESSES = 3
_SETTINGS = {1: cgroup_v1.settings, 2: cgroup_v2.settings}
#: The job of which the policy's text tells: a manifest's defaults.
_EXAMPLE = policy.Limits(memory_bytes=512 * policy.MB, disk_bytes=1024 * policy.MB, timeout_s=300)


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker's machine has to hold a job with."""

    level: int  #: of isolation, as measured
    own_uid: bool  #: each slot has a uid of its own
    cgroups: int | None  #: version of the control groups; None: there are none
    tree: bool  #: their limits hold
    quota: bool  #: the file system keeps a job within its disk
    filter: str | None  #: name of the system-call filter; None: there is none
    gpu_filter: str | None = None  #: of the filter of jobs that are lent a GPU; None: there is no GPU
    cpus: int  #: of the machine


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is done for one job, in the order of its parts."""

    group: GroupLimits | None
    rlimits: dict[str, int]
    options: list[str]  #: bubblewrap's


def plan(  # noqa: PLR0917 - what is laid on a job, each part once
    view: policy.View,
    directory: str,
    limits: policy.Limits,
    env: Mapping[str, str],
    ground: Ground,
    lent: policy.Equipment = policy.NOTHING_LENT,
) -> Plan:
    """Say what is laid on a job; `directory` is its own, as bubblewrap will find it. `lent`: what it asked to see."""
    group = None
    if ground.cgroups is not None:
        cpus = limits.cpus if limits.cpus < ground.cpus else None
        group = GroupLimits(memory_bytes=limits.memory_bytes, pids=limits.pids + _OWN_PROCESSES, cpus=cpus)
    return Plan(
        group=group,
        rlimits=policy.rlimits(limits, tree=ground.tree),
        options=policy.options(view, directory, limits, env, lent),
    )


def text(view: policy.View, ground: Ground, limits: policy.Limits = _EXAMPLE) -> str:
    """Write a policy down, one thing a line. `{…}` stands for what differs from slot to slot and job to job."""
    view = msgspec.structs.replace(view, etc="{etc}")
    made = plan(view, "{directory}", limits, policy.BASE_ENV, ground)
    lines = [f"isolation level {ground.level}"]
    lines += [f"user {'{uid of the slot}' if ground.own_uid else '{user of the worker}'}", "no new privileges"]
    lines += ["environment of bubblewrap: empty", "descriptors: stdout, stderr"]
    lines += ["", f"control groups {ground.cgroups or 'none'}"]
    if made.group is not None and ground.cgroups is not None:
        lines += [f"{key} {value}" for key, value in _SETTINGS[ground.cgroups](made.group).items()]
    lines += ["", "limits of each process"]
    lines += [f"{key} {value}" for key, value in made.rlimits.items()]
    lines += ["", "watched by the worker"]
    lines += [f"{key} {value}" for key, value in msgspec.structs.asdict(limits).items()]
    lines += [f"kept by the file system too: {'disk_bytes, files' if ground.quota else 'nothing'}"]
    lines += ["", f"filter {ground.filter or 'none'}"]
    if ground.gpu_filter is not None:
        lines += [f"filter of jobs with a GPU {ground.gpu_filter}"]
    lines += ["", "bubblewrap", *_options(made.options), "", "/etc"]
    lines += [f"{file}: {content!r}" for file, content in policy.ETC.items()]
    return "\n".join(lines) + "\n"


def _options(options: list[str]) -> list[str]:
    """Write options with their arguments, one on each line."""
    lines: list[str] = []
    for word in options:
        if word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return lines


def name(policy_text: str) -> str:
    """Name a policy by its text: two machines with the same name hold a job in the same way."""
    return hashlib.sha256(policy_text.encode()).hexdigest()
