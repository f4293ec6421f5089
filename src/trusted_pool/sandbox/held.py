"""What a running job holds of the disk without a name: files that were unlinked and are still open or mapped."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec

#: Descriptors and mappings that are looked at in one look; a job could have millions of either.
BUDGET = 300_000
_DELETED = b" (deleted)"


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. `unseen`: it has means to hold more that cannot be counted.

    Those means are descriptors on their way through a socket, mappings whose file's size this user may not ask for
    (they are counted by their length), processes that may not be looked into, and more of all than is looked at.
    """

    bytes: int = 0
    unseen: bool = False
    open_files: int = 0  #: descriptors of the process that has the most


def devices(directory: int) -> frozenset[int]:
    """The numbers under which files of an open directory's file system are known, to `stat` and to /proc."""
    found = {os.fstat(directory).st_dev}
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{directory}").read_text().splitlines())
        mount = fields["mnt_id"].strip()
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            number, _, device, *_ = line.split()
            if number == mount:
                major, minor = map(int, device.split(":"))
                found.add(os.makedev(major, minor))
    except (OSError, ValueError, KeyError):
        return frozenset(found)
    return frozenset(found)


def held_by(pids: list[int], on: frozenset[int], going: Callable[[], bool] = lambda: True) -> Held:
    """Count what processes hold on the devices `on`, each file once; stop when not `going` any more."""
    look = _Look(on)
    for pid in pids:
        if not going():
            break
        look.descriptors(pid)
        look.mappings(pid)
    counted = sum(look.sizes.values()) + sum(look.lengths.values())
    return Held(bytes=counted, unseen=look.unseen, open_files=look.open_files)


class _Look:
    def __init__(self, on: frozenset[int]) -> None:
        self._on = on
        self._budget = BUDGET
        self.sizes: dict[int, int] = {}  #: bytes on the disk by inode
        self.lengths: dict[int, int] = {}  #: of files that are not in `sizes`: what is mapped of them
        self.unseen = False
        self.open_files = 0

    def _spend(self) -> bool:
        self._budget -= 1
        if self._budget < 0:
            self.unseen = True
        return self._budget >= 0

    def _count(self, info: os.stat_result) -> None:
        if info.st_dev in self._on and info.st_nlink == 0 and stat.S_ISREG(info.st_mode):
            self.sizes[info.st_ino] = info.st_blocks * 512
            self.lengths.pop(info.st_ino, None)

    def descriptors(self, pid: int) -> None:
        """Look at open files, and whether descriptors are on their way through its sockets."""
        try:
            fds = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - names alone, and fast
        except OSError as error:
            # One that is just ending may say so too: it is no breach in itself.
            self.unseen = self.unseen or error.errno in {errno.EACCES, errno.EPERM}
            return
        self.open_files = max(self.open_files, len(fds))
        for fd in fds:
            if not self._spend():
                return
            try:
                info = os.stat(f"/proc/{pid}/fd/{fd}")  # noqa: PTH116 - the same
                if stat.S_ISSOCK(info.st_mode):
                    self.unseen = self.unseen or _carries(Path(f"/proc/{pid}/fdinfo/{fd}").read_bytes())
            except OSError:
                continue
            self._count(info)

    def mappings(self, pid: int) -> None:
        """Look at mapped files; a mapping needs no descriptor."""
        try:
            with open(f"/proc/{pid}/maps", "rb") as lines:  # noqa: PTH123 - the same
                for line in lines:
                    if not self._spend():
                        return
                    if line.rstrip(b"\n").endswith(_DELETED):
                        self._mapping(pid, line)
        except OSError as error:
            self.unseen = self.unseen or error.errno in {errno.EACCES, errno.EPERM}

    def _mapping(self, pid: int, line: bytes) -> None:
        area, _, offset, device, inode, *_ = line.split()
        major, minor = (int(part, 16) for part in device.split(b":"))
        if os.makedev(major, minor) not in self._on or int(inode) in self.sizes:
            return
        start, end = (int(part, 16) for part in area.split(b"-"))
        try:
            self._count(os.stat(f"/proc/{pid}/map_files/{start:x}-{end:x}"))  # noqa: PTH116 - the same
        except FileNotFoundError:
            return
        except OSError:  # only root may ask
            self.unseen = True
            known = self.lengths.get(int(inode), 0)
            self.lengths[int(inode)] = max(known, int(offset, 16) + end - start)


def _carries(said: bytes) -> bool:
    """Whether a socket has descriptors to deliver; a kernel before 5.10 does not say, so it may."""
    _, found, count = said.partition(b"scm_fds:")
    return not found or count.split()[:1] != [b"0"]
