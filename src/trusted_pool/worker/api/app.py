"""The worker's HTTP application: routes, error answers, and the guard before them."""

from litestar import Litestar
from litestar.di import Provide
from litestar.types import ASGIApp

from trusted_pool.worker.api.control import attempts, cancel, events, health, release, release_all
from trusted_pool.worker.api.failures import HANDLERS
from trusted_pool.worker.api.guard import guarded
from trusted_pool.worker.api.metrics import metrics
from trusted_pool.worker.api.reading import download, log_frames, logs, output, outputs, status
from trusted_pool.worker.api.submit import submit
from trusted_pool.worker.daemon import Daemon
from trusted_pool.worker.metrics import Metrics


def build_app(daemon: Daemon, measured: Metrics | None = None) -> ASGIApp:
    """Return the ASGI application of a worker.

    It expects the peer's proven id in `scope["state"]`, as `serve` puts it there.
    """
    measured = measured or Metrics(daemon.attempts)

    def the_daemon() -> Daemon:
        return daemon

    def the_metrics() -> Metrics:
        return measured

    app = Litestar(
        [
            health,
            submit,
            status,
            logs,
            log_frames,
            outputs,
            output,
            download,
            attempts,
            events,
            cancel,
            release,
            release_all,
            metrics,
        ],
        dependencies={
            "daemon": Provide(the_daemon, sync_to_thread=False, use_cache=True),
            "measured": Provide(the_metrics, sync_to_thread=False, use_cache=True),
        },
        exception_handlers=HANDLERS,
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    return guarded(app, daemon.pools)
