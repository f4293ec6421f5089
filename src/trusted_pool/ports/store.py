"""What the coordinator keeps: versioned rows, events, counters, small blobs."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from trusted_pool.core.access import ApiKey
from trusted_pool.core.job import Job, OutputFile
from trusted_pool.core.limits import OwnerUsage, RunningCaps
from trusted_pool.core.request import Request
from trusted_pool.core.words import JobState
from trusted_pool.core.worker import Worker
from trusted_pool.protocol.audit import AuditEntry

#: Places in the queue are counted up to here: whoever is so far behind need not know how far.
FARTHEST = 10_000


class StoreError(Exception):
    """The store cannot do it; the message says why and what to do."""


class StoreFullError(StoreError):
    """No space is left. Nothing of the commit was kept."""


class StoreDamagedError(StoreError):
    """The database is damaged. It was not touched."""


class StoreSlowError(StoreError):
    """The question takes too long; one that looks at less may be answered."""


class StoreInUseError(StoreError):
    """Another process has it."""


class Versioned(msgspec.Struct, frozen=True):
    """A job as it was loaded, with the version that a commit must expect."""

    job: Job
    version: int


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a job's story. The store numbers events in the order of commits."""

    job_id: str
    at: float
    kind: str
    attempt: int = 0
    data: dict[str, Any] = {}
    seq: int = 0  #: given by the store


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The accepted result of a job: written once, with the commit that accepts it."""

    job_id: str
    attempt: int
    outputs: tuple[OutputFile, ...] = ()
    log_sha256: str | None = None  #: the framed log
    log_size: int = 0


class Blob(msgspec.Struct, frozen=True, kw_only=True):
    """A blob that a unit begins to refer to. `data` holds the bytes of a small one; else it must be published."""

    sha256: str
    size: int
    data: bytes | None = None


class Idempotency(msgspec.Struct, frozen=True, kw_only=True):
    """An owner's idempotency key: what it was used for, until when."""

    owner: str
    key: str
    fingerprint: str  #: of canonical manifest and (name, sha256) list
    job_id: str
    until: float


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner of a unit's job may have once the unit is kept. None: any amount."""

    queued: int | None = None
    running: int | None = None
    bytes: int | None = None


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that are committed together or not at all. Empty parts are left out.

    `expects` None: the job is new; a number: its row must have that version.
    """

    job: Job | None = None
    expects: int | None = None
    before: Job | None = None  #: the job as loaded, for the counters; None when new
    events: tuple[Event, ...] = ()
    result: Result | None = None
    blobs: tuple[Blob, ...] = ()  #: referred to by `job` from now on
    idempotency: Idempotency | None = None
    workers: tuple[Worker, ...] = ()  #: rows to put; the coordinator that leases a worker is its only writer
    charge: float = 0.0  #: added to the virtual time of the job's owner
    caps: Caps | None = None
    settings: dict[str, str | None] = {}  #: to keep; None forgets one
    api_keys: tuple[ApiKey, ...] = ()  #: rows to put
    key_uses: dict[str, float] = {}  #: when a key was last shown, by its id
    audit: tuple[AuditEntry, ...] = ()  #: to append; conflicts when its place in the chain is taken


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one unit."""

    ok: bool
    version: int = 0  #: of the job's row, when ok
    #: what was stale: "job", "idempotency", "blob" or "audit"; or the cap that it met: "queued", "running" or "bytes"
    conflict: str = ""


class ShapeCount(msgspec.Struct, frozen=True, kw_only=True):
    """A shape with queued jobs."""

    shape: str
    request: Request
    queued: int


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What an owner has had of the pool, for fair queueing."""

    owner: str
    virtual_time: float  #: the sum of its charges, moved up when it comes back from having nothing queued
    queued: int


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """Kept in the transactions that change them, never counted."""

    jobs: dict[str, int] = {}  #: by state
    total: int = 0


class JobQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A filter over jobs; all given conditions hold. Newest first."""

    states: tuple[JobState, ...] = ()
    owner: str | None = None
    worker_id: str | None = None
    name: str | None = None
    labels: dict[str, str] = {}  #: each must be equal
    since: float | None = None  #: submitted at or after
    until: float | None = None  #: submitted before
    limit: int = 50  #: a page of large jobs may hold fewer
    after: str | None = None  #: cursor of the page before


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of jobs."""

    jobs: tuple[Job, ...]
    next: str | None = None  #: cursor of the next page


class Store(Protocol):
    """Contract.

    - `commit` answers only when what it says is durable: after a power cut an ok unit is there whole and a
      conflicting one is absent whole. Units are independent: a stale one never fails its neighbours. Units are applied
      in order, so two units with the same expected version give ok, then conflict.
    - A job's version starts at 1 and grows by 1 with each commit.
    - A unit with `idempotency` conflicts when the owner's key is held and not run out; nothing of it is kept.
    - `reserve` marks and returns up to n queued jobs of the shapes, with `not_before` ≤ now and no reservation of
      another holder that is still valid. Between owners: the least virtual time goes first, counting 1 for each job
      already picked in this call; ties by name. Within an owner: by `order_key`, then job id. The answer is in that
      order. Two holders never have the same job at once; a holder's own reservations do not hide jobs from it. A
      reservation is no transition: it does not change the version, and a commit of the job ends it.
    - `charge` adds to the virtual time of the job's owner. An owner whose first job is queued begins at the least
      virtual time of the owners that have queued jobs, or with nobody there at the highest that any owner ever had, if
      its own is less: who was away has saved nothing, and who was alone owes nothing.
    - Each owner's usage is kept in the transactions that change it. `bytes`: the size of every blob that its jobs refer
      to, once however often, and the bytes of its jobs' manifests and of its results as they are kept.
    - A unit with `caps` that adds to what is capped, so that the owner has more than the cap after it, conflicts;
      nothing of it is kept. One that adds nothing there never does, even beyond the cap.
    - `reserve` with `caps` picks no more of an owner's jobs than it may have running besides those it has. Who may have
      none is passed over and saves nothing up by it: its virtual time is moved up to the least of those picked.
    - A unit may hold events only, or settings, workers, keys or entries of the audit trail only.
    - Reads see every commit that was answered before they began.
    - Loading what is not there gives None or an empty sequence, never an error.
    - After StoreFullError nothing was kept and later calls succeed once there is space.
    """

    async def commit(self, units: Sequence[Unit]) -> list[Committed]:
        """Commit the units. Raises StoreFullError, StoreError."""

    async def job(self, job_id: str) -> Versioned | None:
        """Load one job."""

    async def open_jobs(self, worker_id: str | None = None) -> list[Versioned]:
        """Load all jobs that are dispatched or running, of one worker or of all."""

    async def reserve(
        self,
        shapes: Sequence[str],
        n: int,
        holder: str,
        now: float,
        until: float,
        *,
        caps: RunningCaps | None = None,
    ) -> list[Versioned]:
        """Mark up to n eligible queued jobs as looked at by `holder` until then, and load them."""

    async def shapes(self) -> list[ShapeCount]:
        """Return the shapes that have queued jobs."""

    async def next_due(self, now: float) -> float | None:
        """Return the earliest moment after `now` at which a queued job becomes eligible or expires, if any does."""

    async def oldest_queued_at(self) -> float | None:
        """Return when the job that waits longest was submitted, or None when none waits."""

    async def expired(self, now: float, n: int) -> list[Versioned]:
        """Load up to n queued jobs whose `expires_at` has passed."""

    async def jobs(self, query: JobQuery) -> JobPage:
        """Return one page of jobs. Raises ValueError for a cursor that it did not make; StoreSlowError."""

    async def queue_position(self, job: Job) -> int | None:
        """Return how many queued jobs go before it, at most FARTHEST, or None when it is not queued."""

    async def events(self, job_id: str) -> list[Event]:
        """Return a job's story, oldest first."""

    async def result(self, job_id: str) -> Result | None:
        """Return the accepted result."""

    async def blob(self, sha256: str) -> Blob | None:
        """Return a blob that some job refers to, with its bytes when it is small."""

    async def idempotency(self, owner: str, key: str, now: float) -> Idempotency | None:
        """Return what an owner's key was used for, when it has not run out."""

    async def workers(self) -> list[Worker]:
        """Load all workers ever seen in an allowlist."""

    async def counters(self) -> Counters:
        """Return the counters."""

    async def shares(self) -> list[Share]:
        """Return the share of every owner that has queued jobs, least virtual time first."""

    async def usage(self, owner: str) -> OwnerUsage:
        """Return what an owner has now; nothing, of one that is not known."""

    async def usages(self) -> list[OwnerUsage]:
        """Return what every owner has that ever had a job, by name."""

    async def settings(self) -> dict[str, str]:
        """Return all kept settings."""

    async def api_keys(self) -> list[tuple[ApiKey, float | None]]:
        """Load all keys ever made, oldest first, with the time each was last shown."""

    async def audit(self, chain: str, after: int, n: int) -> list[AuditEntry]:
        """Load up to n entries of a chain behind number `after`, in order."""

    async def audit_end(self, chain: str) -> AuditEntry | None:
        """Load the newest entry of a chain."""

    async def close(self) -> None:
        """Finish what was begun and let go. Idempotent."""
