"""Who may send a request, by Host, Origin and key: the checks that API nodes and gateways share.

On loopback they also block DNS rebinding (by the Host header) and cross-site requests (by Origin).
"""

from __future__ import annotations

import asyncio
import hmac
import math
from collections.abc import Sequence

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from pydantic import SecretStr

from aima_api.access.keys import ApiKey, KeyCache, digest_of
from aima_api.access.limits import TokenBuckets, network_of
from aima_api.access.scopes import Caller
from aima_api.access.scopes import Scope as AccessScope
from aima_core.errors import ForeignRequest, TooManyWrongKeys, Unauthorized
from aima_core.system.loopback import is_loopback

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
WRONG_KEYS_PER_MINUTE = 10
"""Per address, IPv6 by network; beyond it, requests with a wrong key get 429."""
LOOKUP_THREADS = 8
"""Apart from those of requests: unknown keys must not use up the threads that valid ones need."""


def check_origin(host: str, origin: str | None, method: str, *, loopback_only: bool) -> None:
    """Raises ForeignRequest."""
    if loopback_only and not is_loopback(_without_port(host)):
        raise ForeignRequest(what=f"the host {host[:200]!r}")
    if origin is not None and method not in SAFE_METHODS and origin.partition("://")[2] != host:
        raise ForeignRequest(what=f"the origin {origin[:200]!r}")


def bearer_key(authorization: str) -> str | None:
    """None without one."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


class SettingsKeys:
    """The keys in `api.keys`, whose callers are admins."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._callers = [_settings_key(number, key) for number, key in enumerate(keys)]

    def __len__(self) -> int:
        return len(self._callers)

    def caller(self, digest: str) -> Caller | None:
        # Compares with every key, each in constant time: the duration reveals nothing of a key.
        matching = [caller for its, caller in self._callers if hmac.compare_digest(its, digest)]
        return matching[0] if matching else None


class _Lookup:
    """The lookup of a key in Redis, shared by all waiting requests; it is cancelled with the last of them."""

    def __init__(self, task: asyncio.Task[ApiKey]) -> None:
        self.task = task
        self.waiting = 0


class KeyLookup:
    """Finds stored keys from an event loop, and limits wrong ones by address."""

    def __init__(self, keys: KeyCache) -> None:
        self._keys = keys
        self._wrong_keys = TokenBuckets(per_minute=WRONG_KEYS_PER_MINUTE)
        self._threads = CapacityLimiter(LOOKUP_THREADS)
        self._lookups: dict[str, _Lookup] = {}
        """Running ones, by the key's digest."""

    async def find(self, digest: str, *, address: str) -> ApiKey:
        """Raises Unauthorized, TooManyWrongKeys, BrokerUnavailable."""
        try:
            return await self.confirm(digest)
        except Unauthorized as wrong:
            if (wait := self._wrong_keys.take(network_of(address))) is None:
                raise
            raise TooManyWrongKeys(address=address, wait=math.ceil(wait.total_seconds())) from wrong

    def confirmed(self, digest: str) -> ApiKey | None:
        """A key that needs no lookup. Raises Unauthorized."""
        return self._keys.confirmed(digest)

    async def confirm(self, digest: str) -> ApiKey:
        """Of a key that was valid. Raises Unauthorized, BrokerUnavailable."""
        if (key := self.confirmed(digest)) is not None:
            return key
        if (lookup := self._lookups.get(digest)) is None:
            task = asyncio.create_task(run_sync(self._keys.check, digest, limiter=self._threads))
            lookup = self._lookups[digest] = _Lookup(task)
        lookup.waiting += 1
        try:
            return await asyncio.shield(lookup.task)
        finally:
            lookup.waiting -= 1
            if lookup.task.done() or not lookup.waiting:
                lookup.task.cancel()  # no effect once it has ended
                if self._lookups.get(digest) is lookup:
                    del self._lookups[digest]


def _settings_key(number: int, key: SecretStr) -> tuple[str, Caller]:
    """The digest of a key in the settings, and its caller."""
    name = f"api.keys[{number}]"
    return digest_of(key.get_secret_value()), Caller(name, name, frozenset({AccessScope.ADMIN}))


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()
