"""Services and instances in Redis: what is wanted of each, under a fence, and what it is."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from aima_core.domain.ids import HostName, InstanceId, ServiceId
from aima_core.domain.services import GONE, Desired, Instance, Service
from aima_core.errors import UnknownService
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Scripts
from aima_core.store.serialization import comma_list, in_ms, pairs

_WANTED = {"desired", "fence"}


@dataclass(frozen=True)
class Taken:
    before: Instance | None
    """What the instance was; None where there was none."""


class Whereabouts(NamedTuple):
    service: Service | None
    """As it was written down; None where it was not."""
    hosts: list[HostName]
    """Where it runs, then where it ran."""
    wanted: list[HostName]
    """Where it is meant to run."""


class Listing(NamedTuple):
    services: str
    """JSON objects with a comma between them: each a service, and `instances` as far as is known of them."""
    after: str | None
    """Where the next page begins; None when this is the last."""


class ServiceStore:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis
        self._run = Scripts(redis)

    def put(self, *services: Service) -> None:
        """Write them down, each in place of what was written down under its id."""
        if not services:
            return
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
        """Of several services, in one round trip."""
        prefixes = (keys.SERVICE_PREFIX, keys.INSTANCE_PREFIX)
        found = self._run("services/placements", [keys.INSTANCES], *prefixes, json.dumps(list(ids)))
        return {
            id: Whereabouts(
                Service.model_validate_json(record) if record else None, _hosts_of(known), _hosts_of(wanted)
            )
            for id, record, known, wanted in zip(ids, found[::3], found[1::3], found[2::3], strict=True)
        }

    def remove(self, id: ServiceId) -> None:
        """Forget a service and its instances."""
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
        """In the order of their ids; one round trip, however many they are and whatever there is of each."""
        return self._listing(f"({after}" if after else "-", "+", limit=limit)

    def status(self, id: ServiceId) -> str:
        """One as it is listed. Raises UnknownService."""
        if not (found := self._listing(f"[{id}", f"[{id}", limit=1).services):
            raise UnknownService(service=id)
        return found

    def set_desired(self, instance: Instance) -> bool:
        """Say what an instance shall be; False when one with a higher fence has said so since."""
        return bool(self._intend(instance, from_now_on=False))

    def replace_desired(self, instance: Instance) -> Taken | None:
        """Say what an instance shall be and is; None when one with a higher fence has said so since."""
        answer = self._intend(instance, from_now_on=True)
        return Taken(_instance(pairs(answer[0])) if answer[0] else None) if answer else None

    def adopt(self, instance: Instance, service: Service, *, seen_with: int | None) -> bool:
        """Put back what is known of an instance that runs, and its service where there is none.

        `seen_with` is the fence of the record that this is put in the place of; False when it has changed since.
        """
        id = instance.id
        where = [keys.instance(id), keys.INSTANCES, keys.instances_on(id.host)]
        where += [keys.service(service.id), keys.SERVICES, keys.FENCE]
        seen = "" if seen_with is None else str(seen_with)
        said = (id, instance.fence, instance.desired, observed(instance), seen, service.id, service.model_dump_json())
        return bool(self._run("services/adopt", where, *said))

    def raise_fence(self, seen: int) -> bool:
        """See to it that whatever is asked for from now on counts as asked for later than this fence."""
        return bool(self._run("services/raise_fence", [keys.FENCE], seen))

    def update_status(self, instance: Instance) -> bool:
        """Put down what an instance is; False when it has been told to be something else since."""
        return bool(
            self._run("services/update_status", [keys.instance(instance.id)], str(instance.fence), observed(instance))
        )

    def instance(self, id: InstanceId) -> Instance | None:
        fields = self._redis.hgetall(keys.instance(id))
        return _instance(fields) if fields else None

    def instances_of(self, id: ServiceId) -> list[Instance]:
        """Its instances on all hosts, by host."""
        return self.instances(self._redis.zrange(keys.INSTANCES, f"[{id}@", f"[{id}@\xff", bylex=True))

    def instances_on(self, host: HostName) -> list[Instance]:
        """Those of one host, in no order."""
        return self.instances(self._redis.smembers(keys.instances_on(host)))

    def instances(self, ids: Iterable[str]) -> list[Instance]:
        """These instances, as far as there are records of them."""
        with self._redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hgetall(keys.instance(InstanceId(id)))
            return [_instance(fields) for fields in pipe.execute() if fields]

    def _listing(self, first: str, last: str, *, limit: int) -> Listing:
        where, prefixes = [keys.SERVICES, keys.INSTANCES, keys.HOSTS_SEEN], (keys.SERVICE_PREFIX, keys.INSTANCE_PREFIX)
        hosts = (in_ms(keys.HOST_DEAD), comma_list(GONE))
        after, services = self._run("services/list", where, *prefixes, first, last, limit, *hosts)
        return Listing(services, after or None)

    def _intend(self, instance: Instance, *, from_now_on: bool) -> Any:
        where = [keys.instance(instance.id), keys.INSTANCES, keys.instances_on(instance.id.host)]
        said = (instance.id, instance.fence, instance.desired, observed(instance))
        return self._run("services/set_desired", where, *said, "1" if from_now_on else "")


def observed(instance: Instance) -> str:
    """What an instance is, as it is kept beside what is wanted of it."""
    return instance.model_dump_json(exclude=_WANTED)


def _instance(fields: dict[str, Any]) -> Instance:
    return Instance.model_validate_json(
        # What is wanted is kept beside the record, where the scripts compare it.
        fields["record"][:-1] + f',"fence":{fields["fence"]},"desired":"{Desired(fields["desired"])}"}}'
    )


def _hosts_of(instances: Iterable[str]) -> list[HostName]:
    return [InstanceId(each).host for each in instances]
