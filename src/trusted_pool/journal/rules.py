"""What every journal checks, whatever it is kept in."""

import re

from trusted_pool.core.words import AttemptState
from trusted_pool.ports.journal import Entry, JournalError

_REMOTE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}\Z")
#: Entries in these states log nothing more.
SILENT = frozenset({AttemptState.ENDED, AttemptState.INTERRUPTED})


def check_remote_id(remote_id: str) -> None:
    """Raise JournalError unless the id can be the name of a file."""
    if not _REMOTE_ID.match(remote_id):
        raise JournalError(f"{remote_id[:80]!r} is no remote id: letters, digits, '-' and '_', at most 128")


def key_of(entry: Entry) -> tuple[str, str, int]:
    """Return what an accept is recognised by."""
    return entry.pool_id, entry.job_id, entry.attempt


def no_entry(remote_id: str) -> JournalError:
    """Return the error of a `put` for what is not there."""
    return JournalError(f"there is no entry {remote_id[:80]!r} of this pool, job and attempt")


def taken(remote_id: str) -> JournalError:
    """Return the error of an `accept` under a remote id that another attempt has."""
    return JournalError(f"the remote id {remote_id!r} belongs to another attempt")
