"""Who asks, and what he may: judged once for each request, before a byte of its body is read."""

from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.enums import HttpMethod
from litestar.handlers import BaseRouteHandler
from litestar.types import Scope as AsgiScope

from trusted_pool.coordinator.keys import BAD_KEY, Keys
from trusted_pool.coordinator.service import Coordinator
from trusted_pool.core.access import Access, Role, Scope
from trusted_pool.core.job import Job
from trusted_pool.protocol.errors import ForbiddenError, NotFoundError, UnauthenticatedError

ACCESS = "access"  #: in the state of a request: who asks
_BEARER = "bearer "


def _needs(role: Role | None, scope: Scope = Scope.OWN) -> dict[str, Any]:
    return {"role": role, "scope": scope}


#: What a route says, as its `opt`, of who may ask. `OF_ALL`: its answer is about everybody's jobs.
PUBLIC = _needs(None)
VIEWER = _needs(Role.VIEWER)
VIEWER_OF_ALL = _needs(Role.VIEWER, Scope.ALL)
SUBMITTER = _needs(Role.SUBMITTER)
OPERATOR = _needs(Role.OPERATOR)
ADMIN = _needs(Role.ADMIN)
ADMIN_OF_ALL = _needs(Role.ADMIN, Scope.ALL)


class Caller:
    """The one who asks."""

    def __init__(self, access: Access) -> None:
        self.access = access

    @property
    def owner(self) -> str:
        """Under whose name he asks."""
        return self.access.owner

    @property
    def sees_owner(self) -> str | None:
        """The owner whose jobs he sees; None: everybody's."""
        return self.access.sees_owner

    def sees_jobs_of(self, owner: str | None) -> bool:
        """Whether a list of this owner's jobs (None: of all that he sees) can hold any for him."""
        return owner is None or self.sees_owner in (None, owner)

    def may_see(self, job: Job) -> None:
        """Raise NotFoundError for a job out of scope: a foreign job does not exist."""
        if not self.access.reaches(job):
            raise NotFoundError(f"there is no job {job.job_id}", hint="list the jobs: tpool jobs")


def authenticate(scope: AsgiScope, keys: Keys) -> Access:
    """Say who asks, by the key that the request shows. Raises UnauthenticatedError."""
    shown = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
    if not shown:
        return keys.access_without_key()
    if len(shown) > 1 or not shown[0].lower().startswith(_BEARER):
        raise UnauthenticatedError(
            "the Authorization header names no API key", hint="send it as: Authorization: Bearer tpool_…"
        )
    return keys.access_of(shown[0][len(_BEARER) :].strip())


def allow(scope: AsgiScope, keys: Keys, needed: Role, reach: Scope = Scope.OWN) -> None:
    """Let a request go on only if its sender may. Raises UnauthenticatedError, ForbiddenError."""
    access = authenticate(scope, keys)
    if not access.may(needed):
        raise ForbiddenError(
            f"this needs the role {needed}, and the key of {access.owner!r} has the role {access.role}",
            hint="ask an admin of the pool for a key with that role: tpool keys create",
        )
    if reach is Scope.ALL and access.scope is not Scope.ALL:
        raise ForbiddenError(
            f"this is about everybody's jobs, and the key of {access.owner!r} reaches its own only",
            hint="ask an admin of the pool for a key with --scope all",
        )
    scope.setdefault("state", {})[ACCESS] = access


def guard_of(keys: Keys) -> Any:
    """Return the guard before every route. A route that does not say who may ask is a defect of ours."""

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if (
            connection.scope.get("method") == HttpMethod.OPTIONS
        ):  # which methods there are: no route of ours answers that
            return
        if (needed := handler.opt["role"]) is not None:
            allow(connection.scope, keys, needed, handler.opt["scope"])

    return guard


def caller_of(request: Request[Any, Any, Any]) -> Caller:
    """Return who asks."""
    return Caller(request.scope["state"][ACCESS])


def on_login_failure(coordinator: Coordinator) -> Callable[[Exception, AsgiScope], Awaitable[None]]:
    """Return the hook that has failed logins written down."""

    async def failed(error: Exception, scope: AsgiScope) -> None:
        if isinstance(error, UnauthenticatedError) and error.code == BAD_KEY:
            client = scope.get("client")
            coordinator.login_failed(client[0] if client else "", error.message)

    return failed
