"""A small process that outlives a killed worker just long enough to end its sandboxes.

Bubblewrap's own `--die-with-parent` does it too, but only once each of its processes has asked the kernel for it. A
worker that is killed while a sandbox is being built leaves one whose parent died too early to be noticed, and for which
the end of the pipe it waits at means "go on".
"""

import os
import subprocess
import sys

from trusted_pool.ports.sandbox import SandboxError

#: Its input says what to look for, and then nothing: the kernel closes it when the worker is gone. For three seconds
#: every process is killed whose first word is the mark: a sandbox being built may show up late. A shell could not do
#: it: a number may be another process's between looking and killing, where many come and go. A pidfd stays the same.
_SCRIPT = """
import os, signal, sys, time
mark = sys.stdin.buffer.readline().rstrip(b"\\n") + b"\\0"
if len(mark) < 9 or sys.stdin.buffer.read():
    sys.exit()
def marked(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read(len(mark)) == mark
    except OSError:
        return False
for _ in range(30):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if marked(pid):
            try:
                fd = os.pidfd_open(int(pid))
                if marked(pid):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                os.close(fd)
            except OSError:
                pass
    time.sleep(0.1)
"""


class Undertaker:
    """Started once by a worker. `mark` is the first word of its sandboxes' command lines."""

    def __init__(self, name: str) -> None:
        """`name`: the worker's own. Raises SandboxError."""
        self.mark = f"trusted-pool-sandbox:{name}:{os.getpid()}"
        self._process = _start()
        if self._process.stdin is not None:
            self._process.stdin.write(self.mark.encode() + b"\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """Dismiss it: no sandbox is left. Blocks for a moment."""
        self._process.communicate(b"done\n")


def _start() -> "subprocess.Popen[bytes]":
    """Start it with our own Python, or with the system's where ours cannot be started any more."""
    words = ""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            return subprocess.Popen(
                [python, "-I", "-S", "-c", _SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,  # what is sent to the worker's whole group is not sent to it
            )
        except OSError as error:
            words = words or f"{python} cannot be started: {error.strerror}"
    raise SandboxError(words)
