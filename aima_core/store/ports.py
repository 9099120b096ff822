"""Fenced port leases in Redis: acquired atomically at a constant cost, released by their owner only.

An instance gets its last port again. A lease expires until its container runs.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from pydantic_core import from_json

from aima_core.domain.hosts import PortLease
from aima_core.domain.ids import HostName, InstanceId
from aima_core.errors import NoFreePort, PortOutOfRange, PortTaken
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Scripts, in_ms
from aima_core.store.readable import readable

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
        self,
        holder: InstanceId,
        *,
        fence: int,
        wanted: int | None = None,
        avoid: tuple[int, timedelta] | None = None,
        keep: int | None = None,
    ) -> int:
        """Leases the wanted port, else the holder's last one, else the first free one, for PORT_LEASE.

        `avoid` is a port found in use by another program, and for how long to avoid it; `keep` is a leased port
        that the holder keeps beside the new one. Raises NoFreePort, PortTaken,
        PortOutOfRange.
        """
        requested = "" if wanted is None else str(wanted)
        avoided = (str(avoid[0]), in_ms(avoid[1])) if avoid else ("", 0)
        kept = "" if keep is None else str(keep)
        lease = (self._prefix, holder, fence, in_ms(keys.PORT_LEASE), requested, *avoided, kept)
        reply = self._run("ports/lease", self._keys, *lease)
        if reply in ("none", "out of range"):  # also the reply of a Redis that has lost the range
            self.set_range(self._ports)
            reply = self._run("ports/lease", self._keys, *lease)
        if isinstance(reply, int):
            return reply
        first, last = self._ports[0], self._ports[-1]
        if isinstance(reply, list):
            conflicting = readable_lease(self._host, requested, 0, reply[0]) if reply[0] else None
            leased_by = conflicting.holder if conflicting else "something else than AIMA"
            raise PortTaken(port=wanted, host=self._host, holder=leased_by)
        if reply == "none":
            raise NoFreePort(first=first, last=last, host=self._host)
        raise PortOutOfRange(port=wanted, first=first, last=last, host=self._host)

    def persist(self, holder: InstanceId, port: int, *, fence: int) -> bool:
        """Makes the lease permanent until its container is gone.

        False if another instance holds the port, or a later operation has moved the lease to another (fencing).
        """
        return bool(self._run("ports/persist", self._keys, self._prefix, holder, fence, str(port)))

    def release(self, holder: InstanceId, *, fence: int, port: int | None = None) -> bool:
        """Releases its last port, or another that it has kept.

        False if the holder has no lease of it, or a later operation leased it since (fencing).
        """
        kept = "" if port is None else str(port)
        return bool(self._run("ports/release", self._keys, self._prefix, holder, fence, kept))

    def all(self) -> list[PortLease]:
        """The leases in force on the host, by port."""
        known = self._redis.zrange(keys.ports(self._host), 0, -1, withscores=True)
        leased = [(port, end) for port, end in known if end > _LAST_PORT]
        if not leased:
            return []
        texts = self._redis.mget([f"{self._prefix}{port}" for port, _ in leased])
        found = zip(leased, texts, strict=True)
        leases = (readable_lease(self._host, port, end, text) for (port, end), text in found if text)
        return sorted((lease for lease in leases if lease), key=lambda lease: lease.port)


def port_listing(redis: TextRedis, *, limit: int | None = None, after: str | None = None) -> tuple[str, str | None]:
    """JSON objects of PortLease with a comma between them, by host and port, in one round trip; and the next cursor.

    Raises BrokerUnavailable within seconds.
    """
    by_host = _texts(redis)
    if limit is None and after is None:
        return ",".join(lease for host, text in by_host for lease in _leases_json(host, text).values()), None
    host_after, _, port_after = (after or "").rpartition(":")
    left = [
        (f"{host}:{port}", lease)
        for host, text in by_host
        if host >= host_after
        for port, lease in _leases_json(host, text).items()
        if host > host_after or port > int(port_after if port_after.isdecimal() else 0)
    ]
    page = left[:limit]
    return ",".join(lease for _, lease in page), page[-1][0] if len(page) < len(left) else None


def leases_of_all_hosts(redis: TextRedis) -> Iterator[tuple[str, str, str, str]]:
    """Host, port, end and text of each lease. Raises BrokerUnavailable."""
    return ((host, *row) for host, text in _texts(redis) for row in _rows(text))


def _texts(redis: TextRedis) -> list[tuple[str, str]]:
    found = Scripts(redis)("ports/list", [keys.HOSTS], keys.ports, keys.port, _LAST_PORT)
    return sorted((host, text) for host, text in zip(found[::2], found[1::2], strict=True) if text)


def _rows(text: str) -> list[tuple[str, str, str]]:
    """Port, end and lease of each."""
    lines = text.split("\n")
    return list(zip(lines[::3], lines[1::3], lines[2::3], strict=True))


@lru_cache(maxsize=2048)
def _leases_json(host: str, text: str) -> dict[int, str]:
    """By port. Cached by its text, since a host's leases seldom change and listings are requested repeatedly."""
    found = (readable_lease(host, *row) for row in _rows(text))
    leases = sorted((lease for lease in found if lease), key=lambda lease: lease.port)
    return {lease.port: lease.model_dump_json() for lease in leases}


def readable_lease(host: str, port: str, end: str | float, text: str) -> PortLease | None:
    """None for one that AIMA did not write."""
    return readable(f"port lease on {host}", port, lease_from, host, port, end, text)


def lease_from(host: str, port: str, end: str | float, text: str) -> PortLease:
    lease, end = from_json(text), float(end)
    return PortLease.model_construct(
        host=HostName(host),
        port=int(port),
        holder=InstanceId(lease["holder"]),
        fence=int(lease["fence"]),
        since=datetime.fromtimestamp(float(lease["since"]) / 1000, UTC),
        until=None if end == float("inf") else datetime.fromtimestamp(end / 1000, UTC),
    )
