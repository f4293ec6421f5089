"""Limits that are overrun one by one, and how it is told that each held. The jobs are in `inside.overrun`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from trusted_pool.core.job import Outcome
from trusted_pool.core.words import Reason
from trusted_pool.sandbox.collect import OutputLimits
from trusted_pool.sandbox.policy import MB
from trusted_pool.sandbox.standing import Kind

#: What a sandbox has to be given so that the overruns are quick.
LOG_LIMIT_BYTES = MB
OUTPUT_LIMITS = OutputLimits(max_files=20)
_FEWER = 0.75  #: of a processor: what half a share may seem to be, measured by a clock that began earlier

#: Given the outcome and what was printed: what was seen of the limit; nothing when it did not hold.
Judge = Callable[[Outcome, str], str]


class Overrun(msgspec.Struct, frozen=True, kw_only=True):
    """One job, by the name of its function in `inside.overrun`."""

    name: str
    title: str
    manifest: Mapping[str, Any]
    judge: Judge
    kind: Kind = Kind.LIMIT


def source() -> str:
    """Return the program of all these jobs; its argument is the name of one."""
    return (Path(__file__).with_name("inside") / "overrun.py").read_text()


def _ended_by(reason: Reason, limit: str) -> Judge:
    """Whether the job was ended for this reason, and the limit was named."""

    def judge(outcome: Outcome, _: str) -> str:
        if outcome.reason is not reason or outcome.limit != limit:
            return ""
        used = outcome.usage
        return f"{reason} after {used.wall_time_ms / 1000:.1f} s, {used.memory_peak_bytes // MB} MB"

    return judge


def _said(word: str) -> Judge:
    """Whether the job itself was told that it is refused."""
    return lambda _, said: said.strip() if said.startswith(word) else ""


def _evidence(name: str) -> Judge:
    """Whether the worker wrote something down about it."""
    return lambda outcome, _: f"{name}: {outcome.evidence[name]}" if outcome.evidence.get(name) else ""


def _share(outcome: Outcome, _: str) -> str:
    used, wall = outcome.usage.cpu_seconds, outcome.usage.wall_time_ms / 1000
    return f"{used:.2f} s of {wall:.2f} s" if outcome.exit_code == 0 and 0 < used < _FEWER * wall else ""


def _refused_forks(outcome: Outcome, said: str) -> str:
    forks = outcome.evidence.get("forks_refused")
    return f"{forks} refused" if forks else said.strip() if said.startswith("refused") else ""


def _passed_over(outcome: Outcome, _: str) -> str:
    passed = outcome.evidence.get("outputs_passed_over")
    return f"{passed} passed over" if passed and not outcome.outputs else ""


OVERRUNS = (
    Overrun(
        name="memory",
        title="a job that takes more memory is ended",
        manifest={"memory_mb": 64},
        judge=_ended_by(Reason.OUT_OF_MEMORY, "memory_mb"),
    ),
    Overrun(
        name="memory_of_children",
        title="a child that takes more memory is told, though its parent ends well",
        manifest={"memory_mb": 64},
        judge=_ended_by(Reason.OUT_OF_MEMORY, "memory_mb"),
    ),
    Overrun(
        name="memory_files",
        title="files in memory count as memory",
        manifest={"memory_mb": 64},
        judge=_ended_by(Reason.OUT_OF_MEMORY, "memory_mb"),
    ),
    Overrun(
        name="processes",
        title="a job that starts too many processes is refused more",
        manifest={"memory_mb": 1024},
        judge=_refused_forks,
    ),
    Overrun(
        name="cpu_time",
        title="processor time of forked children is limited",
        manifest={"cpu_seconds": 0.3},
        judge=_ended_by(Reason.CPU_LIMIT, "cpu_seconds"),
    ),
    Overrun(
        name="cpu_share",
        title="a job gets no more than its share of the processors",
        manifest={"cpus": 0.5},
        judge=_share,
    ),
    Overrun(
        name="wall_clock",
        title="a job that ignores signals is ended by the clock",
        manifest={"timeout_s": 0.3},
        judge=_ended_by(Reason.TIMEOUT, "timeout"),
    ),
    Overrun(
        name="disk",
        title="a job that fills its directory is ended",
        manifest={"disk_mb": 8},
        judge=_ended_by(Reason.DISK_LIMIT, "disk_mb"),
    ),
    Overrun(
        name="file_size",
        title="no file is larger than the job's disk",
        manifest={"disk_mb": 8},
        judge=_said("refused"),
    ),
    Overrun(
        name="memory_disks",
        title="the file systems in memory have a size",
        manifest={"memory_mb": 128},
        judge=_said("both full"),
    ),
    Overrun(
        name="open_files",
        title="the number of open files is limited",
        manifest={},
        judge=_said("refused"),
    ),
    Overrun(
        name="log_size",
        title="what a job prints is cut",
        manifest={},
        judge=_evidence("log_cut"),
    ),
    Overrun(
        name="output_count",
        title="a job that leaves too many files is told",
        manifest={},
        judge=_ended_by(Reason.OUTPUT_LIMIT, "output_files"),
    ),
    Overrun(
        name="output_links",
        title="what a job links to is not handed out",
        manifest={},
        judge=_passed_over,
        kind=Kind.WALL,
    ),
)
