"""The audit trail of this coordinator: what was done by whom, committed together with what it did."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec

from trusted_pool.core.access import BY_CONSOLE, Access
from trusted_pool.core.job import Job
from trusted_pool.ports.clock import Clock, Dice
from trusted_pool.ports.store import Committed, Store, StoreError, Unit
from trusted_pool.protocol.audit import (
    CHECKPOINT,
    NOTHING,
    AuditEntry,
    AuditError,
    Head,
    Sign,
    Verifier,
    chained,
    checkpoint_of,
)

_log = logging.getLogger(__name__)

CHAIN = "audit_chain"  #: the setting that names the chain
EVERY = 64  #: entries between two checkpoints
PAGE = 500


class Anchor(Protocol):
    """Keeps the newest signed head where somebody who can write the store cannot."""

    def load(self) -> Head | None:
        """Return it, if there is one. Raises OSError; ValueError for what cannot be read."""

    def save(self, head: Head) -> None:
        """Keep it durably. Raises OSError."""


class Audit:
    """Appends to the chain, one entry at a time; `start` once, before anything is recorded."""

    def __init__(
        self, *, store: Store, clock: Clock, dice: Dice, pool_id: str, sign: Sign, anchor: Anchor | None
    ) -> None:
        self._store = store
        self._clock = clock
        self._dice = dice
        self._pool_id = pool_id
        self._sign = sign
        self._anchor = anchor
        self._alone = asyncio.Lock()
        self._chain = ""
        self._seq = 0
        self._hash = NOTHING
        self._doubt = False  #: whether the last commit was kept is not known

    async def start(self) -> None:
        """Find the end of the chain. One that was cut or changed is said, and goes on behind where it was."""
        self._chain = (await self._store.settings()).get(CHAIN, "")
        if not self._chain:
            self._chain = self._dice.token(8)
            await self._store.commit([Unit(settings={CHAIN: self._chain})])
        await self._look()
        anchored = self._anchored()
        if anchored is None or anchored.chain != self._chain:
            return
        wrong = await self._wrong_since(anchored)
        if wrong:
            _log.error("The audit trail is not what it was: %s", wrong)
            self._seq, self._hash = max(self._seq, anchored.seq), anchored.hash
            await self.commit(BY_CONSOLE, "audit.broken", "", {"words": wrong, "kept": anchored.seq})

    async def _look(self) -> None:
        end = await self._store.audit_end(self._chain)
        self._seq, self._hash = (end.seq, end.hash) if end is not None else (0, NOTHING)
        self._doubt = False

    def _anchored(self) -> Head | None:
        try:
            head = self._anchor.load() if self._anchor is not None else None
        except (OSError, ValueError) as error:
            _log.error("The head of the audit trail cannot be read: %s", error)
            return None
        if head is not None and not head.genuine():
            _log.error("The head of the audit trail is not signed by this pool")
            return None
        return head

    async def _wrong_since(self, anchored: Head) -> str:
        """Say what is wrong with the chain behind the kept head; what was committed after it is in order."""
        if anchored.seq == 0:
            return ""
        entries = await self._store.audit(self._chain, anchored.seq - 1, 1)
        if not entries or entries[0].seq != anchored.seq:
            return f"entry {anchored.seq}, its last one, is missing"
        if entries[0].hash != anchored.hash or entries[0].hashed() != anchored.hash:
            return f"entry {anchored.seq} was changed"
        verifier = Verifier(self._pool_id)
        verifier.chain, verifier.seq, verifier.hash = self._chain, anchored.seq, anchored.hash
        try:
            async for entry in self.entries(anchored.seq):
                verifier.take(entry)
        except AuditError as error:
            return str(error)
        return ""

    async def commit(
        self,
        by: Access,
        action: str,
        subject: str = "",
        data: dict[str, Any] | None = None,
        unit: Unit | None = None,
    ) -> Committed:
        """Commit a unit together with the entry that says who did it.

        Raises:
            StoreError: neither was kept, as far as is known.
        """
        async with self._alone:
            if self._doubt:
                await self._look()
            entries = [self._entry(by, action, subject, data or {})]
            if entries[-1].seq % EVERY == EVERY - 1:
                entries.append(self._checkpoint(entries[-1]))
            self._doubt = True
            (committed,) = await self._store.commit([msgspec.structs.replace(unit or Unit(), audit=tuple(entries))])
            self._doubt = committed.conflict == "audit"
            if self._doubt:
                raise StoreError("somebody else writes into the audit trail of this coordinator; nothing was done")
            if committed.ok:
                self._seq, self._hash = entries[-1].seq, entries[-1].hash
                await self._keep_head()
            return committed

    async def of_another(self, by: Access, action: str, job: Job, data: dict[str, Any] | None = None) -> None:
        """Write down that somebody does something to another's job; what is done to one's own is in its story.

        Raises:
            StoreError: it is not kept, so it must not be done.
        """
        if job.owner != by.owner:
            await self.commit(by, action, job.job_id, {"owner": job.owner, **(data or {})})

    def _entry(self, by: Access, action: str, subject: str, data: dict[str, Any]) -> AuditEntry:
        return chained(
            AuditEntry(
                chain=self._chain,
                seq=self._seq + 1,
                at=self._clock.now(),
                actor=by.owner,
                key_id=by.key_id,
                action=action,
                subject=subject,
                data=data,
                previous=self._hash,
            )
        )

    def _checkpoint(self, last: AuditEntry) -> AuditEntry:
        head = self._signed(last.seq, last.hash)
        return chained(
            AuditEntry(
                chain=self._chain,
                seq=last.seq + 1,
                at=head.at,
                actor=BY_CONSOLE.owner,
                action=CHECKPOINT,
                data=checkpoint_of(head),
                previous=last.hash,
            )
        )

    def _signed(self, seq: int, last: str) -> Head:
        head = Head(chain=self._chain, seq=seq, hash=last, at=self._clock.now(), pool_id=self._pool_id)
        return head.sign(self._sign)

    async def _keep_head(self) -> None:
        if self._anchor is None:
            return
        try:
            await asyncio.to_thread(self._anchor.save, self.head())
        except OSError as error:
            _log.error("The head of the audit trail cannot be kept: %s", error)

    def head(self) -> Head:
        """Return how far the chain goes, signed."""
        return self._signed(self._seq, self._hash)

    async def entries(self, after: int = 0) -> AsyncIterator[AuditEntry]:
        """Give all entries behind number `after`, in order."""
        while page := await self._store.audit(self._chain, after, PAGE):
            for entry in page:
                yield entry
            after = page[-1].seq

    async def page(self, after: int, n: int) -> list[AuditEntry]:
        """Return up to n entries behind number `after`."""
        return await self._store.audit(self._chain, after, n)
