"""An attacker who may write anything to Redis: captures records, forges their fields, and replays them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.commands import PUBLIC_KEY
from lab.desk import Desk, desk_of

from aima_core.domain.ids import OperationId
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.settings import Settings
from aima_worker.node.hardware import arch
from aima_worker.runtimes.fake.runtime import FakeRuntime

_OF_AN_ATTEMPT = ("attempt", "host", "claimed_by", "started_at", "ended_at", "failure", "cancel", "put_down")


class RedisWriter:
    """Has no signing key."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis

    def capture(self, id: OperationId) -> dict[str, str]:
        """The record, with its signed order."""
        return self._redis.hgetall(keys.operation(id))

    def forge(self, id: OperationId, **fields: str) -> None:
        for name, value in fields.items():
            self._redis.hset(keys.operation(id), name, value)

    def replay(self, record: dict[str, str], *, under: OperationId, **fields: str) -> OperationId:
        """Stores a captured record as that of a queued operation."""
        fresh = {name: value for name, value in record.items() if name not in _OF_AN_ATTEMPT}
        self._redis.delete(keys.operation(under), keys.claim(under), keys.log(under))
        self.forge(under, **{**fresh, "state": "queued", "phase": "queued", **fields})
        return under


@contextmanager
def a_host(redis: TextRedis, directory: Path, name: str = "alpha", **settings: Any) -> Iterator[Desk]:
    """A host with a fake container engine and a state directory of its own; public keys only, if none are given."""
    given = settings or {"trusted_keys": [PUBLIC_KEY]}
    made = Settings.model_validate(
        {
            "state_dir": directory / name,
            "installation": "test",
            "host": {"name": name, "ports": "18500-18599", "facts": {"memory": "8GB"}},
            **given,
        }
    )
    runtime = FakeRuntime(host=name, arch=arch(), images=["tiny:1"])
    with desk_of(made, redis, runtime, probe=runtime.probe) as desk:
        yield desk
