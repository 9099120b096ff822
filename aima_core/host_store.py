"""Hosts in Redis: the facts each announces, and when it was last heard of, by Redis' own clock."""

from __future__ import annotations

from datetime import UTC, datetime

from aima_core import keys
from aima_core.failures import UnknownHost
from aima_core.ids import HostName, Route
from aima_core.services import Host, HostFacts
from aima_core.text_redis import TextRedis


class HostStore:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis

    def announce(self, facts: HostFacts) -> None:
        """Put down what a host has, and that it lives."""
        self._redis.hset(keys.HOSTS, facts.name, facts.model_dump_json())
        self.beat(facts.name)

    def beat(self, host: HostName) -> None:
        self._redis.zadd(keys.HOSTS_SEEN, {host: self._now()})

    def leave(self, host: HostName) -> None:
        """Say that the host's worker has ended in good order: it is not live from now on."""
        self._redis.zadd(keys.HOSTS_SEEN, {host: 0})

    def all(self) -> list[Host]:
        """By name, live or not."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.HOSTS)
            pipe.zrange(keys.HOSTS_SEEN, 0, -1, withscores=True)
            pipe.time()
            facts, scores, time = pipe.execute()
        seen, now = dict(scores), _seconds(time)
        return [_host(text, seen.get(name, 0.0), now) for name, text in sorted(facts.items())]

    def get(self, host: HostName) -> Host:
        """Raises UnknownHost."""
        if (text := self._redis.hget(keys.HOSTS, host)) is None:
            raise UnknownHost(host=host)
        return _host(text, self._redis.zscore(keys.HOSTS_SEEN, host) or 0.0, self._now())

    def live_routes(self) -> set[Route]:
        """The routes to which some live host listens."""
        return {route for host in self.all() if host.live for route in host.routes}

    def _now(self) -> float:
        return _seconds(self._redis.time())


def _seconds(time: tuple[int, int]) -> float:
    return float(time[0]) + float(time[1]) / 1e6


def _host(text: str, seen: float, now: float) -> Host:
    facts = HostFacts.model_validate_json(text).model_dump()
    live = now - seen < keys.HOST_DEAD.total_seconds()
    return Host(**facts, live=live, seen_at=datetime.fromtimestamp(seen, UTC))
