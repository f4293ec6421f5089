"""From what was measured to the outcome: which reason, which limit, which sentence. Pure."""

import signal

import msgspec

from trusted_pool.core.job import Outcome, Usage
from trusted_pool.core.words import Reason
from trusted_pool.sandbox.breach import Breach
from trusted_pool.sandbox.cgroups import Reading
from trusted_pool.sandbox.policy import MB, Limits

_SIGNAL_BASE = 128
_LAST_SIGNAL = 31
_CANNOT_EXECUTE = "bwrap: execvp"


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of limits that end no program: a call inside it fails, or what it writes is dropped."""

    open_files: int = 0  #: the most that a process was seen to have open
    processes: int = 0  #: the most that were seen; 0 where the kernel counts those that were refused
    largest_file_bytes: int = 0  #: of those that were left
    log_bytes: int = 0  #: that it wrote to stdout and stderr
    log_kept_bytes: int = 0
    log_limit_bytes: int = 0
    log_cut: bool = False


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a program's end."""

    status: int | None  #: bubblewrap's word for the exit status; None: the program was never started
    words: str = ""  #: bubblewrap's complaint, when it was never started
    breach: Breach | None = None
    reading: Reading = Reading()
    usage: Usage = Usage()
    limits: Limits
    seen: Seen = Seen()
    command: str = ""


def judge(facts: Facts) -> Outcome:
    """Return the outcome, without outputs. A limit that ended the task goes before what its exit status says."""
    outcome = _limit(facts, facts.breach) if facts.breach is not None else _status(facts)
    evidence: dict[str, int | float | str] = {
        "memory_peak_bytes": facts.usage.memory_peak_bytes,
        "memory_limit_bytes": facts.limits.memory_bytes,
        **outcome.evidence,
    }
    if facts.reading.oom_kills:
        evidence["oom_kill"] = facts.reading.oom_kills
    met = _met(facts)
    for found in met.values():
        evidence.update(found)
    if met:
        evidence["limits_met"] = ", ".join(met)
    if met and outcome.reason in (Reason.EXIT_CODE, Reason.SIGNAL):
        words = "; ".join(_WORDS[name].format(limits=facts.limits) for name in met)
        outcome = msgspec.structs.replace(outcome, detail=f"{outcome.detail}; while it ran {words}")
    return msgspec.structs.replace(outcome, usage=facts.usage, evidence=evidence)


#: What may have made a program fail by itself.
_WORDS = {
    "processes": "it was refused more than {limits.pids} processes",
    "open_files": "one of its processes had {limits.open_files} files open, which is the limit",
    "disk_mb": "a file reached {limits.disk_bytes} bytes, which is all its disk",
    "log_bytes": "its log was cut",
}


def _met(facts: Facts) -> dict[str, dict[str, int | float | str]]:
    """Name the limits that a program met and was not ended by, with what was seen of each."""
    limits, seen = facts.limits, facts.seen
    met: dict[str, dict[str, int | float | str]] = {}
    if facts.reading.forks_refused:
        met["processes"] = {"forks_refused": facts.reading.forks_refused, "processes_limit": limits.pids}
    elif seen.processes >= limits.pids:
        met["processes"] = {"processes_seen": seen.processes, "processes_limit": limits.pids}
    if seen.open_files >= limits.open_files:
        met["open_files"] = {"open_files_seen": seen.open_files, "open_files_limit": limits.open_files}
    if seen.largest_file_bytes >= limits.disk_bytes:
        met["disk_mb"] = {"largest_file_bytes": seen.largest_file_bytes, "disk_limit_bytes": limits.disk_bytes}
    if seen.log_cut:
        met["log_bytes"] = {"log_cut": 1, "log_bytes": seen.log_bytes, "log_limit_bytes": seen.log_limit_bytes}
    return met


def _limit(facts: Facts, breach: Breach) -> Outcome:
    limits = facts.limits
    code = facts.status if breach.reason is Reason.OUT_OF_MEMORY and facts.status in range(_SIGNAL_BASE) else None
    match breach.reason:
        case Reason.TIMEOUT:
            return Outcome(
                reason=breach.reason,
                limit="timeout",
                detail=f"it ran for longer than its timeout of {limits.timeout_s:g} s and was killed",
                evidence={"timeout_s": limits.timeout_s},
            )
        case Reason.CPU_LIMIT:
            return Outcome(
                reason=breach.reason,
                limit="cpu_seconds",
                detail=f"its processes used {breach.seen:.1f} s of processor time; "
                f"the limit is {limits.cpu_seconds or 0:g} s",
                evidence={"cpu_limit_s": limits.cpu_seconds or 0.0},
            )
        case Reason.OUT_OF_MEMORY:
            return Outcome(
                reason=breach.reason,
                limit="memory_mb",
                exit_code=code,
                detail=f"it needed more than its {limits.memory_bytes // MB} MB of memory "
                "(files in /tmp and /dev/shm count); raise memory_mb in the manifest",
            )
        case Reason.DISK_LIMIT if breach.limit == "files":
            return Outcome(
                reason=breach.reason,
                limit=breach.limit,
                detail=f"it made more than {limits.files} files (those in /tmp and /dev/shm count)",
                evidence={"files": int(breach.seen), "files_limit": limits.files},
            )
        case Reason.DISK_LIMIT if breach.limit == "directory_depth":
            return Outcome(
                reason=breach.reason,
                limit=breach.limit,
                detail=f"it nested directories deeper than {int(breach.seen)}",
                evidence={"directory_depth_limit": int(breach.seen)},
            )
        case Reason.DISK_LIMIT:
            return Outcome(
                reason=breach.reason,
                limit="disk_mb",
                detail=breach.words or f"its files took more than its {limits.disk_bytes // MB} MB",
                evidence={"disk_bytes": int(breach.seen), "disk_limit_bytes": limits.disk_bytes},
            )
        case Reason.SANDBOX_FAILED:
            return Outcome(reason=breach.reason, detail=breach.words)
        case _:
            return Outcome(reason=breach.reason, detail="it was cancelled and ended")


def _status(facts: Facts) -> Outcome:
    status = facts.status
    if status is None:
        if _CANNOT_EXECUTE in facts.words:
            return Outcome(
                reason=Reason.BAD_INPUT, detail=f"{facts.command} cannot be executed: {facts.words.rsplit(': ', 1)[-1]}"
            )
        words = facts.words or "bubblewrap ended without a word"
        return Outcome(reason=Reason.SANDBOX_FAILED, detail=f"the worker could not build the sandbox: {words[:500]}")
    if status == 0:
        return Outcome(exit_code=0)
    number = status - _SIGNAL_BASE
    if number == signal.SIGXFSZ:  # the kernel's word for a file beyond RLIMIT_FSIZE
        return _limit(facts, Breach(reason=Reason.DISK_LIMIT, seen=facts.seen.largest_file_bytes, limit="disk_mb"))
    if 0 < number <= _LAST_SIGNAL:
        name = signal.Signals(number).name
        return Outcome(
            reason=Reason.SIGNAL,
            exit_code=status,
            signal=number,
            detail=f"the program was ended by {name} (status {status})",
            evidence={"signal": number},
        )
    return Outcome(reason=Reason.EXIT_CODE, exit_code=status, detail=f"the program ended with exit code {status}")
