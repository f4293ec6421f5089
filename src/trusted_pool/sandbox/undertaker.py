"""A small process that outlives a killed worker just long enough to end its sandboxes.

Bubblewrap's own `--die-with-parent` does it too, but only once each of its processes has asked the kernel for it. A
worker that is killed while a sandbox is being built leaves one whose parent died too early to be noticed, and for which
the end of the pipe it waits at means "go on".
"""

import os
import subprocess

from trusted_pool.ports.sandbox import SandboxError

#: Its input says what to look for, and then nothing: the kernel closes it when the worker is gone. For three seconds
#: everything that has the mark in its command line is killed: a sandbox being built may show up late.
_SCRIPT = """
read -r mark || exit 0
read -r word && exit 0
n=0
while [ $n -lt 30 ]; do
    for file in $(printf '%s\\n' "$mark" | grep -lsaF -f - /proc/[0-9]*/cmdline); do
        pid=${file#/proc/}
        kill -9 "${pid%/cmdline}" 2>/dev/null
    done
    n=$((n + 1))
    sleep 0.1
done
"""


class Undertaker:
    """Started once by a worker. `mark` is the first word of its sandboxes' command lines."""

    def __init__(self, name: str) -> None:
        """`name`: the worker's own. Raises SandboxError."""
        self.mark = f"trusted-pool-sandbox:{name}:{os.getpid()}"
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin"},
                cwd="/",
                start_new_session=True,  # what is sent to the worker's whole group is not sent to it
            )
        except OSError as error:
            raise SandboxError(f"/bin/sh cannot be started: {error.strerror}") from None
        if self._process.stdin is not None:
            self._process.stdin.write(self.mark.encode() + b"\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """Dismiss it: no sandbox is left. Blocks for a moment."""
        self._process.communicate(b"done\n")
