"""From what was measured to the outcome: which reason, which limit, which sentence. Pure."""

import signal

import msgspec

from trusted_pool.core.job import Outcome, Usage
from trusted_pool.core.words import Reason
from trusted_pool.sandbox.cgroups import Reading
from trusted_pool.sandbox.policy import MB, Limits
from trusted_pool.sandbox.watch import Breach

_SIGNAL_BASE = 128
_LAST_SIGNAL = 31
_CANNOT_EXECUTE = "bwrap: execvp"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a program's end."""

    status: int | None  #: bubblewrap's word for the exit status; None: the program was never started
    words: str = ""  #: bubblewrap's complaint, when it was never started
    breach: Breach | None = None
    reading: Reading = Reading()
    usage: Usage = Usage()
    limits: Limits
    log_cut: bool = False
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
    if facts.reading.forks_refused:
        evidence["forks_refused"] = facts.reading.forks_refused
    if facts.log_cut:
        evidence["log_cut"] = 1
    return msgspec.structs.replace(outcome, usage=facts.usage, evidence=evidence)


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
        case Reason.DISK_LIMIT:
            return Outcome(
                reason=breach.reason,
                limit="disk_mb",
                detail=breach.words
                or f"its files took more than its {limits.disk_bytes // MB} MB, or there were more than "
                f"{limits.files} of them, or they were nested too deep",
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
