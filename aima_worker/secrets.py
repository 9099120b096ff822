"""Secrets of this host: entries that only root or the worker can read, each a file or a systemd credential.

An entry is read right before an engine starts, and copied to the engine's own directory (`secret_files`). No value
leaves the host: records, labels, events, logs and facts hold names of entries only.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import ByteSize

from aima_core.domain.operations import StartService
from aima_core.errors import SecretMissing, SecretUnsafe
from aima_core.settings import Settings
from aima_worker.runtime import SecretMount
from aima_worker.secret_files import SecretFiles, runtime_dir

CREDENTIAL_PREFIX = "secret_"
"""Of a credential that is an entry; the others are the worker's own, such as its keys."""
MOST_BYTES = ByteSize(64 << 10)
MOST_NAMES = 300
"""Entries that are announced: every listing of hosts carries them."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_OTHERS_READ = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class _Place(NamedTuple):
    path: Path
    others: int
    """The bits of its mode that let others than its owner in."""


class HostSecrets:
    def __init__(self, settings: Settings) -> None:
        self._host = settings.host.name
        self.directory = (settings.host.secrets or settings.state_dir / "secrets").expanduser().absolute()
        self.files = SecretFiles(runtime_dir(settings.host.runtime_dir) / "secrets", host=self._host)

    def names(self) -> tuple[str, ...]:
        """The entries, whether or not their files are safe to use: a start refuses an unsafe file with the reason."""
        found = {path.name for path in _listed(self.directory)}
        if credentials := _credentials():
            prefixed = _listed(credentials)
            found |= {each.name.removeprefix(CREDENTIAL_PREFIX) for each in prefixed if _is_entry(each)}
        return tuple(sorted(name for name in found if _NAME.fullmatch(name)))[:MOST_NAMES]

    def token(self, entry: str) -> str:
        """Of an origin of models, without the line end that editors append. Raises SecretMissing, SecretUnsafe."""
        text = self._read(entry, name="token").strip().decode(errors="replace")
        if not text.isascii() or not text.isprintable():
            path = self.directory / entry
            raise self._unsafe(path, "it is no token that a request can carry", f"Write the token to {path}.")
        return text

    def check(self, command: StartService) -> None:
        """Raises SecretMissing, SecretUnsafe."""
        self._values(command)

    def provide(self, container: str, command: StartService) -> SecretMount | None:
        """Copies the values that the command refers to, for the container of that name; None if it refers to none.

        An equal copy is found again with its version. Raises SecretMissing, SecretUnsafe.
        """
        if not command.secrets:
            return None
        uses = command.engine.secrets
        variables = {name for name in command.secrets if uses.get(name) == "environment"}
        values = self._values(command)
        return self.files.place(
            container,
            files={name: value for name, value in values.items() if name not in variables},
            environment={name: self._variable(name, values[name], command) for name in variables},
        )

    def _values(self, command: StartService) -> dict[str, bytes]:
        return {name: self._read(entry, name=name) for name, entry in command.secrets.items()}

    def _read(self, entry: str, *, name: str) -> bytes:
        for place in self._places(entry):
            try:
                with self._opened(place) as descriptor:
                    return self._content(descriptor, place)
            except FileNotFoundError:
                continue
            except OSError as refused:
                kind = "it is a symbolic link" if refused.errno == errno.ELOOP else refused.strerror
                raise self._unsafe(place.path, f"{kind}", f"Replace {place.path} by a file.") from refused
        path = self.directory / entry
        raise SecretMissing(host=self._host, entry=entry, name=name, path=path, credential=CREDENTIAL_PREFIX + entry)

    def _places(self, entry: str) -> Iterator[_Place]:
        if credentials := _credentials():
            yield _Place(credentials / f"{CREDENTIAL_PREFIX}{entry}", stat.S_IRWXO)  # an ACL shows as the group's bits
        yield _Place(self.directory / entry, _OTHERS_READ)

    @contextmanager
    def _opened(self, place: _Place) -> Iterator[int]:
        """Relative to the opened directory: a rename between check and read cannot exchange it (race)."""
        above = os.open(place.path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._check_owner(place.path.parent, os.fstat(above), _OTHERS_WRITE)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a named pipe must not block it
            descriptor = os.open(place.path.name, flags, dir_fd=above)
        finally:
            os.close(above)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _content(self, descriptor: int, place: _Place) -> bytes:
        found, path = os.fstat(descriptor), place.path
        if not stat.S_ISREG(found.st_mode):
            raise self._unsafe(path, "it is no file", f"Replace {path} by a file.")
        self._check_owner(path, found, place.others)
        content = os.read(descriptor, MOST_BYTES + 1)
        if not content or len(content) > MOST_BYTES:
            detail = "it is empty" if not content else f"it has more than {MOST_BYTES} bytes"
            raise self._unsafe(path, detail, f"Write the value to {path}.")
        return content

    def _check_owner(self, path: Path, found: os.stat_result, forbidden: int) -> None:
        """A POSIX ACL that lets others in shows in the bits of the group."""
        if found.st_uid in (0, os.geteuid()) and not found.st_mode & forbidden:
            return
        mode = "go-w" if stat.S_ISDIR(found.st_mode) else "600"
        detail = (
            f"others than root and the worker can access it (owner {found.st_uid}, mode {found.st_mode & 0o7777:04o})"
        )
        raise self._unsafe(path, detail, f"Run `chown {os.geteuid()} {path} && chmod {mode} {path}` on {self._host}.")

    def _variable(self, name: str, value: bytes, command: StartService) -> bytes:
        """Without the line end that editors and `echo` append."""
        text = value.removesuffix(b"\n").removesuffix(b"\r")
        try:
            text.decode()
        except UnicodeDecodeError:
            text = b"\0"
        if b"\0" in text:
            path = self.directory / command.secrets[name]
            detail = f"it is no text, which the variable {name} must be"
            remedy = f"Write text to it, or let the engine read a file: remove {name} from `secrets` in its YAML."
            raise self._unsafe(path, detail, remedy)
        return text

    def _unsafe(self, path: Path, detail: str, remedy: str) -> SecretUnsafe:
        return SecretUnsafe(path=path, host=self._host, detail=detail, remedy=remedy)


def _credentials() -> Path | None:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(directory) if directory else None


def _is_entry(credential: os.DirEntry[str]) -> bool:
    return credential.name.startswith(CREDENTIAL_PREFIX)


def _listed(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return [entry for entry in entries if not entry.is_dir()]
    except OSError:
        return []
