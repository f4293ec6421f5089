"""The coordinator's ASGI application."""

from litestar import Litestar
from litestar.openapi import OpenAPIConfig

from trusted_pool import __version__
from trusted_pool.coordinator.metrics import Metrics
from trusted_pool.coordinator.service import Coordinator
from trusted_pool.web.access_routes import access_routes
from trusted_pool.web.allowlist_routes import allowlist_routes
from trusted_pool.web.bodies import PatientBodies, read_strictly
from trusted_pool.web.browser import BrowserGuard
from trusted_pool.web.caller import guard_of, on_login_failure
from trusted_pool.web.care_routes import care_routes
from trusted_pool.web.direct import DirectSubmit
from trusted_pool.web.failures import HANDLERS, MAX_BODY
from trusted_pool.web.job_routes import job_routes
from trusted_pool.web.limit_routes import limit_routes
from trusted_pool.web.log_routes import log_routes
from trusted_pool.web.metrics_routes import Counted, metrics_routes, on_failure
from trusted_pool.web.operator_routes import operator_routes
from trusted_pool.web.output_routes import output_routes
from trusted_pool.web.places import Places
from trusted_pool.web.pool_routes import pool_routes
from trusted_pool.web.revoked import StillAllowed


def create_app(
    coordinator: Coordinator, metrics: Metrics, *, loopback_only: bool, silence_s: float | None = None
) -> BrowserGuard:
    """Build the application for a coordinator.

    `loopback_only`: it is reachable from this machine only. `silence_s`: as for PatientBodies.
    """
    litestar = Litestar(
        route_handlers=[
            *job_routes(coordinator),
            *output_routes(coordinator),
            *log_routes(coordinator),
            *pool_routes(coordinator),
            *care_routes(coordinator),
            *operator_routes(coordinator),
            *allowlist_routes(coordinator),
            *access_routes(coordinator),
            *limit_routes(coordinator),
            *metrics_routes(metrics),
        ],
        guards=[guard_of(coordinator.keys)],
        before_request=read_strictly,
        after_exception=[on_failure(metrics), on_login_failure(coordinator)],
        exception_handlers=HANDLERS,
        openapi_config=OpenAPIConfig(title="Trusted Pool", version=__version__, path="/_openapi"),
        request_max_body_size=MAX_BODY,
        logging_config=None,
    )
    direct = DirectSubmit(Places(StillAllowed(litestar, coordinator.keys)), coordinator)
    return BrowserGuard(
        Counted(PatientBodies(direct, silence_s), litestar.routes, metrics), loopback_only=loopback_only
    )
