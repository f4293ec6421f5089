"""The coordinator's wiring list."""

import asyncio
import contextlib
import logging
import signal
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted_pool.blobs.directory import DirectoryBlobs
from trusted_pool.compose.exposure import check_exposure
from trusted_pool.compose.head_file import HeadFile
from trusted_pool.compose.limits import start_limits
from trusted_pool.compose.system import StartError, SystemClock, SystemDice, make_directory
from trusted_pool.compose.tls import front_of
from trusted_pool.compose.workers_file import WorkersFile
from trusted_pool.coordinator.entries import AllowlistError, parse
from trusted_pool.coordinator.epoch import next_epoch
from trusted_pool.coordinator.metrics import Metrics
from trusted_pool.coordinator.service import Coordinator, Settings
from trusted_pool.core.access import LOCAL_OWNER, Access, Role, Scope
from trusted_pool.core.limits import Limits
from trusted_pool.core.words import OnWorkerLoss
from trusted_pool.core.worker import Worker
from trusted_pool.link.pinned import PinnedLink
from trusted_pool.link.sandrun import SandrunLink
from trusted_pool.ports.blobs import BlobsError
from trusted_pool.ports.link import WorkerLink
from trusted_pool.ports.store import StoreError
from trusted_pool.protocol.errors import ConflictError
from trusted_pool.protocol.identity import IdentityError, create_key_file, identity_of, load_key_file
from trusted_pool.sandbox.globs import Globs
from trusted_pool.serve.connection import Limits as ServerLimits
from trusted_pool.serve.listener import ServeError, bind, close
from trusted_pool.serve.server import Server
from trusted_pool.store.sqlite import SqliteStore
from trusted_pool.web.app import create_app
from trusted_pool.web.browser import LOOPBACK_NAMES

_log = logging.getLogger("trusted_pool.coordinator")


class CoordinatorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says of a coordinator. Times in seconds."""

    host: str
    port: int
    workers: Path
    data: Path
    check_interval_s: float = 30.0
    grace_s: float = 120.0
    on_worker_loss: OnWorkerLoss = OnWorkerLoss.RETRY
    limits: tuple[str, ...] = ()  #: each as NAME=VALUE, over the usual ones
    anonymous: bool = False  #: who shows no API key may use the pool though others have one
    insecure_http: bool = False  #: other addresses than loopback may be served without TLS
    tls_cert: Path | None = None  #: PEM, with its chain
    tls_key: Path | None = None  #: PEM
    tls_pinned: bool = False  #: TLS by the pool's own key

    def check_exposure(self, *, has_keys: bool) -> None:
        """Warn of what is served to whom, or refuse it. `has_keys`: clients must show API keys. Raises StartError."""
        warning = check_exposure(
            self.host,
            tls=self.tls_pinned or self.tls_cert is not None,
            has_keys=has_keys,
            anonymous=self.anonymous,
            insecure_http=self.insecure_http,
            data=self.data,
        )
        if warning:
            _log.warning("%s", warning)


#: What somebody may do who shows no key, where that is allowed.
WITHOUT_KEY = Access(owner=LOCAL_OWNER, role=Role.SUBMITTER, scope=Scope.OWN)
#: What everybody may do where nobody has a key and others than this machine are served: all but say who is trusted.
OPEN_TO_ALL = Access(owner=LOCAL_OWNER, role=Role.OPERATOR, scope=Scope.ALL)


def pool_key(data: Path) -> Ed25519PrivateKey:
    """Return the pool's key, made on first use. Raises StartError."""
    make_directory(data, "data directory")
    path = data / "pool.pem"
    try:
        return load_key_file(path) if path.exists() else create_key_file(path)
    except (OSError, IdentityError) as error:
        raise StartError(f"the pool's key {path} cannot be used: {error}") from None


def read_allowlist(path: Path) -> list[Worker]:
    """Read `workers.json`. Raises StartError."""
    try:
        return parse(path.read_bytes(), path.name)
    except OSError as error:
        hint = f"write one, or name it with --workers; empty is {'[]'!r}"
        raise StartError(f"the allowlist {path} cannot be read: {error.strerror}; {hint}", usage=True) from None
    except AllowlistError as error:
        raise StartError(str(error), usage=True) from None


async def run_coordinator(options: CoordinatorOptions) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads allowlist and certificate again. Raises StartError."""
    database = options.data / "coordinator.db"
    is_new = not database.exists()
    if is_new:  # then there are no API keys, and nothing has to be begun to know it
        options.check_exposure(has_keys=False)
    key = pool_key(options.data)
    allowlist = read_allowlist(options.workers)
    limits = start_limits(options.limits, options.data)
    front = front_of(options.tls_cert, options.tls_key, key if options.tls_pinned else None, SystemClock().now)
    store = await _open(options, database, is_new=is_new)
    epoch = await _take_epoch(store)
    coordinator = _coordinator(options, store, key, epoch, limits.owners)
    metrics = _metrics(coordinator, store)
    loopback_only = options.host in LOOPBACK_NAMES
    if not loopback_only:
        coordinator.keys.while_there_are_none = OPEN_TO_ALL
    server = Server(
        create_app(
            coordinator,
            metrics,
            # Over TLS nobody can make another name lead here: it would have to be proven.
            loopback_only=loopback_only and front.context is None,
            silence_s=limits.body_s,
        ),
        host=options.host,
        port=options.port,
        ssl_context=front.context,
        limits=ServerLimits(max_per_address=limits.connections, header_timeout_s=limits.head_s),
    )
    stopping, reload = asyncio.Event(), asyncio.Event()

    def reread() -> None:
        reload.set()
        front.reread()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, reread)
    reloading: asyncio.Future[tuple[None, None]] | None = None
    try:
        await coordinator.start(allowlist)
        reloading = asyncio.gather(_reload_for_ever(coordinator, reload), front.keep_fresh())
        await server.start()
        where = f"{'https' if front.context else 'http'}://{options.host}:{server.port}"
        _log.info("Pool %s serves %s with %d workers, epoch %d", coordinator.pool_id, where, len(allowlist), epoch)
        if front.context is not None:
            _log.info("Its address for clients: %s", front.address(options.host, server.port))
        await stopping.wait()
        _log.info("Stopping: finishing what is being answered")
    except (ServeError, StoreError, BlobsError) as error:
        raise StartError(str(error)) from None
    finally:
        if reloading is not None:
            reloading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reloading
        coordinator.hang_up()
        await server.stop(8.0)
        await coordinator.stop()
        await store.close()


async def _take_epoch(store: SqliteStore) -> int:
    """Take the epoch of this start. Raises StartError."""
    try:
        return await next_epoch(store, SystemClock().now())
    except StoreError as error:
        await store.close()
        raise StartError(str(error)) from None


async def _open(options: CoordinatorOptions, database: Path, *, is_new: bool) -> SqliteStore:
    """Open the store. One that is not new says whether there are API keys. Raises StartError."""
    try:
        close(bind(options.host, options.port))  # a taken port is said before anything is begun
        store = SqliteStore.open(database)
        if not is_new:
            try:
                options.check_exposure(has_keys=bool(await store.api_keys()))
            except BaseException:
                await store.close()
                raise
    except (ServeError, StoreError) as error:
        raise StartError(str(error)) from None
    return store


def _coordinator(
    options: CoordinatorOptions, store: SqliteStore, key: Ed25519PrivateKey, epoch: int, limits: Limits
) -> Coordinator:
    clock, dice = SystemClock(), SystemDice()
    blobs = DirectoryBlobs(options.data / "blobs")

    def link_to(worker: Worker) -> WorkerLink:
        if worker.proven:
            return PinnedLink(worker, key, epoch, clock=clock)
        return SandrunLink(worker, blobs, clock, dice, wanted=lambda patterns: Globs(patterns).matches)

    return Coordinator(
        store=store,
        blobs=blobs,
        link_to=link_to,
        clock=clock,
        dice=dice,
        pool_id=identity_of(key),
        sign=key.sign,
        anchor=HeadFile(options.data / "audit.head"),
        workers_file=WorkersFile(options.workers),
        without_key=WITHOUT_KEY if options.anonymous else None,
        settings=Settings(
            check_interval_s=options.check_interval_s,
            grace_s=options.grace_s,
            on_worker_loss=options.on_worker_loss,
            limits=limits,
        ),
    )


def _metrics(coordinator: Coordinator, store: SqliteStore) -> Metrics:
    metrics = Metrics(store=store, roster=coordinator.roster, bulletin=coordinator.bulletin, clock=SystemClock())
    store.observe(metrics.committed)
    return metrics


async def _reload_for_ever(coordinator: Coordinator, reload: asyncio.Event) -> None:
    while True:
        await reload.wait()
        reload.clear()
        try:
            await coordinator.allowlist.reload(how="signal")
        except ConflictError as error:
            _log.error("%s; the allowlist stays as it was", error.message)
