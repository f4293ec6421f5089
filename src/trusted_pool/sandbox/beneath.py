"""Opening files below a directory that a job could write to: openat2, which no symlink, mount or `..` leads out of."""

import ctypes
import errno
import os

from trusted_pool.ports.sandbox import SandboxError

_OPENAT2 = 437  # the same on every architecture
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x01, 0x02, 0x04, 0x08
#: Nothing on the way may be a symlink or on another file system; nothing may lead above the directory.
RESOLVE = _NO_XDEV | _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH
#: Added to every open: not inherited, never waits for the other end of a fifo, never a terminal.
ALWAYS = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY
#: The same for O_PATH, which opens nothing that could wait and takes no other flag.
ALWAYS_PATH = os.O_CLOEXEC | os.O_NOFOLLOW
READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_OpenHow), ctypes.c_size_t)


def open_beneath(dir_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open a path below a directory; return the descriptor.

    Raises:
        OSError: as open; ELOOP for a symlink anywhere in the path, EXDEV for a way out.
    """
    always = ALWAYS_PATH if flags & os.O_PATH else ALWAYS
    how = _OpenHow(flags | always, mode if flags & os.O_CREAT else 0, RESOLVE)
    fd = int(_syscall(_OPENAT2, dir_fd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return fd


def require() -> None:
    """Check that this machine has openat2.

    Raises:
        SandboxError: it has not.
    """
    root = os.open("/", READ_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(open_beneath(root, ".", READ_DIRECTORY))
    except OSError as error:
        words = errno.errorcode.get(error.errno or 0, "an error")
        raise SandboxError(
            f"the system call openat2 does not work here ({words}): Linux 5.6 or newer is needed, "
            "and a container must allow it"
        ) from None
    finally:
        os.close(root)
