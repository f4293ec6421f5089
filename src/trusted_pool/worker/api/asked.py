"""What the routes are given, and what of it is checked by several."""

import re
from typing import Annotated, Any

from litestar import Request
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from trusted_pool.protocol.errors import BadRequestError
from trusted_pool.worker.daemon import Daemon

Asked = Request[Any, Any, Any]
TheDaemon = NamedDependency[Daemon]
#: A query parameter that counts bytes or events.
Number = Annotated[int, QueryParameter(ge=0, le=2**62)]

_NUMBER = re.compile(r"\d{1,15}\Z", re.ASCII)


def number_in(request: Asked, header: str) -> int:
    """Read a header that holds a number. Raises BadRequestError."""
    text = request.headers.get(header, "")
    if not _NUMBER.match(text):
        raise BadRequestError(f"the header {header} must be a number")
    return int(text)
