"""Backup of a coordinator's data directory while it serves, and restore into an empty one."""

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from trusted_pool.blobs.disk import Disk
from trusted_pool.compose.bundle import (
    BLOB,
    DATABASE,
    KEY,
    MANIFEST,
    BundleError,
    Writer,
    begin,
    blob_name,
    entries,
    sync_directory,
)
from trusted_pool.compose.system import SystemClock
from trusted_pool.ports.blobs import BlobsError
from trusted_pool.ports.store import StoreError
from trusted_pool.protocol.identity import IdentityError, identity_of, load_key_file
from trusted_pool.store.backup import Kept, examine, snapshot
from trusted_pool.store.lock import DatabaseLock

FORMAT = 1
#: Files may vanish between the copy of the database and their own, when the jobs they belong to are deleted.
ROUNDS = 3
_PIECE = 1024 * 1024

#: Called with what is being copied, and the bytes done and to do.
Told = Callable[[str, int, int], None]


class BackupError(Exception):
    """The backup or the restore cannot be done; the message is one line and says what to do."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`backup.json`: what a backup holds. It is written last."""

    format: int = FORMAT
    made_at: float
    pool_id: str
    database_sha256: str
    jobs: dict[str, int]  #: by state
    blobs: int  #: files that the database refers to
    blob_bytes: int


class _Hashing:
    """A file that is hashed while it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._sha256.update(data)
        return data

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


def back_up(data: Path, target: Path, told: Told) -> Manifest:
    """Copy all that a coordinator keeps: database, files, the pool's key. It may be running.

    The copy is the state of one moment after the call began: every job acknowledged before is in it, with its files.

    Raises:
        BackupError: nothing was made.
    """
    if not (data / DATABASE).exists():
        raise BackupError(f"there is no coordinator's data in {data}; name its directory with --data")
    copy = target.with_name(f"{target.name}.db-{os.getpid()}")
    with _in_words(f"the backup {target}"):
        pool_id = identity_of(load_key_file(data / KEY))
        writer = begin(target)
        try:
            kept = _copy(data, copy, writer, told)
            digest = _add_file(writer, DATABASE, copy)
            _add_file(writer, KEY, data / KEY)
            manifest = Manifest(
                made_at=SystemClock().now(),
                pool_id=pool_id,
                database_sha256=digest,
                jobs=kept.jobs,
                blobs=len(kept.blobs),
                blob_bytes=sum(kept.blobs.values()),
            )
            raw = msgspec.json.encode(manifest)
            writer.add(MANIFEST, io.BytesIO(raw), len(raw))
            writer.finish()
        except BaseException:
            writer.abort()
            raise
        finally:
            copy.unlink(missing_ok=True)
    return manifest


def _copy(data: Path, copy: Path, writer: Writer, told: Told) -> Kept:
    """Copy the database, then all files that the copy refers to.

    Database first: what it refers to was durable before. What was deleted in between is found missing, and then an
    empty round shows whether a newer moment has all its files.
    """
    done: set[str] = set()
    missing: list[str] = []
    for _ in range(ROUNDS):
        copy.unlink(missing_ok=True)
        snapshot(data / DATABASE, copy, lambda pages, all_: told("database", pages, all_))
        kept = examine(copy, thoroughly=False)
        total, spent = sum(kept.blobs.values()), 0
        missing = []
        for sha256, size in kept.blobs.items():
            name = blob_name(sha256)
            if sha256 not in done:
                try:
                    _add_blob(writer, data / name, sha256)
                    done.add(sha256)
                except FileNotFoundError:
                    missing.append(sha256)
            spent += size
            told("files", spent, total)
        if not missing:
            return kept
    raise BackupError(
        f"{len(missing)} files that jobs refer to are missing in {data / 'blobs'}, first {missing[0]}; "
        "they must be put back from an older backup first"
    )


def _add_blob(writer: Writer, path: Path, sha256: str) -> None:
    if _add_file(writer, blob_name(sha256), path) != sha256:
        raise BackupError(f"the file {path} is damaged; it must be put back from an older backup first")


def _add_file(writer: Writer, name: str, path: Path) -> str:
    """Add a file and return its digest."""
    with path.open("rb") as file:
        hashing = _Hashing(file)
        writer.add(name, hashing, os.fstat(file.fileno()).st_size)  # type: ignore[arg-type]  # it is only read
    return hashing.sha256


def restore(source: Path, data: Path, told: Told) -> Manifest:
    """Make a data directory from a backup. The database gets its name last, when everything has been checked.

    Raises:
        BackupError: the directory is as it was.
    """
    if not source.exists():
        raise BackupError(f"there is no backup {source}")
    with _in_words(f"the directory {data}"):
        made = not data.exists()
        _must_be_empty(data)
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DatabaseLock(data / DATABASE)
        try:
            partial = data / f"{DATABASE}.partial"
            manifest = _unpack(source, data, partial, told)
            partial.rename(data / DATABASE)
            sync_directory(data)
            sync_directory(data.parent)
        except BaseException:
            _clear(data)
            if made:
                data.rmdir()
            raise
        finally:
            lock.release()
    return manifest


def _must_be_empty(data: Path) -> None:
    if not data.exists():
        return
    if (data / f"{DATABASE}.lock").exists():
        DatabaseLock(data / DATABASE).release()  # in use is said before not empty
    if any(path.name != "lost+found" for path in data.iterdir()):
        raise BackupError(f"{data} is not empty; restore into a new directory, then start the coordinator on that")


def _unpack(source: Path, data: Path, partial: Path, told: Told) -> Manifest:
    disk = Disk(data / "blobs", durable=True)
    manifest, sizes, digests = None, {}, {}
    done, total = 0, source.stat().st_size if source.is_file() else 0
    for name, file in entries(source):
        blob = BLOB.match(name)
        if name == MANIFEST:
            manifest = _manifest(file.read(), source)
            continue
        path, fd = disk.new_file() if blob else (partial if name == DATABASE else data / name, -1)
        if fd < 0:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as out:
            hashing = _Hashing(file)
            while piece := hashing.read(_PIECE):
                out.write(piece)
            size = out.tell()
            out.flush()
            if not blob:  # whose publishing syncs it
                os.fsync(out.fileno())
        if blob:
            if hashing.sha256 != blob[2]:
                raise BackupError(f"{name} in {source} is damaged: its bytes have another digest. Use another backup")
            disk.publish(path, blob[2], size)
            sizes[blob[2]] = size
        digests[name] = hashing.sha256
        done += size
        told("files", done, max(total, done))
    if manifest is None or DATABASE not in digests or KEY not in digests:
        raise BackupError(f"{source} is no whole backup: it has not all of {MANIFEST}, {DATABASE} and {KEY}")
    if digests[DATABASE] != manifest.database_sha256:
        raise BackupError(f"the database in {source} is damaged: its bytes have another digest. Use another backup")
    _check(manifest, examine(partial, thoroughly=True), sizes, data)
    return manifest


def _manifest(raw: bytes, source: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.DecodeError as error:
        raise BackupError(f"{MANIFEST} in {source} cannot be read: {error}") from None
    if manifest.format > FORMAT:
        raise BackupError(f"{source} was made by a newer version of Trusted Pool; use that one")
    return manifest


def _check(manifest: Manifest, kept: Kept, sizes: dict[str, int], data: Path) -> None:
    missing = [sha256 for sha256, size in kept.blobs.items() if sizes.get(sha256) != size]
    if missing:
        raise BackupError(f"the backup lacks {len(missing)} files that its jobs refer to, first {missing[0]}")
    if identity_of(load_key_file(data / KEY)) != manifest.pool_id:
        raise BackupError(f"the key in the backup is not that of pool {manifest.pool_id}")


def _clear(data: Path) -> None:
    """Remove what was made in a directory that was empty."""
    shutil.rmtree(data / "blobs", ignore_errors=True)
    for name in (KEY, f"{DATABASE}.partial", f"{DATABASE}.lock"):
        (data / name).unlink(missing_ok=True)


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    """Turn what can go wrong here into one line."""
    try:
        yield
    except (BundleError, StoreError, IdentityError, BlobsError) as error:
        raise BackupError(str(error)) from None
    except OSError as error:
        raise BackupError(f"{what} cannot be used: {error.strerror or error} ({error.filename or 'writing'})") from None
