"""A worker's end that runs nothing: it takes what it is sent and answers at once, over pinned TLS or plain HTTP."""

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import uvloop

from trusted_pool.link.fake_http import application
from trusted_pool.link.fake_worker import FakeWorker
from trusted_pool.protocol.certificates import PEER, server_context
from trusted_pool.protocol.identity import identity_of, load_key_file
from trusted_pool.protocol.messages import POOL_HEADER
from trusted_pool.serve import Server


async def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--plain", action="store_true")
    said = parser.parse_args()
    key = load_key_file(said.key)
    inner = application(FakeWorker(identity_of(key)))

    async def believing(scope: Any, receive: Any, send: Any) -> None:
        """Take the header for a proof: over plain HTTP there is none."""
        if scope["type"] == "http":
            scope["state"][PEER] = dict(scope["headers"])[POOL_HEADER.encode()].decode()
        await inner(scope, receive, send)

    server = Server(
        believing if said.plain else inner,
        host="127.0.0.1",
        port=said.port,
        ssl_context=None if said.plain else server_context(key, time.time),  # noqa: TID251 - a script of its own
    )
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
