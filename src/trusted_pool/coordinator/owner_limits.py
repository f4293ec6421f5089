"""What each owner may have: the usual limits, and those that an admin has set for one."""

import asyncio
import logging
from collections.abc import Callable, Mapping

import msgspec

from trusted_pool.coordinator.audit import Audit
from trusted_pool.core.access import Access, is_owner
from trusted_pool.core.limits import Limits, LimitsChange, RunningCaps, cap
from trusted_pool.ports.store import Caps, Store, Unit
from trusted_pool.protocol.errors import BadRequestError

_log = logging.getLogger(__name__)

SETTING = "limits:"  #: before the owner's name
_change_of = msgspec.json.Decoder(LimitsChange).decode


class OwnerLimits:
    """At hand for every request; kept in the store."""

    def __init__(self, *, store: Store, audit: Audit, usual: Limits) -> None:
        self._store = store
        self._audit = audit
        self.usual = usual
        self._alone = asyncio.Lock()
        self._changes: dict[str, LimitsChange] = {}
        self._of: dict[str, tuple[Limits, Caps | None]] = {}  # of those that differ
        self._usual = usual, _caps(usual)
        self.running = self._running()
        #: Called after a change.
        self.on_change: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Load what was set. Raises StoreError."""
        for name, value in (await self._store.settings()).items():
            if name.startswith(SETTING):
                try:
                    self._learn(name.removeprefix(SETTING), _change_of(value))
                except msgspec.DecodeError as error:
                    _log.error("The kept limits of %s cannot be read: %s", name.removeprefix(SETTING), error)

    def _learn(self, owner: str, change: LimitsChange) -> None:
        self._changes.pop(owner, None)
        self._of.pop(owner, None)
        if change != LimitsChange():
            limits = change.over(self.usual)
            self._changes[owner] = change
            self._of[owner] = limits, _caps(limits)
        self.running = self._running()

    def _running(self) -> RunningCaps | None:
        """Return how many jobs of each owner may run; None when nobody is limited."""
        of = {owner: cap(limits.running) for owner, (limits, _) in self._of.items()}
        caps = RunningCaps(usual=cap(self.usual.running), of=of)
        return caps if caps.usual is not None or any(c is not None for c in of.values()) else None

    def of(self, owner: str) -> Limits:
        """Return what an owner may have."""
        return self._of.get(owner, self._usual)[0]

    def caps(self, owner: str) -> Caps | None:
        """Return what a new job must not take its owner beyond."""
        return self._of.get(owner, self._usual)[1]

    @property
    def changes(self) -> Mapping[str, LimitsChange]:
        """What was set, by owner."""
        return self._changes

    async def set(self, by: Access, owner: str, said: Mapping[str, int | None]) -> Limits:
        """Set some of an owner's limits, None for the usual one, and return all.

        Raises:
            BadRequestError: no usable owner.
            StoreError: it is not kept, and nothing has changed.
        """
        if not is_owner(owner):
            raise BadRequestError(f"{owner[:80]!r} cannot be an owner", hint="see who has something: tpool usage --all")
        async with self._alone:
            change = msgspec.structs.replace(self._changes.get(owner, LimitsChange()), **said)
            kept = None if change == LimitsChange() else msgspec.json.encode(change).decode()
            unit = Unit(settings={f"{SETTING}{owner}": kept})
            await self._audit.commit(by, "limits.set", owner, dict(said), unit)
            self._learn(owner, change)
        _log.info("Set limits of %s: %s", owner, dict(said))
        self.on_change()
        return self.of(owner)


def _caps(limits: Limits) -> Caps | None:
    """Return what a new job is capped by. Not `running`: whoever has too many running waits in the queue."""
    caps = Caps(queued=cap(limits.queued), bytes=cap(limits.bytes))
    return None if caps == Caps() else caps
