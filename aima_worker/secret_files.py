"""Copies of secrets for engines, on a tmpfs: `CONTAINER/VERSION/files/NAME`, and `…/environment/NAME` for variables.

The version is a random id, which stays while names and values are the same: a fingerprint covers it, and reveals no
value. A copy exists while its container does; without it, as after a reboot, the container cannot start again and is
created again. Parents are closed to all others: an engine reaches `files` by its mount only.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import struct
from collections.abc import Mapping
from pathlib import Path

import structlog

from aima_core.errors import SecretUnsafe
from aima_worker.runtime import SecretMount

FILES, ENVIRONMENT = "files", "environment"
_IN_MEMORY = ("tmpfs", "ramfs")
_ACL = "system.posix_acl_access"
_ACL_VERSION = 2
_OWNER, _USER, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_NO_ID = 0xFFFFFFFF

_log = structlog.get_logger()


def runtime_dir(configured: Path | None) -> Path:
    """The configured directory, else the first of the usual ones that is on a tmpfs."""
    if configured is not None:
        return configured.expanduser().absolute()
    usual = [Path(name) for name in os.environ.get("RUNTIME_DIRECTORY", "").split(":")[:1] if name]
    usual += [Path("/run/aima")] if os.geteuid() == 0 else []
    usual += [Path(session) / "aima"] if (session := os.environ.get("XDG_RUNTIME_DIR")) else []
    last = Path(f"/dev/shm/aima-{os.geteuid()}")  # checked to be this user's own before it is used
    return next((path for path in usual if _is_in_memory(path)), last)


class SecretFiles:
    def __init__(self, root: Path, *, host: str) -> None:
        self._root = root
        self._host = host

    def place(self, container: str, *, files: Mapping[str, bytes], environment: Mapping[str, bytes]) -> SecretMount:
        """Returns the copy with these values, which is written unless the container has it. Raises SecretUnsafe."""
        wanted = {FILES: dict(files), ENVIRONMENT: dict(environment)}
        self._make_root()
        directory = self._root / container
        directory.mkdir(mode=0o700, exist_ok=True)
        same = (path.name for path in directory.iterdir() if path.name[0] != "." and _content(path) == wanted)
        version = next(same, None) or _write(directory, wanted)
        return SecretMount(
            source=str(directory / version),
            version=version,
            files=tuple(sorted(files)),
            environment=tuple(sorted(environment)),
        )

    def discard(self, container: str, *, keep: str | None = None) -> None:
        """Removes the container's copies, all but the version to keep."""
        directory = self._root / container
        if not directory.exists():
            return
        for path in [path for path in directory.iterdir() if path.name != keep] if keep else [directory]:
            try:
                shutil.rmtree(path)
            except OSError as failed:  # the next pass of the reconciler repeats it
                _log.warning("copies of secrets not removed", container=container, reason=str(failed))

    def containers(self) -> list[str]:
        """The containers that have copies, of every worker that uses this directory."""
        return sorted(path.name for path in self._root.iterdir()) if self._root.exists() else []

    def _make_root(self) -> None:
        for path in (self._root.parent, self._root):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise self._unsafe(f"{path} is no directory of the worker's user")
        self._root.chmod(0o700)
        if not _is_in_memory(self._root):
            raise self._unsafe("it would be written to a disk")

    def _unsafe(self, detail: str) -> SecretUnsafe:
        remedy = f"Set `host.runtime_dir` on {self._host} to a directory of the worker's user on a tmpfs."
        return SecretUnsafe(path=self._root, host=self._host, detail=detail, remedy=remedy)


def variables_of(mount: SecretMount) -> dict[str, str]:
    """The variables that hold secrets, for the runtime that creates the container."""
    return {name: (Path(mount.source) / ENVIRONMENT / name).read_text() for name in mount.environment}


def grant(mount: SecretMount, *, uid: int, host: str) -> None:
    """Makes the files that user's, on this host; without the right to, an access list lets that user alone read them.

    Raises SecretUnsafe.
    """
    directory = Path(mount.source) / FILES
    try:
        for path in (*directory.iterdir(), directory):
            _give(path, uid)
    except OSError as refused:
        detail = f"user {uid} cannot be granted to read it: {refused.strerror}"
        remedy = f"Run the worker on {host} as root, or set `host.runtime_dir` to a tmpfs with access lists."
        raise SecretUnsafe(path=directory, host=host, detail=detail, remedy=remedy) from refused


def _give(path: Path, uid: int) -> None:
    owner, others = (0o7, 0o5) if path.is_dir() else (0o4, 0o4)
    try:
        if path.stat().st_uid != uid:
            os.chown(path, uid, -1)
    except PermissionError:
        entries = [(_OWNER, owner, _NO_ID), (_USER, others, uid), (_GROUP, 0, _NO_ID), (_MASK, others, _NO_ID)]
        packed = b"".join(struct.pack("<HHI", *entry) for entry in (*entries, (_OTHER, 0, _NO_ID)))
        os.setxattr(path, _ACL, struct.pack("<I", _ACL_VERSION) + packed)


def _write(directory: Path, wanted: Mapping[str, Mapping[str, bytes]]) -> str:
    """Renamed once it is complete: a crash leaves no half of a copy under a version."""
    version = secrets.token_hex(8)
    draft = directory / f".{version}"
    draft.mkdir(mode=0o700)
    for kind, values in wanted.items():
        (draft / kind).mkdir(mode=0o700)
        for name, value in values.items():
            with os.fdopen(os.open(draft / kind / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
                file.write(value)
    draft.rename(directory / version)
    return version


def _content(copy: Path) -> dict[str, dict[str, bytes]]:
    return {kind: {path.name: path.read_bytes() for path in (copy / kind).iterdir()} for kind in (FILES, ENVIRONMENT)}


def _is_in_memory(path: Path) -> bool:
    """Of the path, or of the nearest directory above it that exists."""
    while not path.exists():
        path = path.parent
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, filesystem = line.partition(" - ")
        if mount.split()[2] == number:
            return filesystem.split()[0] in _IN_MEMORY
    return False
