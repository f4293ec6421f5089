"""What a running job keeps in /tmp and /dev/shm: they are memory, and their files are counted with those of /job."""

import os

import msgspec

#: As the job sees them; each is a file system of its own.
PLACES = ("tmp", "dev/shm")


class MemoryDisks(msgspec.Struct, frozen=True, kw_only=True):
    """What they hold together."""

    bytes: int = 0
    files: int = 0


def use_of(init: int) -> MemoryDisks:
    """Ask the kernel for what they hold, seen through a process of the job. What is gone holds nothing."""
    total = files = 0
    for place in PLACES:
        try:
            found = os.statvfs(f"/proc/{init}/root/{place}")
        except OSError:
            continue  # it is just ending
        total += (found.f_blocks - found.f_bfree) * found.f_frsize
        files += max(0, found.f_files - found.f_ffree - 1)  # without its own root
    return MemoryDisks(bytes=total, files=files)
