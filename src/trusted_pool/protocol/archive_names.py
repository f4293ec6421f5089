"""Which names a file may have, and which names may stand beside each other.

Names are compared exactly, except that two which are equal after Unicode normalisation (NFC) are refused: on a file
system that normalises, one would overwrite the other. Case is not folded: `A` and `a` are two files on Linux.
"""

import re
import unicodedata

from trusted_pool.protocol.archive_entry import ArchiveLimits
from trusted_pool.protocol.errors import BadArchiveError, BadRequestError, TooLargeError

MAX_COMPONENT = 255  #: bytes; what Linux file systems take
MAX_PATH = 4095  #: bytes; what the kernel takes, without its NUL
_SHOWN = 200
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_REPACK = "pack the project's own directory: tar czf project.tar.gz -C project ."


def shown(name: bytes | str) -> str:
    """Write a name for people: quoted, escaped, not longer than a line."""
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def canonical(raw: bytes) -> str:
    """Return the relative path that a member's name means, without `.` and double slashes; "" is the root.

    Raises:
        BadArchiveError: absolute, with `..`, too long, not UTF-8, or with control characters.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadArchiveError(f"the name {shown(raw)} is not valid UTF-8", hint="rename the file") from None
    if text.startswith("/"):
        raise BadArchiveError(f"the name {shown(text)} is absolute", hint=_REPACK)
    if _CONTROL.search(text):
        raise BadArchiveError(f"the name {shown(text)} holds a control character", hint="rename the file")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BadArchiveError(f"the name {shown(text)} leaves the project: it holds '..'", hint=_REPACK)
    if len(raw) > MAX_COMPONENT:
        if len(raw) > MAX_PATH:
            raise BadArchiveError(f"the path {shown(text)} is longer than {MAX_PATH} bytes", hint="shorten it")
        if any(len(part.encode()) > MAX_COMPONENT for part in parts):
            raise BadArchiveError(f"a part of the path {shown(text)} is longer than {MAX_COMPONENT} bytes")
    return "/".join(parts)


def plain_name(name: str) -> str:
    """Return the path at which a plain uploaded file is placed.

    Raises:
        BadArchiveError: no usable name.
    """
    path = canonical(name.encode("utf-8", "surrogatepass"))
    if not path or name.endswith("/"):
        raise BadArchiveError(f"{shown(name)} is no name of a file", hint="name the file: -F files=@main.py")
    return path


def require_canonical(path: str) -> str:
    """Return the path of an output as somebody asked for it.

    Raises:
        BadRequestError: it is not written the one way a path is written: `..`, `.`, `//`, absolute, control characters.
    """
    try:
        good = path != "" and canonical(path.encode("utf-8", "surrogatepass")) == path
    except BadArchiveError:
        good = False
    if not good:
        raise BadRequestError(
            f"{shown(path)} is no path of an output", hint="use the paths that GET /outputs/{job_id} lists"
        )
    return path


class _Node:
    """A name in the tree; `below` is None for a file."""

    __slots__ = ("below", "name")

    def __init__(self, name: str, below: "dict[str, _Node] | None") -> None:
        self.name = name
        self.below = below


class Census:
    """Counts what an archive holds and refuses what cannot stand together. The order of members does not matter."""

    def __init__(self, limits: ArchiveLimits) -> None:
        self.limits = limits
        self._root: dict[str, _Node] = {}
        self._members = 0
        self._nodes = 0
        self._bytes = 0
        self._name_bytes = 0

    def member(self) -> int:
        """Count a member, or a header that stands alone; return how many there were.

        Raises:
            TooLargeError: too many.
        """
        self._members += 1
        self._check_count(self._members)
        return self._members

    def _check_count(self, count: int) -> None:
        if count > self.limits.max_members:
            raise TooLargeError(
                f"the archive holds more than {self.limits.max_members} files and directories",
                hint="leave out what the job does not need, or pack it into one inner archive",
            )

    def admit(self, raw: bytes, directory: bool, size: int) -> str:
        """Take a member in; return its canonical path, "" for the root directory.

        Raises:
            BadArchiveError: a bad name, or one that cannot stand beside the others.
            TooLargeError: a cap is passed.
        """
        limits = self.limits
        if size < 0:
            raise BadArchiveError(f"{shown(raw)} has a negative size")
        self._bytes += size
        if self._bytes > limits.max_bytes:
            raise TooLargeError(
                f"the files would unpack to more than {limits.max_bytes} bytes (reached at {shown(raw)})",
                hint="send less, or raise disk_mb in the manifest where that is the limit",
            )
        self._name_bytes += len(raw)
        if self._name_bytes > limits.max_name_bytes:
            raise TooLargeError(f"the names in the archive take more than {limits.max_name_bytes} bytes")
        path = canonical(raw)
        if path:
            self._place(path, directory)
        elif not directory:
            raise BadArchiveError(f"{shown(raw)} is no name of a file")
        return path

    def _place(self, path: str, directory: bool) -> None:
        below = self._root
        parts = path.split("/")
        last = len(parts) - 1
        for depth, part in enumerate(parts):
            key = part if part.isascii() else unicodedata.normalize("NFC", part)
            inner = directory or depth < last
            node = below.get(key)
            if node is None:
                node = below[key] = _Node(part, {} if inner else None)
                self._nodes += 1
                self._check_count(self._nodes)
            elif node.name != part:
                raise BadArchiveError(
                    f"{shown(path)} and another name differ only in how Unicode writes them", hint="rename one of them"
                )
            elif not inner:
                words = "twice" if node.below is None else "as a file and as a directory"
                raise BadArchiveError(f"{shown(path)} is in the archive {words}", hint="pack it anew")
            elif node.below is None:
                raise BadArchiveError(
                    f"{shown('/'.join(parts[: depth + 1]))} is in the archive as a file and as a directory",
                    hint="pack it anew",
                )
            if node.below is not None:
                below = node.below
