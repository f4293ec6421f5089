"""The worker's wiring list."""

import asyncio
import logging
import os
import shutil
import signal
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted_pool.blobs.directory import DirectoryBlobs
from trusted_pool.compose.system import StartError, SystemClock, SystemDice, make_directory
from trusted_pool.journal.sqlite import SqliteJournal
from trusted_pool.ports.blobs import BlobsError
from trusted_pool.ports.journal import JournalError
from trusted_pool.ports.sandbox import SandboxError
from trusted_pool.protocol.certificates import server_context
from trusted_pool.protocol.identity import IdentityError, identity_of, load_key_file, public_bytes, to_path
from trusted_pool.sandbox import binds
from trusted_pool.sandbox.bubblewrap import BubblewrapSandbox
from trusted_pool.sandbox.gpus import LIBRARY
from trusted_pool.sandbox.lent import Equipment
from trusted_pool.serve.listener import ServeError, bind, close
from trusted_pool.serve.server import Server
from trusted_pool.worker.api.app import build_app
from trusted_pool.worker.api.metrics import plain_metrics
from trusted_pool.worker.daemon import Daemon
from trusted_pool.worker.enrolment import EnrolmentError, PoolFile
from trusted_pool.worker.metrics import Metrics
from trusted_pool.worker.pool_list import PoolList, PoolListError
from trusted_pool.worker.pool_watch import PoolWatch

#: How long answers may take to finish when the worker leaves.
LAST_WORDS_S = 5.0

_log = logging.getLogger("trusted_pool.worker")


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says of a worker."""

    host: str
    port: int
    key: Path
    data: Path | None = None  #: None: the default, named after the worker
    slots: int | None = None
    memory_mb: int | None = None
    cpus: float | None = None
    labels: dict[str, str] = {}
    pools: tuple[str, ...] = ()
    pool_list: Path | None = None  #: a file with more of them
    anyone: bool = False
    allow_weaker: bool = False
    binds: dict[str, Path] = {}
    gpus: bool = True  #: whether they are looked for
    gpu_devices: Path = Path("/dev")
    nvml: str = LIBRARY
    metrics_port: int | None = None  #: of loopback, without TLS; None: not served there


def worker_key(path: Path) -> Ed25519PrivateKey:
    """Read the worker's key. Raises StartError."""
    try:
        return load_key_file(path)
    except FileNotFoundError:
        raise StartError(f"there is no key {path}; make one: tpool worker --generate-key {path}", usage=True) from None
    except OSError as error:
        raise StartError(
            f"the key {path} cannot be read: {error.strerror}; name another with --worker-key", usage=True
        ) from None
    except IdentityError as error:
        raise StartError(f"{error} (--worker-key)", usage=True) from None


def default_data(worker_id: str) -> Path:
    """Return where a worker keeps everything unless told otherwise."""
    name = f"worker-{to_path(worker_id)[:12]}"
    if os.geteuid() == 0:
        return Path("/var/lib/trusted-pool") / name
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "trusted-pool" / name


async def run_worker(options: WorkerOptions) -> None:
    """Serve until told to leave; see `Daemon.signal`. SIGHUP reads the list of pools again. Raises StartError."""
    key = worker_key(options.key)
    data = _checked(options, key)
    pool_list = None if options.pool_list is None else PoolList(options.pool_list)
    try:
        close(bind(options.host, options.port))  # a taken port is said before anything is begun
        daemon = _daemon(options, key, data, pool_list)
    except PoolListError as error:
        raise StartError(str(error), usage=True) from None
    except (ServeError, JournalError, EnrolmentError, BlobsError) as error:
        raise StartError(str(error)) from None
    watch = PoolWatch(daemon.pools, pool_list, PoolFile(options.key))
    measured = Metrics(daemon.attempts)
    server = Server(
        build_app(daemon, measured),
        host=options.host,
        port=options.port,
        ssl_context=server_context(key, SystemClock().now),
    )
    plain = None
    if options.metrics_port is not None:
        plain = Server(plain_metrics(measured), host="127.0.0.1", port=options.metrics_port)
    _listen_to_signals(daemon)
    if pool_list is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, watch.look_now)
    watching = asyncio.create_task(watch.run())
    try:
        await daemon.start()
        await server.start()
        if plain is not None:
            try:
                await plain.start()
            except ServeError as error:
                raise StartError(str(error).replace("--port", "--metrics-port")) from None
            _log.info("Metrics are at http://127.0.0.1:%d/metrics", plain.port)
        _introduce(daemon, options, server.port)
        await daemon.wait()
    except (ServeError, JournalError, SandboxError, BlobsError) as error:
        raise StartError(str(error)) from None
    finally:
        watching.cancel()
        daemon.hang_up()
        if plain is not None:
            await plain.stop(0.0)
        await server.stop(LAST_WORDS_S)
        await daemon.close()
    _log.info("Left")


def _checked(options: WorkerOptions, key: Ed25519PrivateKey) -> Path:
    """Return the data directory, made; what was typed has been looked at by then. Raises StartError."""
    for pool_id in options.pools:
        try:
            public_bytes(pool_id)
        except IdentityError as error:
            raise StartError(f"--pool {pool_id} is no pool id: {error}", usage=True) from None
    data = options.data or default_data(identity_of(key))
    try:
        binds.resolve(options.binds, private_directories(options, data))
    except SandboxError as error:
        raise StartError(str(error), usage=True) from None
    make_directory(data, "data directory")
    return data


def _daemon(options: WorkerOptions, key: Ed25519PrivateKey, data: Path, pool_list: PoolList | None) -> Daemon:
    dice = SystemDice()
    journal = SqliteJournal.open(data / "journal", journal_id=dice.token(16))  # first: it holds the directory's lock
    # Inputs do not outlive the process: whatever ran is not started again.
    shutil.rmtree(data / "inputs", ignore_errors=True)
    return Daemon(
        worker_id=identity_of(key),
        sandbox=BubblewrapSandbox(
            data / "sandbox",
            slots=options.slots,
            memory_mb=options.memory_mb,
            cpus=options.cpus,
            labels=options.labels,
            allow_weaker=options.allow_weaker,
            equipment=Equipment(
                binds=options.binds,
                private=private_directories(options, data),
                gpus=options.gpus,
                gpu_devices=options.gpu_devices,
                nvml=options.nvml,
            ),
        ),
        journal=journal,
        blobs=DirectoryBlobs(data / "inputs", durable=False),
        enrolment=PoolFile(options.key),
        clock=SystemClock(),
        dice=dice,
        listed=options.pools,
        anyone=options.anyone,
        pool_list=pool_list,
    )


def private_directories(options: WorkerOptions, data: Path) -> tuple[Path, ...]:
    """Return what no bind may show: where the worker keeps everything, and where its key and its pools are."""
    return data, options.key.absolute().parent


def _listen_to_signals(daemon: Daemon) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.signal)
    loop.add_signal_handler(signal.SIGQUIT, daemon.quit)


def _introduce(daemon: Daemon, options: WorkerOptions, port: int) -> None:
    """Say in the log who this is, where, what it offers and to whom."""
    capacity = daemon.attempts.measure()
    found = ", ".join(f"{name} {version}" for name, version in sorted((capacity.interpreters or {}).items()))
    _log.info("Worker %s serves https://%s:%d", daemon.worker_id, options.host, port)
    _log.info(
        "Isolation level %s; %s slots, %s MB of memory, %g cpus; interpreters: %s",
        capacity.isolation,
        capacity.slots,
        capacity.memory_mb,
        capacity.cpus or 0,
        found or "none",
    )
    for gpu in capacity.gpus or ():
        size = f"{gpu.memory_mb} MB" if gpu.memory_mb else "memory not known"
        _log.info("Lends GPU %d: %s, %s", gpu.index, gpu.name or "no name", size)
    for name, path in sorted(options.binds.items()):
        _log.info("Lends %s as bind %r", path, name)
    _log.info("Runs jobs of %s", daemon.pools.words)
