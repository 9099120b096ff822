"""Fenced port leases in Redis: acquired atomically at a constant cost, released by their owner only.

An instance gets its last port again. A lease expires until its container runs.
"""

import json
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from aima_core.domain.hosts import PortLease
from aima_core.domain.ids import HostName, InstanceId
from aima_core.errors import NoFreePort, PortOutOfRange, PortTaken
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Scripts, in_ms

_LAST_PORT = 65535
"""A port that was never leased, or was released, has its own number in the index; others have a time in ms."""


class PortStore:
    """The leases of one host. Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis, host: HostName) -> None:
        self._redis = redis
        self._host = host
        self._run = Scripts(redis)
        self._keys = [keys.ports(host), keys.last_ports(host)]
        self._prefix = keys.port_prefix(host)

    def set_range(self, ports: range) -> None:
        """Sets the ports that the host leases; leased ports stay leased."""
        self._ports = ports
        self._run("ports/set_range", self._keys[:1], ports[0], ports[-1])

    def lease(
        self, holder: InstanceId, *, fence: int, wanted: int | None = None, avoid: tuple[int, timedelta] | None = None
    ) -> int:
        """Leases the wanted port, else the holder's last one, else the first free one, for PORT_LEASE.

        `avoid` is a port found in use by another program, and for how long to avoid it. Raises NoFreePort, PortTaken,
        PortOutOfRange.
        """
        requested = "" if wanted is None else str(wanted)
        avoided = (str(avoid[0]), in_ms(avoid[1])) if avoid else ("", 0)
        lease = (self._prefix, holder, fence, in_ms(keys.PORT_LEASE), requested, *avoided)
        reply = self._run("ports/lease", self._keys, *lease)
        if reply in ("none", "out of range"):  # also the reply of a Redis that has lost the range
            self.set_range(self._ports)
            reply = self._run("ports/lease", self._keys, *lease)
        if isinstance(reply, int):
            return reply
        first, last = self._ports[0], self._ports[-1]
        if isinstance(reply, list):
            leased_by = json.loads(reply[0])["holder"] if reply[0] else "something else than AIMA"
            raise PortTaken(port=wanted, host=self._host, holder=leased_by)
        if reply == "none":
            raise NoFreePort(first=first, last=last, host=self._host)
        raise PortOutOfRange(port=wanted, first=first, last=last, host=self._host)

    def persist(self, holder: InstanceId, port: int, *, fence: int) -> bool:
        """Makes the lease permanent until its container is gone.

        False if another instance holds the port, or a later operation has moved the lease to another (fencing).
        """
        return bool(self._run("ports/persist", self._keys, self._prefix, holder, fence, str(port)))

    def release(self, holder: InstanceId, *, fence: int) -> bool:
        """False if the holder has no lease, or a later operation leased it since (fencing)."""
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


def port_listing(redis: TextRedis) -> str:
    """JSON objects of PortLease with a comma between them, by host and port, in one round trip.

    Raises BrokerUnavailable within seconds.
    """
    found = Scripts(redis)("ports/list", [keys.HOSTS], keys.ports, keys.port, _LAST_PORT)
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
