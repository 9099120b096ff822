"""Services and instances in Redis: signed spec and desired state, guarded by a fencing token, and status.

The higher fence wins: a late writer, such as a worker back from a partition, changes nothing. A spec is read only if
its signature verifies, since any writer in Redis can write a record.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import structlog
from pydantic import ValidationError

from aima_core.domain.ids import HostName, InstanceId, ServiceId, SignedText
from aima_core.domain.services import GONE, Instance
from aima_core.errors import BadId, UnknownService, UnverifiedService
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Call, Scripts, comma_list, in_ms, pairs
from aima_core.store.readable import instance_from, readable, replies
from aima_core.store.whereabouts import Stored, Whereabouts, whereabouts
from aima_core.trust.keys import KeyRing
from aima_core.trust.orders import highest_fence
from aima_core.trust.records import SignedService

RESTORE_ATTEMPTS = 3
VERIFIED_CACHE = 8192
"""Records whose verification is remembered: listings are requested repeatedly."""

_log = structlog.get_logger()


class Taken(NamedTuple):
    before: Instance | None
    """The instance before; None if there was none."""


class Listing(NamedTuple):
    services: str
    """JSON objects with a comma between them: each a service with its `instances`.

    One whose spec does not verify has its `id` and the `failure` instead of the spec.
    """
    after: str | None
    """The id after which the next page starts; None on the last page."""


class ServiceStore:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis, key_ring: KeyRing | None = None) -> None:
        """Without keys, no spec verifies."""
        self._redis = redis
        self._run = Scripts(redis)
        self._keys = key_ring or KeyRing([])
        self._verified = lru_cache(VERIFIED_CACHE)(self._verify)

    def put(self, *services: SignedService) -> None:
        """Makes specs the current ones of their services, and keeps them among the revisions."""
        if services:
            self._run.each("services/put", map(_putting, services))

    def change(self, id: ServiceId, make: Callable[[Stored | None], SignedService]) -> SignedService:
        """Makes what `make` returns of the stored spec, or of None, the current one.

        If another writer was first, it is made anew of that one's (optimistic lock), so that no change is lost.
        """
        while True:
            record = self._record(id)
            service = make(self._stored(id, record) if record else None)
            where, arguments = _restoring(service, record)
            if self._run("services/restore", where, *arguments):
                return service

    def revisions(self, id: ServiceId) -> list[SignedService]:
        """The last ten verified revisions, newest first."""
        return self.revisions_of([id])[id]

    def revisions_of(self, ids: Sequence[ServiceId]) -> dict[ServiceId, list[SignedService]]:
        """Those of several services, in one round trip."""
        with self._redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hgetall(keys.revisions(id))
            found = replies(pipe)  # another type, which another writer made, counts as none
        return {id: self._newest_first(id, records or {}) for id, records in zip(ids, found, strict=True)}

    def get(self, id: ServiceId) -> SignedService:
        """Raises UnknownService, UnverifiedService."""
        if (record := self._record(id)) is None:
            raise UnknownService(service=id)
        return self._verified(id, record)

    def exists(self, id: ServiceId) -> bool:
        """Whether there is a record, verified or not."""
        return self._record(id) is not None

    def ids(self) -> list[ServiceId]:
        """Of all services that have a record, verified or not, in order."""
        found = (readable("service", id, ServiceId, id) for id in self._redis.zrange(keys.SERVICES, 0, -1))
        return [id for id in found if id]

    def all(self) -> dict[str, SignedService | UnverifiedService]:
        """Every service, or why its spec is not used, by id and in order."""
        ids = self._redis.zrange(keys.SERVICES, 0, -1)
        found = zip(ids, self._records(ids), strict=True)
        return {id: self._stored(id, record) for id, record in found if record}

    def unverified(self) -> list[str]:
        """The ids of all services whose record does not verify, in order."""
        return [id for id, stored in self.all().items() if isinstance(stored, UnverifiedService)]

    def restore(self, known: Mapping[ServiceId, SignedText]) -> list[ServiceId]:
        """Stores each spec whose record is missing, does not verify, or is older, as after a loss of Redis' data.

        The newest version wins, whatever the order in which hosts restore it: a record that has changed since it was
        read is read again. Specs that do not verify themselves are skipped. Returns the ids of those restored.
        """
        left, restored = self._verified_among(known), list[ServiceId]()
        for _ in range(RESTORE_ATTEMPTS):
            before = dict(zip(left, self._records(list(left)), strict=True))
            newer = [each for each in left.values() if self._is_newer(each, before[each.spec.id])]
            calls = [_restoring(each, before[each.spec.id]) for each in newer]
            done = self._run.each("services/restore", calls) if calls else []
            restored += [each.spec.id for each, stored in zip(newer, done, strict=True) if stored]
            left = {each.spec.id: each for each, stored in zip(newer, done, strict=True) if not stored}
        return restored

    def has_current(self, id: ServiceId, spec: SignedText) -> bool:
        """Whether this verified spec, or a newer one, is the current one of its service."""
        signed = self._verified_among({id: spec})
        return bool(signed) and not self._is_newer(signed[id], self._record(id))

    def missing(self, ids: Sequence[ServiceId]) -> tuple[str | None, list[ServiceId]]:
        """The id of Redis' data set, and those of the services that have no record in it: one snapshot of both."""
        with self._redis.pipeline() as pipe:
            pipe.get(keys.EPOCH)
            pipe.mget([keys.service(id) for id in ids])
            epoch, records = pipe.execute()
        return epoch, [id for id, record in zip(ids, records, strict=True) if record is None]

    def placements(self, ids: Collection[ServiceId]) -> dict[ServiceId, Whereabouts]:
        """The placements of several services, in one round trip."""
        prefixes = (keys.service, keys.instance, keys.operation, keys.starts)
        found = self._run("services/placements", [keys.INSTANCES], *prefixes, json.dumps(list(ids)))
        each = zip(ids, *(found[at::4] for at in range(4)), strict=True)
        return {
            id: whereabouts(self._stored(id, record) if record else None, more, self._stored)
            for id, record, *more in each
        }

    def remove(self, id: ServiceId) -> None:
        """Deletes a service and its instances."""
        instances = self._redis.zrange(keys.INSTANCES, f"[{id}@", f"[{id}@\xff", bylex=True)
        with self._redis.pipeline() as pipe:
            pipe.delete(keys.service(id), *(f"{keys.instance}{each}" for each in instances))
            pipe.delete(keys.revisions(id), keys.starts(id))
            pipe.zrem(keys.SERVICES, id)
            pipe.hdel(keys.SERVICES_AT, id)
            if instances:
                pipe.zrem(keys.INSTANCES, *instances)
            for each in instances:
                pipe.srem(f"{keys.instances_on}{each.partition('@')[2]}", each)
            pipe.execute()

    def listing(self, *, limit: int, after: str | None = None) -> Listing:
        """One page, in the order of ids; one round trip, however many instances there are."""
        return self._listing(f"({after}" if after else "-", "+", limit=limit)

    def status(self, id: ServiceId) -> str:
        """One service as it is listed. Raises UnknownService."""
        if not (found := self._listing(f"[{id}", f"[{id}", limit=1).services):
            raise UnknownService(service=id)
        return found

    def set_desired(self, instance: Instance) -> bool:
        """False if superseded by a higher fence. The status of a known instance stays."""
        return bool(self._set_desired(instance, replace=False))

    def replace_desired(self, instance: Instance) -> Taken | None:
        """Sets desired state and status; None if superseded by a higher fence."""
        reply = self._set_desired(instance, replace=True)
        if not reply:
            return None
        before = pairs(reply[0])
        return Taken(readable("instance", instance.id, instance_from, before) if before else None)

    def adopt(self, instance: Instance, *, seen_with: int | None) -> bool:
        """Restores the record of a running instance.

        `seen_with` is the fence of the record that this replaces; False if it has changed since.
        """
        id = instance.id
        where = [keys.instance(id), keys.INSTANCES, keys.instances_on(id.host)]
        expected = "" if seen_with is None else str(seen_with)
        record = (id, instance.fence, instance.desired, instance.status_json(), expected)
        return bool(self._run("services/adopt", where, *record))

    def raise_fence(self, seen: int) -> bool:
        """Raises the last fence, so that every later request supersedes this one."""
        return bool(self._run("services/raise_fence", [keys.FENCE], seen))

    def update_status(self, instance: Instance) -> bool:
        """False if the desired state has changed since (fencing)."""
        where = [keys.instance(instance.id)]
        return bool(self._run("services/update_status", where, str(instance.fence), instance.status_json()))

    def instance(self, id: InstanceId) -> Instance | None:
        """None also if its record is unreadable: it is as good as lost."""
        return next(iter(self.instances([id])), None)

    def requested_by(self, id: InstanceId) -> str | None:
        """The id of the last operation that was sent to the host for this instance."""
        return self._redis.hget(keys.instance(id), "asked_by")

    def instances_of(self, id: ServiceId) -> list[Instance]:
        """The instances of a service, by host."""
        return self.instances(self._redis.zrange(keys.INSTANCES, f"[{id}@", f"[{id}@\xff", bylex=True))

    def instances_on(self, host: HostName) -> list[Instance]:
        """The instances on a host, in no order."""
        return self.instances(self._redis.smembers(keys.instances_on(host)))

    def own_instances(self, host: HostName) -> list[Instance]:
        """The same for the worker of that host; deletes unreadable records, which it restores from its containers."""
        ids = self._redis.smembers(keys.instances_on(host))
        found = self.instances(ids)
        if unreadable := sorted(ids - {instance.id for instance in found}):
            self._redis.delete(*(f"{keys.instance}{id}" for id in unreadable))
            self._redis.srem(keys.instances_on(host), *unreadable)
            self._redis.zrem(keys.INSTANCES, *unreadable)
            _log.warning("unreadable instances deleted", instances=[id[:200] for id in unreadable])
        return found

    def instances(self, ids: Iterable[str]) -> list[Instance]:
        """The records of these instances, as far as Redis has readable ones. On a drained host none serves."""
        names = list(ids)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.DRAINED)
            for name in names:
                pipe.hgetall(f"{keys.instance}{name}")
            drained, *found = replies(pipe)
        listed = zip(names, found, strict=True)
        records = (readable("instance", name, instance_from, fields) for name, fields in listed if fields)
        return [_withdrawn(each) if each.host in (drained or ()) else each for each in records if each]

    def _newest_first(self, id: ServiceId, records: Mapping[str, str]) -> list[SignedService]:
        stored = [self._stored(id, record) for record in records.values()]
        verified = [each for each in stored if isinstance(each, SignedService)]
        return sorted(verified, key=lambda each: each.spec.version, reverse=True)

    def _record(self, id: ServiceId) -> str | None:
        return self._records([id])[0]

    def _records(self, ids: Sequence[str]) -> list[str | None]:
        """None also for a key of another type, which only another writer can have made."""
        return self._redis.mget([f"{keys.service}{id}" for id in ids]) if ids else []

    def _stored(self, id: str, record: str) -> SignedService | UnverifiedService:
        try:
            return self._verified(id, record)
        except UnverifiedService as refused:
            return refused

    def _verify(self, id: str, record: str) -> SignedService:
        """Raises UnverifiedService."""
        try:
            return SignedService.verified(SignedText.model_validate_json(record), self._keys, id=ServiceId(id))
        except (ValidationError, BadId) as malformed:
            raise UnverifiedService(service=id, why="it is malformed") from malformed

    def _verified_among(self, known: Mapping[ServiceId, SignedText]) -> dict[ServiceId, SignedService]:
        stored = {id: self._stored(id, signed.model_dump_json()) for id, signed in known.items()}
        return {id: each for id, each in stored.items() if not isinstance(each, UnverifiedService)}

    def _is_newer(self, service: SignedService, before: str | None) -> bool:
        stored = self._stored(service.spec.id, before) if before else None
        return not isinstance(stored, SignedService) or stored.spec.version < service.spec.version

    def _listing(self, first: str, last: str, *, limit: int) -> Listing:
        where = [keys.SERVICES, keys.INSTANCES, keys.HOSTS_SEEN, keys.DRAINED]
        hosts = (in_ms(keys.HOST_DEAD), comma_list(GONE))
        prefixes = (keys.service, keys.instance)
        after, ids, *found = self._run("services/list", where, *prefixes, first, last, limit, *hosts)
        if not ids:
            return Listing("", after or None)
        services = (
            f'{self._spec_json(id, record)[:-1]},"instances":[{_readable_json(instances)}]}}'
            for id, record, instances in zip(ids.split("\n"), found[0].split("\n"), found[1].split("\n\n"), strict=True)
        )
        return Listing(",".join(services), after or None)

    def _spec_json(self, id: str, record: str) -> str:
        """The spec as it was signed; an object with the failure if it does not verify: a writer wrote what it wants."""
        stored = self._stored(id, record)
        if isinstance(stored, UnverifiedService):
            return json.dumps({"id": id, "failure": stored.failure.model_dump(mode="json")})
        return stored.record.text

    def _set_desired(self, instance: Instance, *, replace: bool) -> Any:
        where = [keys.instance(instance.id), keys.INSTANCES, keys.instances_on(instance.id.host)]
        desired = (instance.id, instance.fence, highest_fence(), instance.desired)
        return self._run("services/set_desired", where, *desired, instance.status_json(), "1" if replace else "")


def _withdrawn(instance: Instance) -> Instance:
    return instance.model_copy(update={"serving": False})


def _restoring(service: SignedService, before: str | None) -> Call:
    where, [id, number, record] = _putting(service)
    return where, [id, before or "", number, record]


def _putting(service: SignedService) -> Call:
    id = service.spec.id
    where = [keys.service(id), keys.SERVICES, keys.revisions(id)]
    return where, [id, service.spec.revision, service.record.model_dump_json()]


@lru_cache(maxsize=4096)
def _readable_json(instances: str) -> str:
    """Instances in JSON, a line each, as a list without brackets; without unreadable ones.

    Cached by its text, since listings are requested repeatedly.
    """
    lines = filter(None, instances.split("\n"))
    return ",".join(line for line in lines if readable("instance", line, Instance.model_validate_json, line))
