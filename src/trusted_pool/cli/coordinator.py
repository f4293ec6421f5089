"""`tpool coordinator`: serve a pool."""

import os
from pathlib import Path
from typing import Annotated

import typer

from trusted_pool.cli.log_format import LogFormat, configure
from trusted_pool.core.words import OnWorkerLoss

USAGE = 2
INFRASTRUCTURE = 125


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
    host: Annotated[
        str, typer.Option(help="Address to serve; others than loopback need API keys and TLS.")
    ] = "127.0.0.1",
    data: Annotated[Path | None, typer.Option(help="Where jobs and files are kept.", show_default=False)] = None,
    check_interval: Annotated[str, typer.Option(help="Time between health checks.")] = "30s",
    grace: Annotated[str, typer.Option(help="How long a silent worker keeps its jobs.")] = "120s",
    on_worker_loss: Annotated[OnWorkerLoss, typer.Option(help="What happens to jobs of a lost worker.")] = (
        OnWorkerLoss.RETRY
    ),
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="NAME=VALUE",
            help="What each owner may have: queued, running, bytes, submits-per-minute, transfers, waits; "
            "`none` for no limit. And of everybody: connections (of one address), head-seconds, body-seconds.",
            show_default=False,
        ),
    ] = None,
    anonymous: Annotated[bool, typer.Option("--anonymous", help="Let everybody who can connect use the pool.")] = False,
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Serve other addresses than loopback without TLS.")
    ] = False,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Serve TLS with this certificate (PEM).", show_default=False)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The certificate's private key (PEM).", show_default=False)
    ] = None,
    tls_pinned: Annotated[
        bool, typer.Option("--tls-pinned", help="Serve TLS with the pool's own key, which clients pin.")
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
        if (tls_cert is None) != (tls_key is None):
            raise StartError("--tls-cert and --tls-key belong together: name both files", usage=True)
        if tls_pinned and tls_cert is not None:
            raise StartError("--tls-pinned and --tls-cert contradict each other; say one of them", usage=True)
        if show_id:
            typer.echo(identity_of(compose.pool_key(directory)))
            return
        options = compose.CoordinatorOptions(
            host=host,
            port=port,
            workers=workers,
            data=directory,
            check_interval_s=_seconds(check_interval),
            grace_s=_seconds(grace),
            on_worker_loss=on_worker_loss,
            limits=tuple(limit or ()),
            anonymous=anonymous,
            insecure_http=insecure_http,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_pinned=tls_pinned,
        )
        configure(log_format)
        run(compose.run_coordinator(options))
    except StartError as error:
        typer.echo(f"tpool coordinator: {error}", err=True)
        raise typer.Exit(USAGE if error.usage else INFRASTRUCTURE) from None
