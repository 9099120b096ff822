"""The worker's configuration of its data plane, in two files of the state directory that are replaced atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from aima_core.domain.ids import HostName, InstanceId
from aima_core.errors import BadId, BadSettings
from aima_core.settings import Settings
from aima_core.system.state_dir import write_atomically
from aima_core.trust.keys import PublicKey, key_ring

_log = structlog.get_logger()

Stamp = tuple[int, int] | None
"""Inode and time; None of a file that is missing."""


class Config(BaseModel):
    """The configuration that a data plane reads when it starts; it reloads the keys when the file is replaced."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    host: HostName
    bind: str
    port: int
    keys: tuple[str, ...]
    """Public keys of API nodes."""
    certificate: Path | None = None
    certificate_key: Path | None = None
    connections: int
    models: Path
    """The directory of the models that it serves to other hosts."""
    uploads: int
    upload_rate: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> Config:
        """Raises BadSettings."""
        plane = settings.dataplane
        return cls(
            host=settings.host.name,
            bind=plane.bind or settings.host.address,
            port=plane.port,
            keys=tuple(sorted(key_ring(settings).trusted)),
            certificate=plane.tls.certificate,
            certificate_key=plane.tls.key,
            connections=plane.connections,
            models=settings.model_store,
            uploads=plane.uploads,
            upload_rate=plane.upload_rate,
        )

    @classmethod
    def load(cls, directory: Path) -> Config:
        """Raises BadSettings."""
        file = config_file(directory)
        try:
            return cls.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as wrong:
            where = "the settings of the worker, which writes that file when it starts"
            raise BadSettings(detail=f"{file} cannot be read: {wrong}.", where=where) from wrong

    def save(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(config_file(directory), self.model_dump_json(), mode=0o600)

    @property
    def public_keys(self) -> list[PublicKey]:
        return [PublicKey(key) for key in self.keys]


def directory_of(settings: Settings) -> Path:
    return settings.state_dir.expanduser() / "dataplane"


def config_file(directory: Path) -> Path:
    return directory / "config.json"


def stamp_of(file: Path) -> Stamp:
    with suppress(OSError):
        found = file.stat()
        return found.st_ino, found.st_mtime_ns
    return None


class EngineAddress(NamedTuple):
    address: str
    port: int
    fence: int
    """Of the operation that has started it; a change with a lower fence is stale and is ignored."""


class EngineAddresses:
    """Where the engines of this host's instances listen, as the worker knows it.

    An address is removed before the lease of its port ends: a token for one instance must never reach another. A file
    that cannot be written is retried with the next change; until then, requests of new instances are refused.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / "engines.json"
        self._lock = Lock()
        self._known = read_addresses(self._file)
        self._written = True

    def find(self, instance: InstanceId) -> EngineAddress | None:
        return self._known.get(instance)

    def instances(self) -> list[InstanceId]:
        return [InstanceId(each) for each in list(self._known)]

    def put(self, instance: InstanceId, address: str, port: int, *, fence: int) -> None:
        with self._lock:
            known = self._known.get(instance)
            if known is None or known.fence <= fence:
                self._write(self._known | {instance: EngineAddress(address, port, fence)})

    def drop(self, instance: InstanceId, *, fence: int) -> None:
        with self._lock:
            known = self._known.get(instance)
            if known is not None and known.fence <= fence:
                self._write({each: its for each, its in self._known.items() if each != instance})

    def _write(self, addresses: Mapping[str, EngineAddress]) -> None:
        if addresses == self._known and self._written:
            return
        self._known = dict(addresses)
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._file, json.dumps(self._known), mode=0o600)
            self._written = True
        except OSError as failed:
            self._written = False
            _log.warning("addresses of engines not written", file=str(self._file), reason=str(failed))


class AddressReader:
    """The same file, as the data plane reads it: a cached snapshot, read again once it has been replaced."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "engines.json"
        self._stamp: Stamp = None
        self._known: dict[str, EngineAddress] = {}

    def find(self, instance: str) -> EngineAddress | None:
        if (stamp := stamp_of(self._file)) != self._stamp:
            self._stamp, self._known = stamp, read_addresses(self._file)
        return self._known.get(instance)


def read_addresses(file: Path) -> dict[str, EngineAddress]:
    """Empty if it is missing or unreadable, as after a crash: the worker reconciles it."""
    try:
        return {InstanceId(each): EngineAddress(*its) for each, its in json.loads(file.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, BadId) as wrong:
        _log.warning("addresses of engines unreadable", file=str(file), reason=str(wrong))
        return {}
