"""Port leases in Redis: taken atomically at a cost that does not grow, given back by their owner only.

The keys are the leases; beside them all ports by when they are free, so that the first is, unless all are leased, and
the port each instance had last, so that it gets the same one again.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from aima_core.domain.ids import HostName, InstanceId
from aima_core.domain.hosts import PortLease
from aima_core.errors import NoFreePort, PortOutOfRange, PortTaken
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Scripts
from aima_core.store.serialization import in_ms

_LAST_PORT = 65535
"""A port that was free from the beginning, or was given back, stands by its own number; others by the time in ms."""


class PortStore:
    """The leases of one host. Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis, host: HostName) -> None:
        self._redis = redis
        self._host = host
        self._run = Scripts(redis)
        self._keys = [keys.ports(host), keys.last_ports(host)]
        self._prefix = keys.port_prefix(host)

    def set_range(self, ports: range) -> None:
        """Say which ports the host leases; those held stay held."""
        self._ports = ports
        self._run("ports/set_range", self._keys[:1], ports[0], ports[-1])

    def lease(
        self, holder: InstanceId, *, fence: int, wanted: int | None = None, avoid: tuple[int, timedelta] | None = None
    ) -> int:
        """Take the wanted port, else the one the holder had last, else the first free one, for PORT_LEASE.

        `avoid` sets aside a port that somebody else turned out to use. Raises NoFreePort, PortTaken, PortOutOfRange.
        """
        requested = "" if wanted is None else str(wanted)
        avoided = (str(avoid[0]), in_ms(avoid[1])) if avoid else ("", 0)
        lease = (self._prefix, holder, fence, in_ms(keys.PORT_LEASE), requested, *avoided)
        answer = self._run("ports/lease", self._keys, *lease)
        if answer in ("none", "out of range"):  # so it would be, too, where Redis has lost which ports there are
            self.set_range(self._ports)
            answer = self._run("ports/lease", self._keys, *lease)
        if isinstance(answer, int):
            return answer
        first, last = self._ports[0], self._ports[-1]
        if isinstance(answer, list):
            raise PortTaken(port=wanted, host=self._host, holder=_holder_of(answer[0]))
        if answer == "none":
            raise NoFreePort(first=first, last=last, host=self._host)
        raise PortOutOfRange(port=wanted, first=first, last=last, host=self._host)

    def persist(self, holder: InstanceId, port: int, *, fence: int) -> bool:
        """Hold the port until its container is gone; False when somebody else holds it."""
        return bool(self._run("ports/persist", self._keys, self._prefix, holder, fence, str(port)))

    def release(self, holder: InstanceId, *, fence: int) -> bool:
        """Give back what the holder has, unless a later operation has leased it since."""
        return bool(self._run("ports/release", self._keys, self._prefix, holder, fence))

    def all(self) -> list[PortLease]:
        """The leases in force on the host, by port."""
        known = self._redis.zrange(keys.ports(self._host), 0, -1, withscores=True)
        leased = [(port, end) for port, end in known if end > _LAST_PORT]
        if not leased:
            return []
        texts = self._redis.mget([f"{self._prefix}{port}" for port, _ in leased])
        leases = [_lease(self._host, port, end, text) for (port, end), text in zip(leased, texts, strict=True) if text]
        return sorted(leases, key=lambda lease: lease.port)


class PortListing:
    """The leases of all hosts as JSON. Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis) -> None:
        self._run = Scripts(redis)

    def as_json(self) -> str:
        """JSON objects of PortLease with a comma between them, by host and port; in one round trip."""
        found = self._run("ports/list", [keys.HOSTS], keys.PORTS_PREFIX, keys.PORT_PREFIX, _LAST_PORT)
        by_host = sorted(zip(found[::2], found[1::2], strict=True))
        return ",".join(_leases_json(host, text) for host, text in by_host if text)


@lru_cache(maxsize=2048)
def _leases_json(host: str, text: str) -> str:
    """Cached by its text, since a host's leases seldom change and listings are requested repeatedly."""
    lines = text.split("\n")
    rows = zip(lines[::3], lines[1::3], lines[2::3], strict=True)
    leases = [_lease(HostName(host), port, float(end), lease) for port, end, lease in rows]
    leases.sort(key=lambda lease: lease.port)
    return ",".join(lease.model_dump_json() for lease in leases)


def _lease(host: HostName, port: str, end: float, text: str) -> PortLease:
    lease = json.loads(text)
    return PortLease.model_construct(
        host=host,
        port=int(port),
        holder=InstanceId(lease["holder"]),
        fence=lease["fence"],
        since=datetime.fromtimestamp(lease["since"] / 1000, UTC),
        until=None if end == float("inf") else datetime.fromtimestamp(end / 1000, UTC),
    )


def _holder_of(lease: str) -> str:
    return str(json.loads(lease)["holder"]) if lease else "something else than AIMA"
