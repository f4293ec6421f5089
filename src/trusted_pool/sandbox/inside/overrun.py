"""A job that goes beyond one limit, named by its argument. It is never imported: it is sent into a sandbox as a job.

With enough of everything each of them ends well. Standard library only, and nothing newer than Python 3.7.
"""

from __future__ import annotations

import os
import signal
import sys
import time

MB = 1 << 20


def say(*words: object) -> None:
    """Print one line at once."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def memory() -> None:
    """Take 200 MB."""
    say(len(bytearray(200 * MB)))


def memory_of_children() -> None:
    """Let a child take 200 MB, and end well."""
    if os.fork() == 0:
        bytearray(200 * MB)
        os._exit(0)
    os.wait()


def memory_files() -> None:
    """Take 150 MB in a file that has no name."""
    fd = os.memfd_create("x")
    for _ in range(150):
        os.write(fd, bytes(MB))


def processes() -> None:
    """Start 600 processes that sleep."""
    started: list[int] = []
    try:
        while len(started) < 600:
            pid = os.fork()
            if pid == 0:
                time.sleep(20)
                os._exit(0)
            started.append(pid)
    except OSError as error:
        say("refused at", len(started), error.strerror)
    for pid in started:
        os.kill(pid, signal.SIGKILL)


def cpu_time() -> None:
    """Use a second of processor time, in children that each use little."""
    while sum(os.times()[:4]) < 1:
        if os.fork() == 0:
            for _ in range(10**5):
                pass
            os._exit(0)
        os.wait()


def cpu_share() -> None:
    """Use a processor wholly for a while."""
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        pass


def wall_clock() -> None:
    """Take no notice of signals for a while."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(1.5)


def disk() -> None:
    """Write 100 MB into many files, not too fast."""
    for number in range(100):
        with open(f"f{number}", "wb") as file:
            file.write(bytes(MB))
        time.sleep(0.02)


def file_size() -> None:
    """Make one file of 64 MB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with open("x", "wb") as file:
            file.truncate(64 * MB)
    except OSError as error:
        say("refused:", error.strerror)


def memory_disks() -> None:
    """Write 80 MB to each of the places that are in memory."""
    full = 0
    for place in ("/tmp", "/dev/shm"):
        try:
            with open(place + "/x", "wb", 0) as file:
                for _ in range(80):
                    file.write(bytes(MB))
        except OSError:
            full += 1
        os.truncate(place + "/x", 0)
    say("both full" if full == 2 else "room")


def open_files() -> None:
    """Open the same directory 9,000 times."""
    opened = 0
    try:
        while opened < 9000:
            os.open("/", os.O_RDONLY)
            opened += 1
    except OSError:
        say("refused at", opened)


def log_size() -> None:
    """Print 4 MB."""
    for _ in range(64):
        os.write(1, bytes(1 << 16))


def output_count() -> None:
    """Leave 50 files."""
    for number in range(50):
        open(f"f{number}", "w").close()


def output_links() -> None:
    """Leave what is no file of its own."""
    os.symlink("/etc/passwd", "a")
    os.symlink("..", "b")
    os.mkfifo("c")
    os.link("main.py", "d")


def daemon() -> None:
    """Leave a process behind; its command line holds the second argument, by which it would be found."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", sys.argv[2]])
        os._exit(0)
    os.wait()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
