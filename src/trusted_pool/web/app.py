"""The coordinator's ASGI application."""

from litestar import Litestar
from litestar.openapi import OpenAPIConfig

from trusted_pool import __version__
from trusted_pool.coordinator.service import Coordinator
from trusted_pool.web.browser import App, BrowserGuard
from trusted_pool.web.failures import HANDLERS
from trusted_pool.web.job_routes import job_routes
from trusted_pool.web.pool_routes import pool_routes
from trusted_pool.web.result_routes import result_routes


def create_app(coordinator: Coordinator, *, loopback_only: bool) -> App:
    """Build the application for a coordinator. `loopback_only`: it is reachable from this machine only."""
    litestar = Litestar(
        route_handlers=[*job_routes(coordinator), *result_routes(coordinator), *pool_routes(coordinator)],
        exception_handlers=HANDLERS,
        openapi_config=OpenAPIConfig(title="Trusted Pool", version=__version__, path="/_openapi"),
        request_max_body_size=None,  # uploads are streamed, and capped where they are read
        logging_config=None,
    )
    return BrowserGuard(litestar, loopback_only=loopback_only)
