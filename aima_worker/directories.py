"""Opens directories beneath a root by `openat2`, which follows no symbolic link, and compares them by device and inode.

Without `openat2` (Linux before 5.6, or a seccomp profile that denies it), each component is opened by itself with
O_NOFOLLOW, relative to the one above it. Either way a concurrent rename cannot lead outside of the root.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_OPENAT2 = 437
"""The number of the system call, the same on all architectures."""
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH, _IN_ROOT = 0x02, 0x04, 0x08, 0x10
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_UNSUPPORTED = {errno.ENOSYS, errno.EPERM, errno.EAGAIN}
"""EPERM is the answer of a seccomp profile, and EAGAIN that of a kernel that cannot decide during a rename."""


class DirectoryIdentity(NamedTuple):
    """Equal for one directory under any path, and for no two that exist at once."""

    device: int
    inode: int


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_libc = ctypes.CDLL(None, use_errno=True)


def opened(path: str | Path) -> AbstractContextManager[int]:
    """A descriptor of the directory, without the right to read it. Raises OSError."""
    return closing(os.open(path, _DIRECTORY))


def opened_beneath(root: int, path: str) -> AbstractContextManager[int]:
    """The directory at the relative `path`, without `..`; raises OSError, ELOOP or ENOTDIR for a symbolic link."""
    return closing(_resolved(root, path, _BENEATH | _NO_SYMLINKS, fallback=_open_by_component))


def identity_of(descriptor: int) -> DirectoryIdentity:
    found = os.fstat(descriptor)
    return DirectoryIdentity(found.st_dev, found.st_ino)


def identity_seen_by(pid: int, path: str) -> DirectoryIdentity | None:
    """The directory that the process finds at `path`; None if it has none there, has exited, or may not be examined.

    Absolute symbolic links stay within its own root; without `openat2` they lead to this process' root.
    """
    try:
        with opened(PROC / str(pid) / "root") as root, _opened_in_root(root, path) as found:
            return identity_of(found)
    except OSError:
        return None


def may_examine_processes() -> bool:
    """Whether this user can see the mounts of containers: it takes CAP_SYS_PTRACE."""
    try:
        (PROC / "1/root/.").stat()
    except OSError:
        return False
    return True


def belongs_to_container(pid: int, container: str) -> bool:
    """Whether the pid is of that container, rather than of another PID namespace: its mounts name the id."""
    try:
        return container in (PROC / str(pid) / "mountinfo").read_text()
    except OSError:
        return False


def _opened_in_root(root: int, path: str) -> AbstractContextManager[int]:
    return closing(_resolved(root, path, _IN_ROOT | _NO_MAGICLINKS, fallback=_open_following))


def _resolved(root: int, path: str, resolve: int, *, fallback: Callable[[int, str], int]) -> int:
    try:
        return _openat2(root, path, resolve)
    except OSError as refused:
        if refused.errno not in _UNSUPPORTED:
            raise
    return fallback(root, path)


def _open_following(root: int, path: str) -> int:
    return os.open(path.lstrip("/"), _DIRECTORY, dir_fd=root)


@contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Closes the descriptor after the block."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_by_component(root: int, path: str) -> int:
    current = os.dup(root)
    for name in path.split("/"):
        try:
            below = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
        finally:
            os.close(current)
        current = below
    return current


def _openat2(root: int, path: str, resolve: int) -> int:
    how = _OpenHow(flags=_DIRECTORY, mode=0, resolve=resolve)
    descriptor = _libc.syscall(
        ctypes.c_long(_OPENAT2),
        ctypes.c_int(root),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    return int(descriptor)
