"""Submit: from uploaded files and a manifest to a job that is kept durably."""

import asyncio
import hashlib
import logging

import msgspec

from trusted_pool.coordinator.admission import Admission
from trusted_pool.coordinator.bulletin import Bulletin
from trusted_pool.coordinator.contents import SMALL_BYTES, Contents
from trusted_pool.coordinator.owner_limits import OwnerLimits
from trusted_pool.coordinator.roster import Roster
from trusted_pool.coordinator.turnstile import Turnstile
from trusted_pool.core.job import InputFile, Job
from trusted_pool.core.placement import could_ever
from trusted_pool.core.request import Request, obstacles
from trusted_pool.core.words import JobState, OnWorkerLoss, Reason
from trusted_pool.ports.blobs import BlobsFullError, Staged
from trusted_pool.ports.clock import Clock, Dice
from trusted_pool.ports.store import Blob, Event, Idempotency, Store, StoreFullError, Unit
from trusted_pool.protocol import archive, manifest
from trusted_pool.protocol.errors import (
    BadManifestError,
    BadRequestError,
    ConflictError,
    StorageFullError,
    UnplaceableError,
)

_log = logging.getLogger(__name__)

IDEMPOTENCY_S = 24 * 3600.0
#: Small submits that are worked on at once; enough to fill a transaction. Of more, owners take turns.
AT_ONCE = 32
MANIFEST_NAME = "job.json"
_SEND_FILES = "send them: curl -F files=@project.tar.gz …"


def job_id(now: float, token: str) -> str:
    """Write a job's id: the time in sixteenths of a second, then what nobody can guess.

    Jobs of one moment then lie side by side in every index, and a transaction changes a few pages, not a few per job.
    """
    return f"pool-{int(now * 16) & 0xFFFFFFFF:08x}{token}"


class Upload(msgspec.Struct, frozen=True):
    """One uploaded file, staged."""

    name: str
    staged: Staged


class Submit:
    """Admits jobs."""

    def __init__(
        self,
        *,
        store: Store,
        contents: Contents,
        roster: Roster,
        bulletin: Bulletin,
        admission: Admission,
        owner_limits: OwnerLimits,
        clock: Clock,
        dice: Dice,
        on_worker_loss: OnWorkerLoss = OnWorkerLoss.RETRY,
        limits: archive.ArchiveLimits | None = None,
    ) -> None:
        self._store = store
        self._contents = contents
        self._roster = roster
        self._bulletin = bulletin
        self._admission = admission
        self._owner_limits = owner_limits
        self._turnstile = Turnstile(AT_ONCE)
        self._clock = clock
        self._dice = dice
        self._on_worker_loss = on_worker_loss
        self._limits = limits or archive.ArchiveLimits()

    async def __call__(self, owner: str, raw: bytes | None, files: list[Upload], key: str | None = None) -> Job:
        """Keep a job and return it; with an idempotency key that was used before, the job it made.

        Whatever happens, the staged files are used up.

        Raises:
            PoolError: it is not admitted; nothing was kept.
        """
        try:
            if any(file.staged.size > SMALL_BYTES for file in files):
                return await self._submit(owner, raw, files, key)
            async with self._turnstile.turn(owner, 1):
                return await self._submit(owner, raw, files, key)
        except (BlobsFullError, StoreFullError):
            raise StorageFullError(
                "the coordinator's disk is full; the job was not kept",
                hint="try again later; the operator must free space",
            ) from None
        finally:
            for file in files:
                await file.staged.discard()

    async def dry_run(self, raw: bytes | None, files: list[Upload]) -> tuple[manifest.Resolved, Request]:
        """Say what the manifest means with everything filled in. Nothing is kept. Raises PoolError as a submit."""
        try:
            if not files:
                raise BadRequestError("no files were sent", hint=_SEND_FILES)
            resolved = await self._resolve(raw, files)
        finally:
            for file in files:
                await file.staged.discard()
        return resolved, resolved.request

    async def rerun(self, old: Job, by: str) -> Job:
        """Keep a new job with the files and the manifest of an old one. Raises PoolError."""
        self._admission.resubmit(by)
        parsed = manifest.parse(old.manifest.encode())
        resolved = manifest.resolve(parsed, {parsed.entrypoint or ""}, self._on_worker_loss)
        blobs = [Blob(sha256=file.sha256, size=file.size) for file in old.inputs]
        job = self._job(by, resolved, old.manifest, old.inputs)
        job = msgspec.structs.replace(job, rerun_of=old.job_id)
        self._possible(job.request)
        event = Event(job_id=job.job_id, at=job.submitted_at, kind="Submitted", data={"rerun_of": old.job_id})
        caps = self._owner_limits.caps(by)
        (committed,) = await self._store.commit([Unit(job=job, events=(event,), blobs=tuple(blobs), caps=caps)])
        if not committed.ok:
            await self._beyond(job, committed.conflict)
            raise ConflictError(f"the job could not be kept: {committed.conflict}", hint="try again")
        _log.info("Queued job %s again as %s", old.job_id, job.job_id)
        self._bulletin.publish(None, job)
        return job

    def _job(self, owner: str, resolved: manifest.Resolved, text: str, inputs: tuple[InputFile, ...]) -> Job:
        now = self._clock.now()
        return Job(
            job_id=job_id(now, self._dice.token(8)),
            owner=owner,
            state=JobState.QUEUED,
            reason=Reason.SUBMITTED,
            name=resolved.name,
            labels=resolved.labels,
            manifest=text,
            inputs=inputs,
            request=resolved.request,
            retry=resolved.retry,
            timeout_s=resolved.timeout_s,
            priority=resolved.priority,
            submitted_at=now,
            expires_at=None if resolved.expires_in_s is None else now + resolved.expires_in_s,
        )

    async def _submit(self, owner: str, raw: bytes | None, files: list[Upload], key: str | None) -> Job:
        if not files:
            raise BadRequestError("no files were sent", hint=_SEND_FILES)
        resolved = await self._resolve(raw, files)
        text = manifest.canonical(resolved)
        inputs = tuple(InputFile(name=f.name, size=f.staged.size, sha256=f.staged.sha256) for f in files)
        fingerprint = "" if key is None else _fingerprint(text, inputs)
        if key is not None and (known := await self._known(owner, key, fingerprint)) is not None:
            return known
        self._possible(resolved.request)
        blobs = [await self._contents.keep(f.staged) for f in files]
        job = self._job(owner, resolved, text, inputs)
        now = job.submitted_at
        held = None
        if key is not None:
            held = Idempotency(
                owner=owner, key=key, fingerprint=fingerprint, job_id=job.job_id, until=now + IDEMPOTENCY_S
            )
        event = Event(job_id=job.job_id, at=now, kind="Submitted", data={"owner": owner})
        caps = self._owner_limits.caps(owner)
        unit = Unit(job=job, events=(event,), blobs=tuple(blobs), idempotency=held, caps=caps)
        (committed,) = await self._store.commit([unit])
        if committed.ok:
            _log.info("Queued job %s", job.job_id)
            self._bulletin.publish(None, job)
            return job
        if key is not None and (known := await self._known(owner, key, fingerprint)) is not None:
            return known
        await self._beyond(job, committed.conflict)
        raise ConflictError(f"the job could not be kept: {committed.conflict}", hint="submit it again")

    async def _beyond(self, job: Job, conflict: str) -> None:
        """Say why a job was not kept, where that was a limit. Raises TooManyQueuedError, OverQuotaError."""
        if conflict in ("queued", "bytes"):
            needed = sum(file.size for file in job.inputs) + len(job.manifest.encode())
            raise await self._admission.refused(job.owner, conflict, needed)

    async def _resolve(self, raw: bytes | None, files: list[Upload]) -> manifest.Resolved:
        names, inside = await self._look_inside(files)
        if raw is None:
            raw = inside
        parsed = manifest.parse(raw) if raw is not None else manifest.Manifest()
        try:
            return manifest.resolve(parsed, names, self._on_worker_loss)
        except BadManifestError as error:
            if raw is None and parsed.entrypoint is None:
                raise BadManifestError(
                    f"there is no manifest, no {MANIFEST_NAME} inside the files and no default entrypoint",
                    hint=error.hint,
                ) from None
            raise

    async def _look_inside(self, files: list[Upload]) -> tuple[set[str], bytes | None]:
        """Return the names of all the job's files and the content of its `job.json`. Raises PoolError."""
        paths = archive.plan([f.name for f in files])
        if paths is not None:
            text = None
            if MANIFEST_NAME in paths:
                inside = files[paths.index(MANIFEST_NAME)].staged
                if inside.size > manifest.MAX_BYTES:
                    raise BadManifestError(f"{MANIFEST_NAME} is larger than {manifest.MAX_BYTES // 1024} KiB")
                text = b"".join([piece async for piece in inside.read()])
            return set(paths), text
        staged, name = files[0].staged, files[0].name

        def inspect() -> archive.Listing:
            with staged.file() as file:
                return archive.inspect(file, self._limits, want=(MANIFEST_NAME,), name=name)

        small = staged.size <= SMALL_BYTES
        listing = inspect() if small else await asyncio.to_thread(inspect)
        return listing.names, listing.contents.get(MANIFEST_NAME)

    async def _known(self, owner: str, key: str, fingerprint: str) -> Job | None:
        held = await self._store.idempotency(owner, key, self._clock.now())
        if held is None:
            return None
        if held.fingerprint != fingerprint:
            raise ConflictError(
                f"the idempotency key {key!r} was used for another job ({held.job_id})",
                hint="use a new key for a new job",
                code="idempotency_key_reused",
            )
        row = await self._store.job(held.job_id)
        return row.job if row else None

    def _possible(self, request: Request) -> None:
        """Refuse a job that no worker of the allowlist could ever run."""
        workers = self._roster.workers()
        if could_ever(request, workers):
            return
        if not workers:
            raise UnplaceableError("the pool has no workers", hint="the operator must add one to workers.json")
        why = {w.worker_id: "; ".join(o.message for o in obstacles(request, w.offer, w.worker_id)) for w in workers}
        first = next(iter(why.items()))
        raise UnplaceableError(
            f"no worker of the pool can ever run this job; {first[0][:12]}…: {first[1]}",
            hint="ask for less, or see what the workers offer: tpool pool",
            detail={"workers": why},
        )


def _fingerprint(text: str, inputs: tuple[InputFile, ...]) -> str:
    digest = hashlib.sha256(text.encode())
    for file in inputs:
        digest.update(f"\0{file.name}\0{file.sha256}".encode())
    return digest.hexdigest()
