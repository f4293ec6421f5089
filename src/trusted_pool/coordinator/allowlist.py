"""The allowlist: its file is the truth, and its operator's. Commands change it; changes by hand are found by looking.

What is listed is what the file said when it could last be read whole. Who changed it stands in the audit trail: a
command before it is done, a change by hand as soon as it is seen.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from trusted_pool.coordinator.allowlist_text import with_entry, without_entry
from trusted_pool.coordinator.allowlist_trail import Entries, Trail, entries_of
from trusted_pool.coordinator.entries import AllowlistError, EntryError, Taken, TakenError, parse, read_entry
from trusted_pool.coordinator.membership import Leaving, Membership
from trusted_pool.coordinator.removal import Left
from trusted_pool.core.access import BY_CONSOLE, Access
from trusted_pool.core.worker import Worker
from trusted_pool.ports.allowlist import AllowlistFile, Content, FileError, FileInDoubtError
from trusted_pool.protocol.endpoint import read_endpoint
from trusted_pool.protocol.errors import BadRequestError, ConflictError, NotFoundError, UnavailableError

_log = logging.getLogger(__name__)

LOOK_S = 1.0  #: between two looks at the file
#: An answer waits for so long for what becomes of the jobs at a removed worker.
PATIENCE_S = 10.0
UNUSABLE = "allowlist_unusable"  #: the code of a file that cannot be read, understood or changed


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a change of the allowlist did: ids of workers."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    left: dict[str, Left | None] = {}  #: of removed workers; None: it takes longer


class Allowlist:
    """Reads the file, changes it, and makes it true."""

    def __init__(self, file: AllowlistFile | None, membership: Membership, trail: Trail) -> None:
        """`file`: None where the allowlist is given from elsewhere; then it cannot be changed by a command."""
        self._file = file
        self._membership = membership
        self._trail = trail
        self._alone = asyncio.Lock()
        self._mark: str | None = None  #: of the file when it was last read, well or ill
        self._complaint = ""  #: what was wrong with it then

    async def make_true(self, listed: Sequence[Worker]) -> Change:
        """Make a list true that somebody has read, and write down what that changed."""
        change, leaving = self._admit(listed)
        async with self._alone:
            await self._trail.catch_up(BY_CONSOLE, "given")
        return await _settled(change, leaving)

    async def reload(self, by: Access = BY_CONSOLE, how: str = "request") -> Change:
        """Read the file again and make it true. Raises ConflictError: it cannot be; all stays as it was."""
        async with self._alone:
            try:
                _, listed = await self._read()
            except ConflictError as error:
                self._complaint = error.message
                raise
            self._complaint = ""
            change, leaving = self._admit(listed)
            _log.info("Read %s again", self._name)
            await self._trail.catch_up(by, how, always=by is not BY_CONSOLE)
        return await _settled(change, leaving)

    async def add(self, by: Access, entry: Mapping[str, Any]) -> Change:
        """List one more worker, in the file first. `entry`: as it stands in the file.

        Raises:
            BadRequestError: the entry cannot be used.
            ConflictError: its id or its endpoint is listed already; or the file cannot be read, or cannot be changed.
            StoreError: it cannot be written down, so it was not done.
        """
        async with self._alone:
            content, listed = await self._read()
            try:
                worker = read_entry(entry)
                Taken(listed).take(worker)
            except TakenError as error:
                raise _conflict(error.field, worker, listed) from None
            except EntryError as error:
                raise BadRequestError(str(error), code="bad_entry", detail={"field": error.field}) from None
            await self._trail.intend_to_add(by, worker)
            wanted = [*listed, worker]
            await self._replace(by, content, with_entry(content.raw, entry), wanted)
            change, leaving = self._admit(wanted)
            await self._trail.catch_up(BY_CONSOLE, "file")
        return await _settled(change, leaving)

    async def remove(self, by: Access, worker_id: str) -> Change:
        """Take a worker off the list, in the file first. Answers when it is known what becomes of its jobs.

        Raises:
            NotFoundError: it is not listed.
            ConflictError: the file cannot be read, or cannot be changed.
            StoreError: it cannot be written down, so it was not done.
        """
        async with self._alone:
            content, listed = await self._read()
            kept = [worker for worker in listed if worker.worker_id != worker_id]
            if len(kept) == len(listed) and worker_id not in self._trail.now:
                raise NotFoundError(f"there is no worker {worker_id}", hint="list them: tpool workers list")
            await self._trail.intend_to_remove(by, worker_id)
            if len(kept) < len(listed):
                index = next(n for n, worker in enumerate(listed) if worker.worker_id == worker_id)
                await self._replace(by, content, without_entry(content.raw, index), kept)
            change, leaving = self._admit(kept)
            await self._trail.catch_up(BY_CONSOLE, "file")
        return await _settled(change, leaving)

    async def watch(self) -> None:
        """Make true for ever what is changed by hand. A file that is being written is left alone until it rests."""
        before = None
        while self._file is not None:
            mark = await self._file.mark()
            if mark == before != self._mark:
                try:
                    await self._look()
                except Exception:  # noqa: BLE001 - whatever it is, the next change must be seen
                    _log.exception("The look at %s stumbled", self._name)
            before = mark
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        async with self._alone:
            try:
                _, listed = await self._read()
            except ConflictError as error:
                if error.message != self._complaint:
                    _log.error("%s; the allowlist stays as it was", error.message)
                self._complaint = error.message
                return
            if self._complaint:
                _log.info("%s can be read again", self._name)
                self._complaint = ""
            if entries_of(listed) != self._trail.now:
                _log.info("Read %s again: it was changed", self._name)
                self._admit(listed)
            await self._trail.catch_up(BY_CONSOLE, "file")

    @property
    def _name(self) -> str:
        return self._file.name if self._file is not None else "the allowlist"

    def _the_file(self) -> AllowlistFile:
        if self._file is None:
            raise ConflictError("this coordinator has no file for its allowlist", code=UNUSABLE)
        return self._file

    async def _read(self) -> tuple[Content, list[Worker]]:
        """Read the file. Raises ConflictError: it cannot be read or understood."""
        file = self._the_file()
        try:
            self._mark = await file.mark()  # what cannot be read is not tried again until it changes
            content = await file.read()
            self._mark = content.mark
            return content, parse(content.raw, file.name)
        except FileError as error:
            hint = f"the operator must make it readable for the coordinator; until then {_AS_IT_WAS}"
            raise ConflictError(str(error), code=UNUSABLE, hint=hint) from None
        except AllowlistError as error:
            hint = f"the operator must correct {file.name}; until then {_AS_IT_WAS}"
            raise ConflictError(str(error), code=UNUSABLE, hint=hint) from None

    async def _replace(self, by: Access, content: Content, raw: bytes, wanted: list[Worker]) -> None:
        """Change the file. Raises ConflictError: it cannot be, and nothing was changed."""
        file = self._the_file()
        try:
            if parse(raw) != wanted:  # whatever we got wrong, the operator's file is not where it shows
                raise FileError(f"{file.name} cannot be changed by a command as it is written")
            await file.replace(content, raw)
        except FileInDoubtError as error:
            _log.error("%s", error)  # it is changed all the same, and what it says is found by looking
            hint = "see what is listed: tpool workers list"
            raise UnavailableError(str(error), code="allowlist_in_doubt", hint=hint) from None
        except FileError as error:
            await self._trail.catch_up(by, str(error), action="allowlist.undo")
            hint = f"edit {file.name} by hand: it is read again by itself"
            raise ConflictError(str(error), code=UNUSABLE, hint=hint) from None

    def _admit(self, listed: Sequence[Worker]) -> tuple[Change, Leaving]:
        before, now = self._trail.now, entries_of(listed)
        leaving = self._membership.make_true(listed)
        self._trail.now = now
        return _difference(before, now), leaving


_AS_IT_WAS = "the pool keeps to what it said before"


def _difference(before: Entries, now: Entries) -> Change:
    return Change(
        added=[name for name in now if name not in before],
        removed=[name for name in before if name not in now],
        changed=[name for name in now if name in before and now[name] != before[name]],
    )


async def _settled(change: Change, leaving: Leaving) -> Change:
    """Wait, but not for ever, until it is known what becomes of the jobs of who was removed."""
    tasks = {name: task for name, task in leaving.items() if task is not None}
    if tasks:
        await asyncio.wait(tasks.values(), timeout=PATIENCE_S)
    done = {
        n: task.result() for n, task in tasks.items() if task.done() and not task.cancelled() and not task.exception()
    }
    return msgspec.structs.replace(change, left={name: done.get(name) for name in leaving})


def _conflict(field: str, worker: Worker, listed: Sequence[Worker]) -> ConflictError:
    if field == "worker_id":
        other = next(w for w in listed if w.worker_id == worker.worker_id)
        hint = f"to have it elsewhere: tpool workers remove {worker.worker_id}, then add it again"
        words = f"worker {worker.worker_id} is listed already, at {other.endpoint}"
    else:
        other = next(w for w in listed if read_endpoint(w.endpoint).place == read_endpoint(worker.endpoint).place)
        hint = f"if that one is no more: tpool workers remove {other.worker_id}"
        words = f"at {worker.endpoint} is worker {other.worker_id} already"
    return ConflictError(words, code="already_listed", hint=hint, detail={"field": field})
