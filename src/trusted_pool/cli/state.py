"""What the command line remembers between calls: the last job submitted to each pool."""

import os
from pathlib import Path

import msgspec

#: Pools that are remembered; the oldest is forgotten first.
_MOST = 50


def _file() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "trusted-pool" / "last.json"


def _load() -> dict[str, str]:
    try:
        return msgspec.json.decode(_file().read_bytes(), type=dict[str, str])
    except (OSError, RuntimeError, ValueError, msgspec.DecodeError):
        return {}


def last_job(address: str) -> str | None:
    """Return the id of the job that was last submitted to the pool from here."""
    return _load().get(address)


def remember(address: str, job_id: str) -> str | None:
    """Remember a submitted job. Return why not, if it cannot be: a submit does not fail for that."""
    known = _load()
    known.pop(address, None)
    known[address] = job_id
    kept = dict(list(known.items())[-_MOST:])
    try:
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_bytes(msgspec.json.encode(kept))
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        return f"cannot remember this job as `last`: {error}"
    return None
