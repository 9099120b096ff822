"""What hosts hold for the services that are there: given out by the claim of a start, given back with the container."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.resources import Allocation
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Scripts


class AllocationStore:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis
        self._run = Scripts(redis)

    def held(self, host: HostName) -> dict[ServiceId, Allocation]:
        return self.held_on([host])[host]

    def held_on(self, hosts: Iterable[HostName]) -> dict[HostName, dict[ServiceId, Allocation]]:
        """Of several hosts, in one round trip."""
        names = list(hosts)
        found = self._run("allocations/held", [], keys.HELD_PREFIX, json.dumps(names))
        told = {host: _holdings(flat) for host, flat in zip(found[::2], found[1::2], strict=True)}
        return {host: told.get(host, {}) for host in names}

    def busy_on(self, hosts: Iterable[HostName]) -> dict[HostName, int]:
        """How many of their slots are in use, in one round trip."""
        names = list(hosts)
        with self._redis.pipeline(transaction=False) as pipe:
            for host in names:
                pipe.zcard(keys.slots(host))
            return dict(zip(names, pipe.execute(), strict=True))

    def keep(self, host: HostName, service: ServiceId, holding: Allocation) -> None:
        """Put down what a service holds that is there: the container is the ground truth."""
        self._redis.hset(keys.held(host), service, str(holding))

    def mark_loaded(self, host: HostName, service: ServiceId) -> None:
        """The service has taken all the memory that it was given."""
        self._run("allocations/mark_loaded", [keys.held(host)], service)

    def release(self, host: HostName, service: ServiceId, *, fence: int) -> bool:
        """What the service holds, unless a later operation was given it since."""
        return bool(self._run("allocations/release", [keys.held(host)], service, fence))


def _holdings(flat: Sequence[str]) -> dict[ServiceId, Allocation]:
    return {ServiceId(service): Allocation.parse(text) for service, text in zip(flat[::2], flat[1::2], strict=True)}
