"""A small process that outlives a killed worker just long enough to end its sandboxes.

Bubblewrap's own `--die-with-parent` does it too, but only once each of its processes has asked the kernel for it. A
worker that is killed while a sandbox is being built leaves one whose parent died too early to be noticed, and for which
the end of the pipe it waits at means "go on".
"""

import os
import subprocess
import sys

from trusted_pool.ports.sandbox import SandboxError

#: Its input says what to look for, and then nothing: the kernel closes it when the worker is gone, or seen to be dying:
#: a thread of it that shares a group with processes that never rest may take long to end. For three seconds
#: everything is killed whose first word is the mark, and all below it: a sandbox being built may show up late, and the
#: first process of one may have to wait long for its turn to take the others with it. What is to be killed is held on
#: to and looked up again: where many come and go, a number may be another process's by then. Only what is called
#: bwrap is asked for its command line, which a process that never rests could keep it waiting for.
_SCRIPT = """
import os, select, signal, sys, time
worker, mark = os.getppid(), os.read(0, 1000).rstrip(b"\\n") + b"\\0"
if len(mark) < 9:
    sys.exit()
def dying():
    try:
        with open(f"/proc/{worker}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in b"ZX"
    except (OSError, IndexError):
        return True
while not select.select([0], [], [], 1.0)[0]:
    if dying():
        break
else:
    if os.read(0, 1000):
        sys.exit()
def doomed():
    below, found = {}, []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                name, _, rest = file.read().partition(b"(")[2].rpartition(b")")
            below.setdefault(rest.split()[1].decode(), []).append(pid)
            if name == b"bwrap":
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if file.read(len(mark)) == mark:
                        found.append(pid)
        except (OSError, IndexError):
            pass
    for pid in found:
        found += [child for child in below.get(pid, ()) if child not in found]
    return found
for _ in range(30):
    held = {}
    for pid in doomed()[:500]:
        try:
            held[pid] = os.pidfd_open(int(pid))
        except OSError:
            pass
    for pid in doomed() if held else ():
        if pid in held:
            try:
                signal.pidfd_send_signal(held[pid], signal.SIGKILL)
            except OSError:
                pass
    for fd in held.values():
        os.close(fd)
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
