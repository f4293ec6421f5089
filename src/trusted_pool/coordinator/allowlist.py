"""The allowlist: `workers.json`, which keys may be workers and where they are."""

import difflib
import json
from typing import Any
from urllib.parse import urlsplit

import msgspec

from trusted_pool.core.request import Capacity
from trusted_pool.core.worker import CLAIMED_OFFER, Worker
from trusted_pool.protocol.identity import IdentityError, public_bytes

DEFAULT_PORT = 8443
KEYS = ("worker_id", "endpoint", "max_concurrent_jobs", "labels", "identity")
_EXAMPLE = '[{"worker_id": "<base64>", "endpoint": "http://worker1:8443", "max_concurrent_jobs": 4}]'


class AllowlistError(ValueError):
    """The allowlist cannot be used; the message names the entry and the field."""


def parse(raw: bytes, source: str = "workers.json") -> list[Worker]:
    """Read an allowlist. Raises AllowlistError."""
    try:
        entries: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise AllowlistError(f"{source} is not valid JSON: {error}") from None
    if not isinstance(entries, list):
        raise AllowlistError(f"{source} must be a JSON list of workers: {_EXAMPLE}")
    workers = [_entry(entry, f"{source}: entry {number}") for number, entry in enumerate(entries, 1)]
    for field in ("worker_id", "endpoint"):
        seen: dict[str, int] = {}
        for number, worker in enumerate(workers, 1):
            value = getattr(worker, field)
            if value in seen:
                raise AllowlistError(f"{source}: entry {number}: {field} is that of entry {seen[value]} again")
            seen[value] = number
    return workers


def _entry(entry: Any, where: str) -> Worker:
    if not isinstance(entry, dict):
        raise AllowlistError(f"{where} must be an object with worker_id and endpoint")
    for key in entry:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1)
            raise AllowlistError(f"{where}: unknown field {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    for key in ("worker_id", "endpoint"):
        if not isinstance(entry.get(key), str):
            raise AllowlistError(f"{where}: {key} is missing or no string")
    try:
        public_bytes(entry["worker_id"])
    except IdentityError as error:
        hint = "print it on the worker: tpool worker --generate-key PATH"
        raise AllowlistError(f"{where}: worker_id is no worker's id: {error}; {hint}") from None
    slots = entry.get("max_concurrent_jobs")
    if slots is not None and (type(slots) is not int or not 1 <= slots <= 10_000):  # noqa: PLR2004 - said in the message
        raise AllowlistError(f"{where}: max_concurrent_jobs must be a whole number from 1 to 10000")
    identity = entry.get("identity", "proven")
    if identity not in ("proven", "claimed"):
        raise AllowlistError(f'{where}: identity must be "proven", or "claimed" for a worker that cannot prove its key')
    if identity == "claimed" and not entry["endpoint"].startswith("http://"):
        raise AllowlistError(f"{where}: a worker of claimed identity speaks plain HTTP: write its endpoint as http://…")
    try:
        labels = msgspec.convert(entry.get("labels", {}), dict[str, str])
    except msgspec.ValidationError:
        raise AllowlistError(f"{where}: labels must be an object of strings") from None
    return Worker(
        worker_id=entry["worker_id"],
        endpoint=_endpoint(entry["endpoint"], where),
        max_concurrent_jobs=slots,
        labels=labels,
        proven=identity == "proven",
        capacity=CLAIMED_OFFER if identity == "claimed" else Capacity(),
    )


def _endpoint(text: str, where: str) -> str:
    """Return the endpoint with its port; refuse what is no plain address of a worker."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise AllowlistError(f"{where}: endpoint {text!r}: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise AllowlistError(f"{where}: endpoint {text!r} must begin with http:// or https://")
    if not parts.hostname or any(c.isspace() or ord(c) < 32 for c in text):  # noqa: PLR2004 - control characters
        raise AllowlistError(f"{where}: endpoint {text!r} names no host")
    try:
        parts.hostname.encode("idna")
    except UnicodeError as error:
        raise AllowlistError(f"{where}: endpoint {text!r} names a host that cannot be: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise AllowlistError(f"{where}: endpoint {text!r} must not hold a user or password")
    if parts.query or parts.fragment:
        raise AllowlistError(f"{where}: endpoint {text!r} must not hold ? or #")
    if port == 0:
        raise AllowlistError(f"{where}: endpoint {text!r}: port 0 is no port")
    if port is None:
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return f"{parts.scheme}://{host}:{DEFAULT_PORT}{parts.path.rstrip('/')}"
    return text.rstrip("/")
