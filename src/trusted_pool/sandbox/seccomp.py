"""The system-call filter of a job: compiled once, handed to bubblewrap as a file descriptor."""

import errno
import functools
import hashlib
import os
import tempfile
from typing import Any

import msgspec

from trusted_pool.ports.sandbox import SandboxError
from trusted_pool.sandbox import syscalls
from trusted_pool.sandbox.causes import as_root, of_filter

_AF_UNIX = 1
_LOW_32 = 0xFFFFFFFF
_S_IFMT = 0o170000
_S_IFIFO = 0o010000
_S_IFREG = 0o100000


class Filter(msgspec.Struct, frozen=True):
    """A compiled filter. `name` is the sha256 of its bytes: two machines with the same name filter alike."""

    name: str
    program: bytes

    def memfd(self) -> int:
        """Return a new file descriptor with the program, close-on-exec; the caller owns it."""
        fd = os.memfd_create(f"seccomp-{self.name[:12]}", os.MFD_CLOEXEC)
        os.write(fd, self.program)
        return fd


@functools.cache
def compiled(*, gpu: bool = False) -> Filter:
    """Compile the allow-list for this machine's architecture. `gpu`: with what a driver of GPUs is asked by.

    Raises:
        SandboxError: libseccomp is missing, or the kernel has no filters for this process.
    """
    try:
        import pyseccomp  # noqa: PLC0415 - it looks for the C library when imported, which may fail
    except (ImportError, RuntimeError, OSError) as error:
        raise SandboxError(f"libseccomp cannot be loaded ({error}); {as_root('apt-get install libseccomp2')}") from None
    try:
        program = _program(pyseccomp, gpu=gpu)
    except OSError as error:  # libseccomp asks the kernel what it can
        cause = of_filter(error.strerror or str(error))
        raise SandboxError(f"{cause.why}; {cause.mend}") from None
    return Filter(hashlib.sha256(program).hexdigest(), program)


def _program(seccomp: Any, *, gpu: bool) -> bytes:
    """Compile; raises OSError."""
    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.ENOSYS))
    rules.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    for name in syscalls.ALLOWED:
        _add(rules, seccomp.ALLOW, name)
    _add_conditional(rules, seccomp)
    if gpu:
        _add_gpu(rules, seccomp)
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _add(rules: Any, action: Any, name: str, *args: Any) -> None:
    """Add a rule, unless this architecture or this libseccomp does not know the call: the default refuses it."""
    try:
        rules.add_rule(action, name, *args)
    except (ValueError, OSError) as error:
        if args:
            raise SandboxError(f"seccomp rule for {name} cannot be made: {error}") from None


def _add_conditional(rules: Any, seccomp: Any) -> None:
    arg, eq, ne, masked = seccomp.Arg, seccomp.EQ, seccomp.NE, seccomp.MASKED_EQ
    allow, eperm = seccomp.ALLOW, seccomp.ERRNO(errno.EPERM)
    _add(rules, allow, "clone", arg(0, masked, syscalls.NAMESPACE_FLAGS, 0))
    for name in ("socket", "socketpair"):
        _add(rules, allow, name, arg(0, eq, _AF_UNIX))
        _add(rules, seccomp.ERRNO(errno.EAFNOSUPPORT), name, arg(0, ne, _AF_UNIX))
    # The kernel looks at 32 bits of a request; so does the filter, or high bits would slip past it.
    for request in syscalls.IOCTLS:
        _add(rules, allow, "ioctl", arg(1, masked, _LOW_32, request))
    for request in syscalls.IOCTLS_REFUSED:
        _add(rules, eperm, "ioctl", arg(1, masked, _LOW_32, request))
    for option in syscalls.PRCTLS:
        _add(rules, allow, "prctl", arg(0, masked, _LOW_32, option))
    for value in syscalls.PERSONALITIES:
        _add(rules, allow, "personality", arg(0, masked, _LOW_32, value))
    for name, index in (("mknod", 1), ("mknodat", 2)):
        for kind in (_S_IFIFO, _S_IFREG):
            _add(rules, allow, name, arg(index, masked, _S_IFMT, kind))


def _add_gpu(rules: Any, seccomp: Any) -> None:
    """Let a job talk to the driver of the device files that it was given."""
    for mask, value in syscalls.IOCTLS_GPU:
        _add(rules, seccomp.ALLOW, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, mask, value))
