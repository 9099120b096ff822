"""Resource allocations of services on hosts: granted by the claim of a start, released once the container is gone."""

import json
from collections.abc import Iterable
from functools import lru_cache

from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.resources import Allocation, Held
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Scripts, pairs
from aima_core.store.readable import readable, replies


class AllocationStore:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis
        self._run = Scripts(redis)

    def held(self, host: HostName) -> Held:
        return self.held_on([host])[host]

    def held_on(self, hosts: Iterable[HostName]) -> dict[HostName, Held]:
        """The allocations of several hosts, in one round trip; without unreadable ones, which the claim skips, too."""
        names = list(hosts)
        found = pairs(self._run("allocations/list", [], keys.held, json.dumps(names)))
        return {host: _held(host, found.get(host, "")) for host in names}

    def busy_on(self, hosts: Iterable[HostName]) -> dict[HostName, int]:
        """The number of slots in use on several hosts, in one round trip."""
        names = list(hosts)
        with self._redis.pipeline(transaction=False) as pipe:
            for host in names:
                pipe.zcard(keys.slots(host))
            return {host: busy or 0 for host, busy in zip(names, replies(pipe), strict=True)}

    def keep(self, host: HostName, service: ServiceId, holding: Allocation) -> None:
        """Restores the allocation of a running container: the container is the ground truth."""
        self._redis.hset(keys.held(host), service, str(holding))

    def mark_loaded(self, host: HostName, service: ServiceId) -> None:
        """The service's memory shows in the kernel's figures from now on."""
        self._run("allocations/mark_loaded", [keys.held(host)], service)

    def release(self, host: HostName, service: ServiceId, *, fence: int) -> bool:
        """False if a later operation got the allocation since, or there is none."""
        return bool(self._run("allocations/release", [keys.held(host)], service, fence))


def _held(host: HostName, lines: str) -> Held:
    each = (line.partition(" ") for line in lines.split("\n") if line)
    found = (readable(f"allocation on {host}", service, _allocation, service, text) for service, _, text in each)
    return Held(allocation for allocation in found if allocation)


@lru_cache(maxsize=8192)
def _allocation(service: str, text: str) -> tuple[ServiceId, Allocation]:
    """Cached: each plan and each start of several instances reads those of all hosts, and few have changed."""
    return ServiceId(service), Allocation.parse(text)
