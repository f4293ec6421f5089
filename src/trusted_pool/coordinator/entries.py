"""The entries of the allowlist: what `workers.json` says, and what one more may say."""

import difflib
import json
from collections.abc import Iterable
from typing import Any

import msgspec

from trusted_pool.core.request import Capacity
from trusted_pool.core.worker import CLAIMED_OFFER, Worker
from trusted_pool.protocol.endpoint import EndpointError, read_endpoint
from trusted_pool.protocol.identity import IdentityError, public_bytes

KEYS = ("worker_id", "endpoint", "max_concurrent_jobs", "labels", "identity")
MAX_SLOTS = 10_000
_EXAMPLE = '[{"worker_id": "<base64>", "endpoint": "http://worker1:8443", "max_concurrent_jobs": 4}]'


class AllowlistError(ValueError):
    """The allowlist cannot be used; the message names the entry and the field."""


class EntryError(ValueError):
    """An entry cannot be used; the message names the field."""

    def __init__(self, words: str, field: str = "") -> None:
        """`field`: the one that is wrong."""
        super().__init__(words)
        self.field = field


class TakenError(EntryError):
    """Another entry has this field's value already."""


class _Object(dict[str, Any]):
    """An object of JSON that remembers a field which stood in it twice: of two ids, no one is meant."""

    twice = ""

    @classmethod
    def of(cls, pairs: list[tuple[str, Any]]) -> "_Object":
        """Make it of its fields in their order."""
        made = cls(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            made.twice = next(name for name in names if names.count(name) > 1)
        return made


def parse(raw: bytes, source: str = "workers.json") -> list[Worker]:
    """Read an allowlist. Raises AllowlistError."""
    try:
        entries: Any = json.loads(raw, object_pairs_hook=_Object.of)
    except (ValueError, RecursionError) as error:
        raise AllowlistError(f"{source} is not valid JSON: {error}") from None
    if not isinstance(entries, list):
        raise AllowlistError(f"{source} must be a JSON list of workers: {_EXAMPLE}")
    workers: list[Worker] = []
    taken = Taken()
    for number, entry in enumerate(entries, 1):
        try:
            worker = read_entry(entry)
            taken.take(worker)
        except EntryError as error:
            raise AllowlistError(f"{source}: entry {number}: {error}") from None
        workers.append(worker)
    return workers


class Taken:
    """The keys and the places that entries have already: none may be had twice."""

    def __init__(self, workers: Iterable[Worker] = ()) -> None:
        self._count = 0
        self._by: dict[tuple[str, object], int] = {}
        for worker in workers:
            self.take(worker)

    def take(self, worker: Worker) -> None:
        """Add an entry. Raises TakenError."""
        has = {"worker_id": worker.worker_id, "endpoint": read_endpoint(worker.endpoint).place}
        for field, value in has.items():
            if (number := self._by.get((field, value))) is not None:
                raise TakenError(f"{field} is that of entry {number} again", field)
        self._count += 1
        self._by.update(dict.fromkeys(has.items(), self._count))


def read_entry(entry: Any) -> Worker:
    """Read one entry. Raises EntryError."""
    if not isinstance(entry, dict):
        raise EntryError("it must be an object with worker_id and endpoint")
    for thing in (entry, entry.get("labels")):
        if isinstance(thing, _Object) and thing.twice:
            raise EntryError(f"{thing.twice} stands twice in it", thing.twice)
    for key in entry:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1)
            raise EntryError(f"unknown field {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""), key)
    for key in ("worker_id", "endpoint"):
        if not isinstance(entry.get(key), str):
            raise EntryError(f"{key} is missing or no string", key)
    try:
        public_bytes(entry["worker_id"])
    except IdentityError as error:
        hint = "print it on the worker: tpool worker --generate-key PATH"
        raise EntryError(f"worker_id is no worker's id: {error}; {hint}", "worker_id") from None
    slots = entry.get("max_concurrent_jobs")
    if slots is not None and (type(slots) is not int or not 1 <= slots <= MAX_SLOTS):
        raise EntryError(f"max_concurrent_jobs must be a whole number from 1 to {MAX_SLOTS}", "max_concurrent_jobs")
    identity = entry.get("identity", "proven")
    if identity not in ("proven", "claimed"):
        words = 'identity must be "proven", or "claimed" for a worker that cannot prove its key'
        raise EntryError(words, "identity")
    try:
        endpoint = read_endpoint(entry["endpoint"])
    except EndpointError as error:
        raise EntryError(f"endpoint {entry['endpoint'][:200]!r}: {error}", "endpoint") from None
    if identity == "claimed" and endpoint.scheme != "http":
        words = "a worker of claimed identity speaks plain HTTP: write its endpoint as http://…"
        raise EntryError(words, "endpoint")
    try:
        labels = msgspec.convert(entry.get("labels", {}), dict[str, str])
    except msgspec.ValidationError:
        raise EntryError("labels must be an object of strings", "labels") from None
    return Worker(
        worker_id=entry["worker_id"],
        endpoint=str(endpoint),
        max_concurrent_jobs=slots,
        labels=labels,
        proven=identity == "proven",
        capacity=CLAIMED_OFFER if identity == "claimed" else Capacity(),
    )
