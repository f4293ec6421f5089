"""The audit trail: its entries, how they are chained, and how an export is verified by the pool's id alone.

Each entry holds the hash of the one before, so that one that is changed, removed or put elsewhere breaks the chain. A
checkpoint signs the chain up to its place by the pool's key, so that nobody without the key can make the chain anew.
An export ends with a signed head, so that a missing end is seen too.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from trusted_pool.protocol.decoding import DecodingError
from trusted_pool.protocol.decoding import decode as read
from trusted_pool.protocol.identity import verify

CHECKPOINT = "checkpoint"
#: Before the first entry.
NOTHING = "0" * 64
_ENTRY_DOMAIN = b"trusted-pool-audit-entry-v1\0"
_HEAD_DOMAIN = b"trusted-pool-audit-head-v1\0"
_encode = msgspec.json.Encoder(order="deterministic").encode

Sign = Callable[[bytes], bytes]


class AuditError(ValueError):
    """The trail is not what was written; the message says where it breaks."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="entry", tag_field="type"):
    """Who did what."""

    chain: str  #: names the trail of one coordinator
    seq: int  #: from 1, without gaps
    at: float
    actor: str  #: an owner; `console` for whoever has the machine itself
    key_id: str = ""  #: the API key that was shown
    action: str  #: noun.verb, as `worker.drain`
    subject: str = ""  #: to what
    data: dict[str, Any] = {}
    previous: str  #: the hash of the entry before
    hash: str = ""  #: hex sha256 over all of the above

    def hashed(self) -> str:
        """Return the hash that it must have."""
        bare = msgspec.structs.replace(self, hash="")
        return hashlib.sha256(_ENTRY_DOMAIN + _encode(bare)).hexdigest()


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="head", tag_field="type"):
    """How far a chain went at a time, signed by the pool's key."""

    chain: str
    seq: int
    hash: str
    at: float
    pool_id: str
    signature: str = ""  #: base64, over all of the above

    def _signed(self) -> bytes:
        return _HEAD_DOMAIN + _encode(msgspec.structs.replace(self, signature=""))

    def sign(self, sign: Sign) -> "Head":
        """Return it signed."""
        return msgspec.structs.replace(self, signature=base64.b64encode(sign(self._signed())).decode())

    def genuine(self) -> bool:
        """Whether the key of `pool_id` signed it."""
        try:
            signature = base64.b64decode(self.signature, validate=True)
            return verify(self.pool_id, signature, self._signed())
        except (binascii.Error, ValueError):
            return False


Line = AuditEntry | Head


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a verified export is."""

    chain: str
    pool_id: str
    entries: int
    checkpoints: int
    first_at: float | None
    head: Head


def chained(entry: AuditEntry) -> AuditEntry:
    """Return the entry with its hash."""
    return msgspec.structs.replace(entry, hash=entry.hashed())


def checkpoint_of(head: Head) -> dict[str, Any]:
    """Return the data of the entry that keeps a signed head in the chain itself."""
    return {"pool_id": head.pool_id, "signed_at": head.at, "signature": head.signature}


def _head_in(entry: AuditEntry) -> Head:
    """Return the head that a checkpoint keeps. Raises AuditError."""
    try:
        pool_id, at, signature = (entry.data[name] for name in ("pool_id", "signed_at", "signature"))
    except KeyError:
        raise AuditError(f"entry {entry.seq}: a checkpoint without its signature") from None
    seq, before = entry.seq - 1, entry.previous
    return Head(chain=entry.chain, seq=seq, hash=before, at=float(at), pool_id=str(pool_id), signature=str(signature))


def decode(line: bytes, number: int) -> Line:
    """Read one line of an export. Raises AuditError."""
    try:
        return read(line, Line)
    except DecodingError:
        raise AuditError(f"line {number} is no line of an audit trail") from None


class Verifier:
    """Takes the entries of one chain in order and says what is wrong with the first that does not fit."""

    def __init__(self, pool_id: str | None = None) -> None:
        """`pool_id`: whose key must have signed it; None: whose it says."""
        self.pool_id = pool_id
        self.chain: str | None = None
        self.seq = 0
        self.hash = NOTHING
        self.checkpoints = 0
        self.first_at: float | None = None

    def take(self, entry: AuditEntry) -> None:
        """Go on by one entry. Raises AuditError."""
        if self.chain is None:
            self.chain, self.first_at = entry.chain, entry.at
        if entry.chain != self.chain:
            raise AuditError(f"entry {entry.seq} is of another chain")
        if entry.seq != self.seq + 1:
            raise AuditError(f"entry {entry.seq} follows entry {self.seq}: something was removed or put elsewhere")
        if entry.hash != entry.hashed():
            raise AuditError(f"entry {entry.seq} was changed: its hash is another")
        if entry.previous != self.hash:
            raise AuditError(f"entry {entry.seq} does not follow the entry {self.seq} that stands before it")
        if entry.action == CHECKPOINT:
            self.signed(_head_in(entry))
            self.checkpoints += 1
        self.seq, self.hash = entry.seq, entry.hash

    def signed(self, head: Head) -> None:
        """Check a signed head against what was taken so far. Raises AuditError."""
        where = f"the head at entry {head.seq}"
        if (head.chain, head.seq, head.hash) != (self.chain or head.chain, self.seq, self.hash):
            raise AuditError(f"{where} does not belong to what stands before it: entries are missing or were replaced")
        if self.pool_id is None:
            self.pool_id = head.pool_id
        if head.pool_id != self.pool_id:
            raise AuditError(f"{where} is signed by {head.pool_id}, not by the pool {self.pool_id}")
        if not head.genuine():
            raise AuditError(f"{where} is not signed by the pool {self.pool_id}")


def verify_export(lines: Iterable[bytes], pool_id: str | None = None, older: Head | None = None) -> Verified:
    """Verify an export, one JSON object a line.

    `pool_id`: whose key must have signed it; None: the one that it names. `older`: the head of an earlier export,
    which this one must contain.

    Raises:
        AuditError: it is not whole, or not what was written.
    """
    verifier = Verifier(pool_id)
    head: Head | None = None
    contains_older = older is None or older.seq == 0
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        line = decode(raw, number)
        if head is not None:
            raise AuditError(f"line {number} stands behind the head")
        if isinstance(line, Head):
            verifier.signed(line)
            head = line
            continue
        verifier.take(line)
        if older is not None and line.seq == older.seq:
            if (line.chain, line.hash) != (older.chain, older.hash):
                raise AuditError(f"entry {line.seq} is another than in the earlier export")
            contains_older = True
    if head is None:
        raise AuditError("its signed head is missing: the end was cut off")
    if not contains_older:
        raise AuditError("it ends before the earlier export does")
    return Verified(
        chain=head.chain,
        pool_id=head.pool_id,
        entries=verifier.seq,
        checkpoints=verifier.checkpoints,
        first_at=verifier.first_at,
        head=head,
    )
