"""Connections to a worker that speaks only the sandrun API: plain HTTP, and a new connection for each call.

Such a worker ends every connection after its answer, without saying so; on a kept one a submit could be lost.
"""

from typing import Any

import aiohttp

from trusted_pool.link.endpoint import base_url
from trusted_pool.link.line import Calls


class PlainLine(Calls):
    """Plain HTTP/1.1."""

    def __init__(self, endpoint: str, connect_s: float) -> None:
        """Raises ValueError for an endpoint that cannot be dialled."""
        super().__init__(base_url(endpoint, "http"), connect_s)

    def _connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=self._new_socket)

    def _security(self) -> dict[str, Any]:
        return {}
