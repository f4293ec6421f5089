"""`tpool worker`: lend this machine to a pool."""

import re
from pathlib import Path
from typing import Annotated

import typer

from trusted_pool.cli.keygen import INFRASTRUCTURE, USAGE, generate
from trusted_pool.cli.log_format import LogFormat, configure

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*(M|MB|MiB|G|GB|GiB)?\Z", re.IGNORECASE)


def _wrong(words: str) -> typer.Exit:
    typer.echo(f"tpool worker: {words}", err=True)
    return typer.Exit(USAGE)


def _memory_mb(text: str) -> int:
    match = _MEMORY.match(text.strip())
    mb = float(match[1]) * (1024 if (match[2] or "M")[0] in "gG" else 1) if match else 0
    if not 1 <= mb <= 2**31:
        raise _wrong(f"--memory {text!r} is no amount of memory; write 2048, 2048M or 2G")
    return int(mb)


def _labels(pairs: list[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise _wrong(f"--label {pair!r} is no label; write --label NAME=VALUE")
        labels[name] = value
    return labels


def _forget(worker_key: Path) -> None:
    from trusted_pool.worker.enrolment import EnrolmentError, NotEnrolledError, PoolFile  # noqa: PLC0415 - rarely used

    try:
        forgotten = PoolFile(worker_key).forget()
    except NotEnrolledError as error:
        raise _wrong(f"{error}; is --worker-key the worker's?") from None
    except EnrolmentError as error:
        typer.echo(f"tpool worker: {error}", err=True)
        raise typer.Exit(INFRASTRUCTURE) from None
    typer.echo(f"Forgot pool {forgotten or '(its id could not be read)'}")
    typer.echo("A running worker hears of it within a second, ends that pool's jobs, and enrols the next other pool.")
    typer.echo("A worker that is started now enrols the first pool that calls: take it off the old pool's list before.")


def _binds(pairs: list[str]) -> dict[str, Path]:
    binds: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not name or not equals or not path:
            raise _wrong(f"--bind {pair!r} lends nothing; write --bind NAME=/path")
        if name in binds:
            raise _wrong(f"--bind {name} is said twice; give one of them another name")
        binds[name] = Path(path)
    return binds


def worker(  # noqa: PLR0917 - one parameter for each option
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve.")] = 8443,
    worker_key: Annotated[Path | None, typer.Option(help="The worker's private key.", show_default=False)] = None,
    host: Annotated[str, typer.Option(help="Address to serve.")] = "0.0.0.0",  # noqa: S104 - only proven keys get in
    data: Annotated[Path | None, typer.Option(help="Where jobs and results are kept.", show_default=False)] = None,
    max_concurrent_jobs: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Jobs at a time; one for each cpu if not said.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="What jobs may ask for.", show_default=False)
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="MB|G", help="Memory for jobs, e.g. 4G.", show_default=False)
    ] = None,
    cpus: Annotated[float | None, typer.Option(min=0.01, help="Cpus for jobs.", show_default=False)] = None,
    pool: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="A pool that may run jobs here.", show_default=False)
    ] = None,
    pools: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="More of them, one id a line; read again when it changes.", show_default=False
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Let every pool run jobs here.")] = False,
    allow_weaker_isolation: Annotated[
        bool, typer.Option("--allow-weaker-isolation", help="Start where a whole tree's limits cannot be enforced.")
    ] = False,
    forget_pool: Annotated[
        bool, typer.Option("--forget-pool", help="Forget the pool that this worker enrolled in, and leave.")
    ] = False,
    bind: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=/PATH", help="A directory that jobs may ask to see, read-only.", show_default=False),
    ] = None,
    gpus: Annotated[bool, typer.Option("--gpus/--no-gpus", help="Lend this machine's GPUs to jobs that ask.")] = True,
    gpu_devices: Annotated[Path, typer.Option(metavar="DIR", help="Where the GPUs' device files are.")] = Path("/dev"),
    nvml: Annotated[
        str, typer.Option(metavar="LIBRARY", help="NVIDIA's library that tells what the GPUs are.")
    ] = "libnvidia-ml.so.1",
    generate_key: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Make a key and leave.", show_default=False)
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of 127.0.0.1 for /metrics without TLS.", show_default=False),
    ] = None,
    log_format: Annotated[LogFormat, typer.Option(help="Form of the log.")] = LogFormat.CONSOLE,
) -> None:
    """Lend this machine to a pool: run its jobs in sandboxes.

    Without --pool, --pools and --open it enrols in the first pool that proves its key, and runs jobs for no other from
    then on.
    """
    if generate_key is not None:
        generate(generate_key, "tpool worker")
        return
    if worker_key is None:
        raise _wrong("a worker needs a key: --worker-key PATH; make one: tpool worker --generate-key PATH")
    if forget_pool:
        _forget(worker_key)
        return
    if open_ and (pool or pools):
        raise _wrong(f"{'--pool' if pool else '--pools'} and --open contradict each other; say one of them")
    from trusted_pool.compose import worker as compose  # noqa: PLC0415 - heavy, and not needed for --help
    from trusted_pool.compose.system import StartError, run  # noqa: PLC0415

    options = compose.WorkerOptions(
        host=host,
        port=port,
        key=worker_key,
        data=data,
        slots=max_concurrent_jobs,
        memory_mb=None if memory is None else _memory_mb(memory),
        cpus=cpus,
        labels=_labels(label or []),
        pools=tuple(pool or ()),
        pool_list=pools,
        anyone=open_,
        allow_weaker=allow_weaker_isolation,
        binds=_binds(bind or []),
        gpus=gpus,
        gpu_devices=gpu_devices,
        nvml=nvml,
        metrics_port=metrics_port,
    )
    configure(log_format)
    try:
        run(compose.run_worker(options))
    except StartError as error:
        typer.echo(f"tpool worker: {error}", err=True)
        raise typer.Exit(USAGE if error.usage else INFRASTRUCTURE) from None
