"""Rate limits as token buckets: each owner may send a burst, and then at a steady rate. Counted per API node."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta

MINUTE = timedelta(minutes=1).total_seconds()
MOST_OWNERS = 10_000
"""Buckets kept; the least recently used ones are dropped, and their owners begin with a full one again."""
_IPV6_CUSTOMER = 64
"""Bits of the network that a customer is given: its addresses have one owner."""


class TokenBuckets:
    def __init__(
        self, *, per_minute: int, burst: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """A bucket holds `burst` tokens, those of a minute by default."""
        self.per_minute = per_minute
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, owner: str, *, per_minute: int | None = None) -> timedelta | None:
        """Takes a token; if there is none, returns how long until the next one. `per_minute` is an owner's own rate."""
        now, per_minute = self._clock(), per_minute or self.per_minute
        rate, burst = per_minute / MINUTE, float(self._burst or per_minute)
        tokens, at = self._buckets.pop(owner, (burst, now))
        tokens = min(burst, tokens + (now - at) * rate)
        taken = tokens >= 1
        self._buckets[owner] = (tokens - 1 if taken else tokens, now)
        if len(self._buckets) > MOST_OWNERS:
            self._buckets.popitem(last=False)
        return None if taken else timedelta(seconds=(1 - tokens) / rate)


def network_of(address: str) -> str:
    """The owner of an address for a limit: the address itself, and of IPv6 its network."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _IPV6_CUSTOMER), strict=False))
    return address
