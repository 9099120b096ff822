"""Backup and restore of what only Redis holds: a file of records, read while everything runs.

Restored are specs, desired states, API keys, hosts, the audit log and ended operations; the last fence only rises. Not
restored is what belongs to the moment, and to processes that may be dead: claims, leases, allocations, locks, messages,
and operations in progress. Hosts report those from their containers. What Redis has got since, such as the record of an
instance that its host has reported, is newer than the backup and stays; so a restore can be repeated.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from aima_api.up.redis_server import managed_url
from aima_core.domain.ids import ServiceId, SignedText
from aima_core.errors import BadBackup, NothingLost
from aima_core.redis import keys
from aima_core.redis.connection import command_link
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Scripts
from aima_core.settings import Settings
from aima_core.store.operations import now
from aima_core.store.readable import instance_from, readable, replies
from aima_core.store.services import ServiceStore
from aima_core.system.state_dir import secret, write_atomically
from aima_core.trust.keys import KeyRing, key_ring
from aima_core.trust.orders import highest_fence

FORMAT = 1
REPLY_TIMEOUT = timedelta(seconds=30)
"""Of a command that reads or restores many records."""
BATCH = 500
"""Records read in one round trip."""
HASHES = (
    *(keys.HOSTS, keys.HOSTS_IDENTITIES, keys.DRAINED, keys.HOST_LABELS, keys.SERVICES_AT),
    *(keys.API_KEYS, keys.API_KEYS_USED, keys.ALIASES),
)
STREAMS = (keys.AUDIT, keys.AUDIT_REFUSED)

Entry = tuple[str, list[str]]
"""The id of a stream's entry, and its fields and values in turn."""


class EndedOperation(BaseModel):
    entry: str
    """In the index of operations: a sort key, a blank and the id."""
    ttl_ms: int
    fields: dict[str, str]
    events: list[Entry]

    @property
    def id(self) -> str:
        return self.entry.rpartition(" ")[2]


class Backup(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: int
    at: datetime
    epoch: str | None
    """The data set of the backup."""
    fence: int
    services: dict[str, str]
    """The signed specs, as Redis holds them."""
    instances: dict[str, dict[str, str]]
    hashes: dict[str, dict[str, str]]
    streams: dict[str, list[Entry]]
    operations: list[EndedOperation]

    def counts(self) -> dict[str, int]:
        sizes = {name.removeprefix(keys.PREFIX): len(hash) for name, hash in self.hashes.items()}
        return {
            "services": len(self.services),
            "instances": len(self.instances),
            "hosts": sizes["hosts"],
            "aliases": sizes["aliases"],
            "API keys": len([digest for digest in self.hashes[keys.API_KEYS] if digest != "epoch"]),
            "operations": len(self.operations),
            "audit entries": sum(map(len, self.streams.values())),
        }


@contextmanager
def opened(settings: Settings) -> Iterator[tuple[TextRedis, KeyRing]]:
    """The Redis of the settings, else that of `aima up`, and the keys that verify its records."""
    directory = settings.state_dir.expanduser()
    managed = None if "url" in settings.redis.model_fields_set else managed_url(directory / "redis")
    if settings.signing_key is None and (minted := directory / "signing.key").exists():
        settings = settings.model_copy(update={"signing_key": SecretStr(secret(minted))})
    trusted = key_ring(settings)
    with closing(command_link(managed or settings.redis.url.get_secret_value(), answers_within=REPLY_TIMEOUT)) as redis:
        yield redis, trusted


def made_from(redis: TextRedis) -> Backup:
    """Reads every record; each is consistent, and the fence, read last, exceeds those of all."""
    services = redis.zrange(keys.SERVICES, 0, -1)
    specs = [record for batch in _batches(services) for record in redis.mget([f"{keys.service}{id}" for id in batch])]
    instances = dict(_hashes(redis, keys.instance, redis.zrange(keys.INSTANCES, 0, -1)))
    return Backup(
        format=FORMAT,
        at=now(),
        epoch=redis.get(keys.EPOCH),
        services={id: record for id, record in zip(services, specs, strict=True) if record},
        instances=instances,
        hashes={name: redis.hgetall(name) for name in HASHES},
        streams={name: [(id, _flat(fields)) for id, fields in redis.xrange(name, "-")] for name in STREAMS},
        operations=list(_ended_operations(redis)),
        fence=_fence(redis),
    )


def restore(redis: TextRedis, stored: Backup, trusted: KeyRing) -> list[str]:
    """Restores what Redis lacks. Returns the ids of services whose spec does not verify; they are left out.

    Raises NothingLost if Redis still has the data set of the backup: what it lacks was removed since, such as a key.
    """
    if stored.epoch is not None and redis.get(keys.EPOCH) == stored.epoch:
        raise NothingLost(at=stored.at.isoformat(timespec="seconds"))
    run, services = Scripts(redis), ServiceStore(redis, trusted)
    if 0 < stored.fence <= highest_fence():
        services.raise_fence(stored.fence)  # first: later requests supersede the backup
    unverified = _restore_services(services, stored)
    _restore_instances(services, stored)
    for name in HASHES:
        run("backup/fill_hash", [name], json.dumps(stored.hashes.get(name, {})))
    _mark_silent(redis, stored.hashes.get(keys.HOSTS, {}))
    for name in STREAMS:
        run("backup/merge_stream", [name], json.dumps(stored.streams.get(name, [])))
    for each in stored.operations:
        where = [f"{keys.operation}{each.id}", keys.OPERATIONS, f"{keys.log}{each.id}"]
        record = (json.dumps(each.fields), json.dumps(each.events))
        run("backup/restore_operation", where, each.entry, each.ttl_ms, *record)
    return unverified


def write(file: Path, made: Backup) -> None:
    """For its owner only: it holds digests of keys, and specs. A crash leaves no half of it."""
    write_atomically(file, gzip.compress(made.model_dump_json().encode()), mode=0o600)


def read(file: Path) -> Backup:
    """Raises BadBackup."""
    try:
        made = Backup.model_validate_json(gzip.decompress(file.read_bytes()))
    except OSError as unreadable:
        raise BadBackup(file=file, detail=unreadable.strerror or "it is no backup") from unreadable
    except (EOFError, zlib.error, ValidationError) as broken:
        raise BadBackup(file=file, detail="it is no backup of AIMA, or a part of it is missing") from broken
    if made.format != FORMAT:
        raise BadBackup(file=file, detail=f"it has format {made.format}, and this version reads {FORMAT}")
    return made


def _ended_operations(redis: TextRedis) -> Iterator[EndedOperation]:
    """Operations in progress are excluded: a restored record would never end."""
    entries = {entry.rpartition(" ")[2]: entry for entry in redis.zrange(keys.OPERATIONS, 0, -1)}
    active = set(redis.zrange(keys.ACTIVE, 0, -1))  # read second, since an ended operation never becomes active
    for batch in _batches([id for id in entries if id not in active]):
        records = dict(_hashes(redis, keys.operation, batch))
        with redis.pipeline(transaction=False) as pipe:
            for id in records:
                pipe.pttl(f"{keys.operation}{id}")
                pipe.xrange(f"{keys.log}{id}", "-")
            found = pipe.execute()
        for id, ttl, events in zip(records, found[::2], found[1::2], strict=True):
            if ttl > 0:
                log = [(event, _flat(fields)) for event, fields in events]
                yield EndedOperation(entry=entries[id], ttl_ms=ttl, fields=records[id], events=log)


def _restore_services(services: ServiceStore, stored: Backup) -> list[str]:
    """The newer version of a spec wins."""
    known = {}
    for id, record in stored.services.items():
        if text := readable("service", id, SignedText.model_validate_json, record):
            known[ServiceId(id)] = text
    services.restore(known)
    missing = services.missing(list(known))[1] if known else []
    return sorted({*missing, *(stored.services.keys() - known.keys())})


def _restore_instances(services: ServiceStore, stored: Backup) -> None:
    """The higher fence wins; on a tie the record that its host has reported since."""
    found = {instance.id: instance for instance in services.instances(stored.instances)}
    for id, fields in stored.instances.items():
        if (instance := readable("instance", id, instance_from, fields)) is None:
            continue
        live = found.get(instance.id)
        if live is None or live.fence < instance.fence:
            services.adopt(instance, seen_with=live.fence if live else None)


def _mark_silent(redis: TextRedis, hosts: Iterable[str]) -> None:
    """A restored host is away, and lost only if it does not return: as if it had fallen silent just now."""
    known = set(redis.zrange(keys.HOSTS_SEEN, 0, -1))
    silent_since = redis.time()[0] - keys.HOST_DEAD.total_seconds()
    if away := {host: silent_since for host in hosts if host not in known}:
        redis.zadd(keys.HOSTS_SEEN, away)


def _hashes(redis: TextRedis, prefix: str, ids: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    for batch in _batches(ids):
        with redis.pipeline(transaction=False) as pipe:
            for id in batch:
                pipe.hgetall(f"{prefix}{id}")
            found = replies(pipe)
        yield from (
            (id, fields) for id, fields in zip(batch, found, strict=True) if isinstance(fields, dict) and fields
        )


def _fence(redis: TextRedis) -> int:
    text = redis.get(keys.FENCE) or ""
    return int(text) if text.isdigit() else 0


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))


def _flat(fields: Mapping[str, Any]) -> list[str]:
    return [word for pair in fields.items() for word in pair]
