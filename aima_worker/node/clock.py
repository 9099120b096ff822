"""How far this host's clock is from Redis', which is everybody's."""

from __future__ import annotations

import time
from collections.abc import Callable

from aima_core.redis.interface import TextRedis


def clock_offset(redis: TextRedis, *, now: Callable[[], float] = time.time) -> float:
    """Seconds by which this clock is ahead. Wrong by half the round trip at most. Raises BrokerUnavailable."""
    asked = now()
    seconds, microseconds = redis.time()
    return (asked + now()) / 2 - (seconds + microseconds / 1e6)
