"""`tpool coordinator`: serve a pool."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from trusted_pool.cli.log_format import LogFormat, configure
from trusted_pool.core.words import OnWorkerLoss

USAGE = 2
INFRASTRUCTURE = 125
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def default_data() -> Path:
    """Return where the coordinator keeps everything unless told otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/trusted-pool/coordinator")
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "trusted-pool" / "coordinator"


def _seconds(text: str) -> float:
    from trusted_pool.protocol.errors import BadManifestError  # noqa: PLC0415 - not needed for --help
    from trusted_pool.protocol.manifest import duration_s  # noqa: PLC0415

    try:
        return duration_s(text, "the duration")
    except BadManifestError as error:
        raise typer.BadParameter(f"{error.message}; {error.hint}") from None


def coordinator(  # noqa: PLR0917 - one parameter for each option
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve.")] = 9000,
    workers: Annotated[Path, typer.Option(help="The allowlist.")] = Path("workers.json"),
    host: Annotated[str, typer.Option(help="Address to serve; others than loopback need --anonymous.")] = "127.0.0.1",
    data: Annotated[Path | None, typer.Option(help="Where jobs and files are kept.", show_default=False)] = None,
    check_interval: Annotated[str, typer.Option(help="Time between health checks.")] = "30s",
    grace: Annotated[str, typer.Option(help="How long a silent worker keeps its jobs.")] = "120s",
    on_worker_loss: Annotated[OnWorkerLoss, typer.Option(help="What happens to jobs of a lost worker.")] = (
        OnWorkerLoss.RETRY
    ),
    anonymous: Annotated[bool, typer.Option("--anonymous", help="Let everybody who can connect use the pool.")] = False,
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Serve other addresses than loopback without TLS.")
    ] = False,
    show_id: Annotated[bool, typer.Option("--show-id", help="Print the pool's id and leave.")] = False,
    log_format: Annotated[LogFormat, typer.Option(help="Form of the log.")] = LogFormat.CONSOLE,
) -> None:
    """Serve a pool: take jobs, keep them, route them to trusted workers."""
    from trusted_pool.compose import coordinator as compose  # noqa: PLC0415 - heavy, and not needed for --help
    from trusted_pool.compose.system import StartError, run  # noqa: PLC0415
    from trusted_pool.protocol.identity import identity_of  # noqa: PLC0415

    directory = data or default_data()
    try:
        if show_id:
            typer.echo(identity_of(compose.pool_key(directory)))
            return
        if host not in LOOPBACK and not (anonymous and insecure_http):
            missing = " ".join(
                flag for flag, said in (("--anonymous", anonymous), ("--insecure-http", insecure_http)) if not said
            )
            raise StartError(
                f"--host {host} would let everybody who can reach it use the pool, unencrypted; "
                f"if that is meant, add: {missing}",
                usage=True,
            )
        options = compose.CoordinatorOptions(
            host=host,
            port=port,
            workers=workers,
            data=directory,
            check_interval_s=_seconds(check_interval),
            grace_s=_seconds(grace),
            on_worker_loss=on_worker_loss,
            anonymous=anonymous,
        )
        configure(log_format)
        if host not in LOOPBACK:
            _warn(host)
        run(compose.run_coordinator(options))
    except StartError as error:
        typer.echo(f"tpool coordinator: {error}", err=True)
        raise typer.Exit(USAGE if error.usage else INFRASTRUCTURE) from None


def _warn(host: str) -> None:
    import logging  # noqa: PLC0415 - not needed for --help

    logging.getLogger("trusted_pool.coordinator").warning(
        "Serving %s without TLS and without authentication: everybody who can connect can submit, read and cancel", host
    )
    sys.stderr.flush()
