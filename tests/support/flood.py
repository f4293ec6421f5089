"""A flood of small submits over many lines, from a process of its own: python -m support.flood PORT TOKEN LINES."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support.archives import tar_gz


async def _flood(port: int, token: str, lines: int) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="p.tar.gz"\r\n\r\n'
    body += tar_gz({"main.py": b"print(1)\n"}) + b"\r\n--x--\r\n"
    head = f"POST /submit HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
    head += f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(body)}\r\n\r\n"
    raw = head.encode() + body

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            writer.write(raw)
            answer = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0]))

    await asyncio.gather(*(one() for _ in range(lines)))


@contextlib.contextmanager
def flood(port: int, token: str, lines: int) -> Iterator[None]:
    """Flood a pool until this is left."""
    command = [sys.executable, "-m", "support.flood", str(port), token, str(lines)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(_flood(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
