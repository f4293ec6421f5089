"""A server of one application inside a running event loop. Signals are the caller's."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn.config import Config

from trusted_pool.serve.connection import Connection, Connections, Limits
from trusted_pool.serve.listener import ServeError, bind, close, words_for

App = Callable[[Any, Any, Any], Awaitable[None]]

#: How long tasks may take to notice that their connection is gone, before they are cancelled.
_LAST_WORDS_S = 1.0


class Server:
    """Lifecycle: `start`, then `stop`, once each; `stop` may be called at any time and again.

    Between a failed `start` and the garbage there is nothing to stop.
    """

    def __init__(
        self,
        app: App,
        *,
        host: str,
        port: int,
        ssl_context: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        ready: Callable[[str, int], None] | None = None,
    ) -> None:
        """`port` 0: a free one. `ready` is called with host and port when connections are accepted."""
        self._host = host
        self._port = port
        self._ssl = ssl_context
        self._limits = limits or Limits()
        self._ready = ready
        logging.getLogger("uvicorn.error").addFilter(_NOT_OF_CUTS)
        self._listeners: list[asyncio.Server] = []
        self._stopped = False
        self._config = Config(
            _quiet(app),
            http=Connection,
            ws="none",
            log_config=None,
            log_level=logging.ERROR,  # below that uvicorn tells of every scanner that knocks
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=self._limits.keep_alive_s,
        )

    @property
    def port(self) -> int:
        """The port that is listened on; with port 0 known after `start`."""
        return self._port

    async def start(self) -> None:
        """Bind, start the application, accept. Raises ServeError."""
        sockets = bind(self._host, self._port)  # first, so that a taken port is said before anything is started
        self._port = sockets[0].getsockname()[1]
        try:
            await self._start_application()
            for sock in sockets:
                self._listeners.append(await self._listen(sock))
        except BaseException as error:
            close(sockets)
            if not isinstance(error, OSError):
                raise
            await self.stop(0.0)
            raise ServeError(words_for(error, self._host, self._port)) from None
        if self._ready is not None:
            self._ready(self._host, self._port)

    async def _start_application(self) -> None:
        self._config.load()
        self._lifespan = self._config.lifespan_class(self._config)
        self._state = Connections(self._limits)
        await self._lifespan.startup()
        if self._lifespan.should_exit:
            raise ServeError("the application did not start; the log says why")

    async def _listen(self, sock: Any) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        timeouts: dict[str, Any] = {}
        if self._ssl is not None:
            timeouts = {"ssl_handshake_timeout": self._limits.handshake_timeout_s, "ssl_shutdown_timeout": 5.0}
        return await loop.create_server(
            lambda: Connection(self._config, self._state, self._lifespan.state, loop),
            sock=sock,
            ssl=self._ssl,
            backlog=self._limits.backlog,
            **timeouts,
        )

    async def stop(self, grace_s: float = 10.0) -> None:
        """Accept no more, let answers finish for `grace_s`, then end what is left. Idempotent."""
        if self._stopped or not hasattr(self, "_state"):
            return
        self._stopped = self._state.stopping = True
        for listener in self._listeners:
            listener.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._state.none_left.wait(), grace_s)
        # An aborted connection tells its request, which then ends by itself; whoever does not is cancelled.
        for connection in list(self._state.connections):
            connection.transport.abort()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=_LAST_WORDS_S)
        for task in list(self._state.tasks):
            task.cancel()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=_LAST_WORDS_S)
        await self._lifespan.shutdown()


class _NotOfCuts(logging.Filter):
    """Leaves out what uvicorn says of each answer that was cut on purpose: by a stop, or for a revoked key."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "ASGI callable returned without completing response."


_NOT_OF_CUTS = _NotOfCuts()


def _quiet(app: App) -> App:
    """Let a request that is cancelled by `stop` end without a traceback in the log."""

    async def quiet(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            if scope["type"] == "lifespan":
                raise

    return quiet
