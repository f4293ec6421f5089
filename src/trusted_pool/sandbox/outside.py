"""What a job that tries to get out is to find: a file, a listener, a process. Made for one probe, and gone after it."""

import contextlib
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any, Self

from trusted_pool.sandbox import policy

_SPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
#: Where a file can be put that every user of the machine may read and no job sees; else where temporary files are.
_PLACES = ("/var/tmp", "/tmp")  # noqa: S108 - the file is its maker's alone to write
#: Files of a machine that are worth a look; those that are not there are no proof of anything.
_FILES = ("/etc/shadow", "/etc/machine-id", "/proc/1/root/etc/shadow")


class Outside:
    """Use as `with`; `told` is what the job is told of."""

    def __enter__(self) -> Self:
        """Make it. Raises OSError."""
        place = next((path for path in _PLACES if os.access(path, os.W_OK)), None)
        self._file = tempfile.NamedTemporaryFile(prefix="tpool-canary-", mode="w", dir=place)
        self._file.write("the machine's own\n")
        self._file.flush()
        Path(self._file.name).chmod(0o644)
        word = Path(self._file.name).name
        self._sockets = [socket.socket(socket.AF_INET), socket.socket(socket.AF_UNIX)]
        with contextlib.suppress(OSError):  # not even a loopback interface is there
            self._sockets[0].bind(("127.0.0.1", 0))
            self._sockets[0].listen()
        self._sockets[1].bind("\0" + word)
        self._sockets[1].listen()
        own = {name: os.readlink(path) for name in _SPACES if os.path.lexists(path := f"/proc/self/ns/{name}")}  # noqa: PTH115
        self.told: dict[str, Any] = {
            "word": word,
            "files": [self._file.name, *_FILES],
            "port": self._sockets[0].getsockname()[1],
            "pid": os.getpid(),
            "namespaces": own,
            "environment": [*policy.BASE_ENV, "PWD", "LC_CTYPE"],  # Python sets the last one itself
        }
        return self

    def __exit__(self, *_exc: object) -> None:
        """Take it away."""
        for sock in self._sockets:
            sock.close()
        self._file.close()

    def command(self, python: str) -> list[str]:
        """Return the command line of the job, for a Python inside."""
        source = Path(__file__).with_name("inside") / "escape.py"
        return [python, "-I", "-S", "-c", source.read_text(), json.dumps(self.told)]
