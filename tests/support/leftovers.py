"""What users leave on a machine: processes, shared memory, keys, files outside of what is theirs."""

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

import psutil

_SHARED = ("/dev/shm", "/dev/mqueue", "/tmp", "/var/tmp")


def of_users(uids: Collection[int], spare: Collection[int] = ()) -> set[str]:
    """Say all that is there of these users but the processes `spare`."""
    return {*processes(uids, spare), *_system_v(uids), *_keys(uids), *_files(uids)}


def processes(uids: Collection[int], spare: Collection[int]) -> set[str]:
    """Say which processes they have that are not dead."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if process.uids().real in uids and process.pid not in spare and alive:
                found.add(f"process {process.pid} {process.name()}")
    return found


def _system_v(uids: Collection[int]) -> set[str]:
    """Shared memory, semaphores and message queues; their owners stand in columns named uid and cuid."""
    found = set()
    for kind in ("shm", "sem", "msg"):
        names, *lines = [line.split() for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()]
        for line in lines:
            if {int(line[names.index("uid")]), int(line[names.index("cuid")])} & set(uids):
                found.add(f"{kind} {line[0]} {line[1]}")
    return found


def _keys(uids: Collection[int]) -> set[str]:
    """Keys and keyrings: the kernel counts them by user, for all users."""
    found = set()
    for line in Path("/proc/key-users").read_text().splitlines():
        uid, _, counts = line.strip().partition(":")
        if int(uid) in uids and int(counts.split()[1].partition("/")[0]):
            found.add(f"keys {line.strip()}")
    return found


def _files(uids: Collection[int]) -> set[str]:
    found = set()
    for place in _SHARED:
        for name in os.listdir(place) if Path(place).is_dir() else ():  # noqa: PTH208 - names alone
            path = Path(place, name)
            with contextlib.suppress(OSError):
                if path.lstat().st_uid in uids:
                    found.add(f"file {path}")
    return found
