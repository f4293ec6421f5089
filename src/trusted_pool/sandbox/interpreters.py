"""Which interpreters this machine has, where a sandbox can see them."""

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from trusted_pool.protocol.manifest import INTERPRETERS

#: Directories that every sandbox shows. What lies elsewhere (a home directory, /opt) is not seen inside.
PLACES = ("/usr/local/bin", "/usr/bin", "/bin")
#: How each says its version.
_ASK: dict[str, tuple[str, ...]] = {
    "python3": ("--version",),
    "node": ("--version",),
    "bash": ("--version",),
    "sh": ("-c", "echo sh"),
    "ruby": ("--version",),
    "perl": ("-e", 'printf "%vd", $^V'),
    "Rscript": ("--version",),
}


class Interpreter(msgspec.Struct, frozen=True):
    """One that runs inside the sandbox."""

    name: str
    path: str
    version: str


#: Runs a command in a probe sandbox; returns exit status and output, or None when it could not be started.
Probe = Callable[[Sequence[str]], Awaitable[tuple[int, str] | None]]


def candidates(name: str) -> list[str]:
    """Return where an interpreter might be, best first."""
    return [path for place in PLACES if os.access(path := f"{place}/{name}", os.X_OK)]


async def find(probe: Probe) -> dict[str, Interpreter]:
    """Run each candidate inside the sandbox and keep what really runs. `exec` needs none and is always there."""
    found: dict[str, Interpreter] = {}
    for name in INTERPRETERS:
        if name == "exec":
            found[name] = Interpreter(name, "", "1")
            continue
        for path in candidates(name):
            answer = await probe([path, *_ASK[name]])
            if answer is not None and answer[0] == 0:
                found[name] = Interpreter(name, path, _version(name, path, answer[1]))
                break
    return found


def _version(name: str, path: str, said: str) -> str:
    """Cut the version out of what it said: the first word that begins with a digit."""
    if name == "sh":
        return Path(path).resolve().name  # dash, bash: a plain sh tells no version
    for word in said.replace(",", " ").replace("(", " ").split():
        bare = word.removeprefix("v")
        if bare[:1].isdigit():
            return bare
    return said.strip()[:40] or "unknown"


def command(interpreter: Interpreter, entrypoint: str, args: Sequence[str]) -> list[str]:
    """The command line inside the sandbox. A file is named with its directory, so that it is never an option."""
    program = f"./{entrypoint}" if not interpreter.path else f"/job/{entrypoint}"
    return [*([interpreter.path] if interpreter.path else []), program, *args]
