"""What a worker keeps: its attempts, their events, their logs."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from trusted_pool.core.job import InputFile, Outcome
from trusted_pool.core.words import AttemptState


class JournalError(Exception):
    """The journal cannot do it; the message says why."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt as the worker has it. States used: accepted, running, ended, interrupted."""

    remote_id: str
    pool_id: str
    job_id: str
    attempt: int
    state: AttemptState
    manifest: str
    inputs: tuple[InputFile, ...] = ()
    accepted_at: float
    started_at: float | None = None
    ended_at: float | None = None
    outcome: Outcome | None = None
    words: str = ""
    cancelled: bool = False  #: a cancel was heard


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One event: the entry `remote_id` came into `kind` (started, ended, interrupted)."""

    seq: int
    kind: str
    remote_id: str


class Journal(Protocol):
    """Contract.

    - `journal_id` is random and new whenever the journal starts empty. `seq` grows by one with each event.
    - `accept`, `put` return when what they wrote is durable.
    - `accept` of a known (pool, job, attempt) writes nothing and returns the first entry.
    - Events survive restarts until their entry is deleted.
    - Log bytes need not survive a power cut; they do survive the end of the process.
    """

    journal_id: str

    async def accept(self, entry: Entry, kind: str | None = None) -> Entry:
        """Keep a new entry and, with `kind`, an event beside it; or return the one that has this attempt."""

    async def put(self, entry: Entry, kind: str | None = None) -> int:
        """Keep the entry's new state; with `kind`, an event beside it. Return the newest seq."""

    async def entry(self, remote_id: str) -> Entry | None:
        """Load one entry."""

    async def entries(self) -> list[Entry]:
        """Load all entries, oldest first."""

    async def changes(self, after: int) -> Sequence[Change]:
        """Return the events after `after`, oldest first."""

    async def seq(self) -> int:
        """Return the newest seq."""

    async def delete(self, remote_id: str) -> None:
        """Forget an entry, its events and its log. Idempotent."""

    def append_log(self, remote_id: str, data: bytes) -> int:
        """Append framed bytes to the entry's log; return its size. Never blocks for long."""

    async def read_log(self, remote_id: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes of the log from `start`; empty at its end or when there is none."""

    def log_size(self, remote_id: str) -> int:
        """Return the size of the log."""

    async def setting(self, name: str) -> str | None:
        """Return a kept setting (for instance the enrolled pool)."""

    async def set_setting(self, name: str, value: str | None) -> None:
        """Keep a setting durably; None forgets it."""

    async def close(self) -> None:
        """Finish and let go. Idempotent."""
