"""Resource allocations of services on hosts: granted by the claim of a start, released once the container is gone."""

import json
from collections.abc import Iterable

from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.resources import Allocation
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Scripts, pairs


class AllocationStore:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis
        self._run = Scripts(redis)

    def held(self, host: HostName) -> dict[ServiceId, Allocation]:
        return self.held_on([host])[host]

    def held_on(self, hosts: Iterable[HostName]) -> dict[HostName, dict[ServiceId, Allocation]]:
        """The allocations of several hosts, in one round trip."""
        names = list(hosts)
        found = pairs(self._run("allocations/list", [], keys.held, json.dumps(names)))
        return {
            host: {ServiceId(service): Allocation.parse(text) for service, text in pairs(found.get(host, ())).items()}
            for host in names
        }

    def busy_on(self, hosts: Iterable[HostName]) -> dict[HostName, int]:
        """The number of slots in use on several hosts, in one round trip."""
        names = list(hosts)
        with self._redis.pipeline(transaction=False) as pipe:
            for host in names:
                pipe.zcard(keys.slots(host))
            return dict(zip(names, pipe.execute(), strict=True))

    def keep(self, host: HostName, service: ServiceId, holding: Allocation) -> None:
        """Restores the allocation of a running container: the container is the ground truth."""
        self._redis.hset(keys.held(host), service, str(holding))

    def mark_loaded(self, host: HostName, service: ServiceId) -> None:
        """The service's memory shows in the kernel's figures from now on."""
        self._run("allocations/mark_loaded", [keys.held(host)], service)

    def release(self, host: HostName, service: ServiceId, *, fence: int) -> bool:
        """False if a later operation got the allocation since, or there is none."""
        return bool(self._run("allocations/release", [keys.held(host)], service, fence))
