"""Drops the privileges of an engine's process between fork and exec, in its supervisor's child.

Always: core files, descriptors beyond a limit, files beyond the limit of its disk, and new privileges. With a user of
its own also: that user's number of processes, IPC with others, and its own view of the files, in which all file systems
are read-only but its working directory (/var/tmp, and /tmp unless it needs what lies there) and a small /dev/shm. The
standard library only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aima_core.system.hardening import checked, forbid_new_privileges, libc
from aima_worker.runtimes.process.cgroup import Cgroup
from aima_worker.runtimes.process.users import become

OWN_DIRECTORY = "/var/tmp"
SECRETS_DIRECTORY = "/dev/shm/secrets"
"""Where an engine with a user of its own finds the files of its secrets."""
DESCRIPTORS = 65_536
SHARED_MEMORY = 64 << 20
"""Bytes of /dev/shm where the engine's YAML names none: what containers get."""
OOM_SCORE_ADJUSTMENT = "500"
"""So that the kernel's out-of-memory killer selects an engine before the worker."""
MOST_ENTRIES = 20_000
"""Of a model, checked for being readable."""
_NEW_NAMESPACES = 0x0002_0000 | 0x0800_0000
"""Mounts and IPC."""
_RECURSIVE, _SLAVE, _BIND, _NOSUID, _NODEV = 0x4000, 0x8_0000, 0x1000, 0x2, 0x4
_MOUNT_SETATTR = 442
"""The number of the system call, the same on all architectures; since Linux 5.12."""
_AT_FDCWD, _AT_RECURSIVE, _READ_ONLY = -100, 0x8000, 0x1


DENIED = "denied "
"""Before the path, in what a supervisor reports."""


class Denied(Exception):
    """The engine's user may not read or execute a path."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{DENIED}{path}")


@dataclass(frozen=True)
class Confinement:
    work: Path
    program: str
    disk: int
    """Bytes of the largest file."""
    pids: int
    shared_memory: int
    cgroup: Cgroup | None = None
    user: int | None = None
    """None keeps the worker's."""
    groups: tuple[int, ...] = ()
    reads: tuple[str, ...] = ()
    """Model directories."""
    secrets: str | None = None
    """The directory with the files of its secrets, below directories that are closed to it."""
    words: tuple[str, ...] = ()
    """Of the command and the environment: paths in them stay visible."""

    @property
    def home(self) -> str:
        return str(self.work) if self.user is None else OWN_DIRECTORY

    def enter(self) -> None:
        """For good. Raises Denied or OSError, which must end the process."""
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_NOFILE, DESCRIPTORS)
        _limit(resource.RLIMIT_FSIZE, self.disk)
        with suppress(OSError):  # it may be higher already
            Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_ADJUSTMENT)
        if self.cgroup is not None:
            self.cgroup.enter()
        if self.user is not None:
            _limit(resource.RLIMIT_NPROC, self.pids)
            self._hide_files()
            become(self.user, self.groups)
            os.chdir(OWN_DIRECTORY)
        forbid_new_privileges()
        if self.user is not None:
            _require(self.program, os.X_OK)
            for path in self.reads:
                _check_readable(path)

    def _hide_files(self) -> None:
        checked(libc.unshare(_NEW_NAMESPACES), "unshare")
        work = f"/proc/self/fd/{os.open(self.work, os.O_PATH | os.O_CLOEXEC)}"  # its path may lie in what is hidden
        secrets = f"/proc/self/fd/{os.open(self.secrets, os.O_PATH | os.O_CLOEXEC)}" if self.secrets else None
        _mount(None, "/", None, _RECURSIVE | _SLAVE)
        _make_read_only()
        for private in (OWN_DIRECTORY, "/tmp"):
            if private == OWN_DIRECTORY or not self._needs("/tmp/"):
                _mount(work, private, None, _BIND)
                _set_read_only(private, 0)
        _mount("shm", "/dev/shm", "tmpfs", _NOSUID | _NODEV, f"size={self.shared_memory},mode=1777")
        if secrets is not None:
            Path(SECRETS_DIRECTORY).mkdir(mode=0o700)
            _mount(secrets, SECRETS_DIRECTORY, None, _BIND)

    def _needs(self, directory: str) -> bool:
        return any(directory in word for word in (self.program, *self.reads, *self.words))


def _limit(which: int, most: int) -> None:
    """Lowers both limits; a lower one stays."""
    _, hard = resource.getrlimit(which)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (most, most))


def _require(path: str, access: int) -> None:
    """Raises Denied with the first component that refuses it."""
    for component in (*reversed(Path(path).parents), Path(path)):
        wanted = os.X_OK if component != Path(path) else access
        if component.exists() and not os.access(component, wanted):
            raise Denied(str(component))
    if not os.access(path, access):
        raise Denied(path)


def _check_readable(directory: str) -> None:
    _require(directory, os.R_OK | os.X_OK)
    for path, mode in _entries(directory):
        wanted = os.R_OK | os.X_OK if stat.S_ISDIR(mode) else os.R_OK
        if not stat.S_ISLNK(mode) and not os.access(path, wanted):
            raise Denied(path)


def _entries(directory: str) -> Iterator[tuple[str, int]]:
    waiting, seen = [directory], 0
    while waiting:
        for entry in sorted(os.scandir(waiting.pop()), key=lambda each: each.name):
            seen += 1
            if seen > MOST_ENTRIES:
                return
            mode = entry.stat(follow_symlinks=False).st_mode
            yield entry.path, mode
            if stat.S_ISDIR(mode):
                waiting.append(entry.path)


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd")]


def _make_read_only() -> None:
    """On a kernel before 5.12 the permissions of files alone protect them."""
    with suppress(NotImplementedError):
        _set_read_only("/", _AT_RECURSIVE)


def _set_read_only(path: str, flags: int) -> None:
    """Recursively makes read-only, or makes the one mount writable."""
    attributes = _MountAttributes(set=_READ_ONLY) if flags else _MountAttributes(clear=_READ_ONLY)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    arguments = (ctypes.c_int(_AT_FDCWD), path.encode(), ctypes.c_uint(flags), ctypes.byref(attributes), size)
    checked(libc.syscall(ctypes.c_long(_MOUNT_SETATTR), *arguments), path)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words: Iterable[Any] = (text.encode() if text is not None else None for text in (source, target, kind))
    checked(libc.mount(*words, ctypes.c_ulong(flags), data.encode() if data else None), target)
