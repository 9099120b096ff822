"""Services and instances in Redis: spec and desired state, guarded by a fencing token, and status.

The higher fence wins: a late writer, such as a worker back from a partition, changes nothing.
"""

import json
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from aima_core.domain.ids import HostName, InstanceId, ServiceId
from aima_core.domain.services import GONE, Desired, Instance, Service
from aima_core.errors import UnknownService
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Scripts, comma_list, in_ms, pairs
from aima_core.trust.orders import highest_fence

_DESIRED = {"desired", "fence"}


class Taken(NamedTuple):
    before: Instance | None
    """The instance before; None if there was none."""


class Whereabouts(NamedTuple):
    service: Service | None
    """Its spec; None if there is none."""
    hosts: list[HostName]
    """Those where it runs, then those where it has stopped."""
    wanted: list[HostName]
    """Those where it is desired to run."""


class Listing(NamedTuple):
    services: str
    """JSON objects with a comma between them: each a service with its `instances`."""
    after: str | None
    """The id after which the next page starts; None on the last page."""


class ServiceStore:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis
        self._run = Scripts(redis)

    def put(self, *services: Service) -> None:
        """Stores specs, replacing those with the same id."""
        with self._redis.pipeline() as pipe:
            for service in services:
                pipe.set(keys.service(service.id), service.model_dump_json())
                pipe.zadd(keys.SERVICES, {service.id: 0})
            pipe.execute()

    def get(self, id: ServiceId) -> Service:
        """Raises UnknownService."""
        if (record := self._redis.get(keys.service(id))) is None:
            raise UnknownService(service=id)
        return Service.model_validate_json(record)

    def placements(self, ids: Collection[ServiceId]) -> dict[ServiceId, Whereabouts]:
        """The placements of several services, in one round trip."""
        prefixes = (keys.service, keys.instance)
        found = self._run("services/placements", [keys.INSTANCES], *prefixes, json.dumps(list(ids)))
        return {
            id: Whereabouts(
                Service.model_validate_json(record) if record else None, _hosts_of(known), _hosts_of(wanted)
            )
            for id, record, known, wanted in zip(ids, found[::3], found[1::3], found[2::3], strict=True)
        }

    def remove(self, id: ServiceId) -> None:
        """Deletes a service and its instances."""
        instances = self.instances_of(id)
        with self._redis.pipeline() as pipe:
            pipe.delete(keys.service(id), *(keys.instance(instance.id) for instance in instances))
            pipe.zrem(keys.SERVICES, id)
            pipe.hdel(keys.SERVICES_AT, id)
            if instances:
                pipe.zrem(keys.INSTANCES, *(instance.id for instance in instances))
            for instance in instances:
                pipe.srem(keys.instances_on(instance.id.host), instance.id)
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
        return Taken(_instance(pairs(reply[0])) if reply[0] else None) if reply else None

    def adopt(self, instance: Instance, service: Service, *, seen_with: int | None) -> bool:
        """Restores the record of a running instance, and its service if there is none.

        `seen_with` is the fence of the record that this replaces; False if it has changed since.
        """
        id = instance.id
        where = [keys.instance(id), keys.INSTANCES, keys.instances_on(id.host), keys.service(service.id), keys.SERVICES]
        expected = "" if seen_with is None else str(seen_with)
        record = (id, instance.fence, instance.desired, status_json(instance), expected)
        return bool(self._run("services/adopt", where, *record, service.id, service.model_dump_json()))

    def raise_fence(self, seen: int) -> bool:
        """Raises the last fence, so that every later request supersedes this one."""
        return bool(self._run("services/raise_fence", [keys.FENCE], seen))

    def update_status(self, instance: Instance) -> bool:
        """False if the desired state has changed since (fencing)."""
        where = [keys.instance(instance.id)]
        return bool(self._run("services/update_status", where, str(instance.fence), status_json(instance)))

    def instance(self, id: InstanceId) -> Instance | None:
        fields = self._redis.hgetall(keys.instance(id))
        return _instance(fields) if fields else None

    def instances_of(self, id: ServiceId) -> list[Instance]:
        """The instances of a service, by host."""
        return self.instances(self._redis.zrange(keys.INSTANCES, f"[{id}@", f"[{id}@\xff", bylex=True))

    def instances_on(self, host: HostName) -> list[Instance]:
        """The instances on a host, in no order."""
        return self.instances(self._redis.smembers(keys.instances_on(host)))

    def instances(self, ids: Iterable[str]) -> list[Instance]:
        """The records of these instances, as far as Redis has them."""
        with self._redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hgetall(keys.instance(InstanceId(id)))
            return [_instance(fields) for fields in pipe.execute() if fields]

    def _listing(self, first: str, last: str, *, limit: int) -> Listing:
        where, prefixes = [keys.SERVICES, keys.INSTANCES, keys.HOSTS_SEEN], (keys.service, keys.instance)
        hosts = (in_ms(keys.HOST_DEAD), comma_list(GONE))
        after, services = self._run("services/list", where, *prefixes, first, last, limit, *hosts)
        return Listing(services, after or None)

    def _set_desired(self, instance: Instance, *, replace: bool) -> Any:
        where = [keys.instance(instance.id), keys.INSTANCES, keys.instances_on(instance.id.host)]
        desired = (instance.id, instance.fence, highest_fence(), instance.desired)
        return self._run("services/set_desired", where, *desired, status_json(instance), "1" if replace else "")


def status_json(instance: Instance) -> str:
    """The status, which Redis holds beside the desired state."""
    return instance.model_dump_json(exclude=_DESIRED)


def _instance(fields: dict[str, Any]) -> Instance:
    return Instance.model_validate_json(
        # Fence and desired state are fields of their own, which the scripts compare.
        fields["record"][:-1] + f',"fence":{fields["fence"]},"desired":"{Desired(fields["desired"])}"}}'
    )


def _hosts_of(instances: Iterable[str]) -> list[HostName]:
    return [HostName(each.partition("@")[2]) for each in instances]
