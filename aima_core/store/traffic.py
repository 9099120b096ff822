"""Traffic of gateways in Redis: requests in flight and in the last minute, by instance.

For people: nothing decides by it.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.store.readable import readable, replies


class Traffic(NamedTuple):
    in_flight: int = 0
    per_minute: int = 0


class TrafficStore:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis

    def publish(self, gateway: str, traffic: Mapping[str, Traffic]) -> None:
        """Replaces what this gateway has published; it counts for TRAFFIC_TTL."""
        seconds, _ = self._redis.time()
        with self._redis.pipeline() as pipe:
            pipe.hset(keys.TRAFFIC, gateway, json.dumps({"at": seconds, "instances": traffic}))
            pipe.expire(keys.TRAFFIC, keys.TRAFFIC_TTL)
            pipe.execute()

    def read(self) -> dict[str, Traffic]:
        """The sums over all gateways that have published lately, by instance."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.TRAFFIC)
            pipe.time()
            published, time = replies(pipe)
        in_flight, per_minute = Counter[str](), Counter[str]()
        for gateway, text in (published or {}).items():
            for instance, (running, rate) in (readable("traffic", gateway, _recent, text, time[0]) or {}).items():
                in_flight[instance] += running
                per_minute[instance] += rate
        return {instance: Traffic(in_flight[instance], per_minute[instance]) for instance in per_minute}


def _recent(text: str, now: int) -> dict[str, tuple[int, int]]:
    record = json.loads(text)
    if now - int(record["at"]) > keys.TRAFFIC_TTL.total_seconds():
        return {}
    return {str(id): (int(running), int(rate)) for id, (running, rate) in record["instances"].items()}
