"""Draw the Mandelbrot set with several processes and write a PNG, with the standard library alone."""

import os
import struct
import sys
import time
import zlib
from multiprocessing import Pool
from pathlib import Path

WIDTH, HEIGHT = 720, 480
DEPTH = 220
FAR = 4.0  # beyond this squared distance a point never comes back
CENTRE, SPAN = (-0.6, 0.0), 3.2


def colour(n: int) -> bytes:
    """Return red, green and blue for a point that escaped after n steps."""
    if n == DEPTH:
        return b"\x08\x08\x18"
    t = n / DEPTH
    return bytes(
        (
            int(255 * min(1.0, 3.2 * t**0.6)),
            int(255 * min(1.0, 9.0 * t * (1 - t))),
            int(255 * (0.35 + 0.65 * (1 - t) ** 6)),
        )
    )


def row(y: int) -> bytes:
    """Compute one line of the picture: a filter byte, then three bytes a pixel."""
    step = SPAN / WIDTH
    ci = CENTRE[1] + (y - HEIGHT / 2) * step
    line = bytearray(b"\0")
    for x in range(WIDTH):
        cr = CENTRE[0] + (x - WIDTH / 2) * step
        zr = zi = 0.0
        n = 0
        while n < DEPTH and zr * zr + zi * zi < FAR:
            zr, zi = zr * zr - zi * zi + cr, 2.0 * zr * zi + ci
            n += 1
        line += colour(n)
    return bytes(line)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Write one chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: list[bytes]) -> bytes:
    """Write a PNG of 8-bit RGB lines."""
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"".join(rows), 9))
        + chunk(b"IEND", b"")
    )


def main() -> None:
    """Draw, saying how far it is."""
    began = time.monotonic()
    workers = len(os.sched_getaffinity(0))
    where = os.environ.get("TRUSTED_POOL_WORKER_ID", "no worker")
    print(f"drawing {WIDTH} x {HEIGHT} with {workers} processes on {where}")
    rows: list[bytes] = []
    with Pool(workers) as pool:
        for line in pool.imap(row, range(HEIGHT), chunksize=8):
            rows.append(line)
            if len(rows) * 10 % HEIGHT == 0:
                print(f"{100 * len(rows) // HEIGHT:3d} %  {time.monotonic() - began:5.2f} s", flush=True)
    target = Path("results/output.png")
    target.parent.mkdir(exist_ok=True)
    size = target.write_bytes(png(rows))
    print(f"wrote {target}, {size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
