"""What the routes are given."""

from typing import Annotated, Any

from litestar import Request
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from trusted_pool.worker.daemon import Daemon

Asked = Request[Any, Any, Any]
TheDaemon = NamedDependency[Daemon]
#: A query parameter that counts bytes or events.
Number = Annotated[int, QueryParameter(ge=0, le=2**62)]
