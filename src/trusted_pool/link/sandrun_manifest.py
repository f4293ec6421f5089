"""The manifest as workers of the sandrun API read it: by searching its text for `"key"`, with no escapes.

What a job asks for and such a worker cannot be told is refused, never left out silently.
"""

import json

import msgspec

from trusted_pool.ports.link import RefusedError

_REFUSED = 400


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What of a job's manifest matters to such a worker, or to who collects from it."""

    entrypoint: str
    interpreter: str = "python3"
    args: list[str] = []
    env: dict[str, str] = {}
    outputs: list[str] | None = None
    cpu_seconds: float | None = None
    disk_mb: int = 1024


def asked(manifest: str) -> Asked:
    """Read a job's manifest, as the store keeps it."""
    return msgspec.json.decode(manifest, type=Asked)


def flat(job: Asked) -> str:
    """Write what the worker is told: entrypoint, interpreter and arguments.

    Every key that such a worker looks for stands before the arguments, so that an argument named like a key is not
    taken for it. `outputs` stays empty: the worker then lists everything, and which of it is wanted is decided by the
    pool's own rules.

    Raises:
        RefusedError: the job asks for something that such a worker cannot be told; the words say what.
    """
    if job.env:
        raise _refused("it cannot be told variables of the environment (env)")
    if job.cpu_seconds is not None:
        raise _refused("it cannot be told a limit of CPU time (cpu_seconds)")
    _sayable("the entrypoint", job.entrypoint)
    for arg in job.args:
        _sayable("the argument", arg)
    fields = {
        "environment": "",
        "outputs": [],
        "entrypoint": job.entrypoint,
        "interpreter": job.interpreter,
        "args": job.args,
    }
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _sayable(what: str, text: str) -> None:
    """Refuse what would end a string, or an array, where it is searched for, or what JSON writes as an escape."""
    if any(bad in text for bad in '"\\]') or any(ord(c) < 32 or ord(c) == 127 for c in text):  # noqa: PLR2004 - control
        raise _refused(f"{what} {text[:80]!r} holds a quote, a backslash, a ] or a control character")


def _refused(words: str) -> RefusedError:
    return RefusedError(_REFUSED, f"{words}; it speaks only the sandrun API")
