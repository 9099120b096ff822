"""Idempotency keys: a POST repeated with its Idempotency-Key within a day returns the operations of the first.

They belong to the caller's API key, so that one caller can neither read nor occupy another's.
While the first request is in progress the key is locked with a short TTL: after a crash of the node a retry succeeds
once the lock expires.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import from_json

from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Operation
from aima_core.errors import InvalidRequest, RequestInProgress
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import in_ms
from aima_core.store.operations import OperationStore
from aima_core.store.readable import UNREADABLE

IN_PROGRESS_TTL = timedelta(seconds=30)
_KEY = re.compile(r"[!-~]{1,200}")


class OwnedKey(NamedTuple):
    owner: str
    """The id of the caller's API key."""
    key: str

    @property
    def record(self) -> str:
        """The Redis key of the first request's result."""
        return keys.idempotency(sha256(f"{self.owner}\n{self.key}".encode()).hexdigest())


@dataclass(frozen=True)
class Idempotency:
    redis: TextRedis
    operations: OperationStore

    def once(
        self, key: OwnedKey | None, action: str, body: BaseModel, submit: Callable[[], list[Operation]]
    ) -> list[Operation]:
        """Calls `submit`, or returns the operations of the first request with this key.

        Raises InvalidRequest if the key belongs to another request, RequestInProgress while the first is running.
        """
        if key is None:
            return submit()
        if not _KEY.fullmatch(key.key):
            remedy = "Use up to 200 printable ASCII characters without spaces, such as a random UUID."
            raise InvalidRequest(detail="The Idempotency-Key is malformed.", remedy=remedy)
        request = sha256(f"{action}\n{body.model_dump_json()}".encode()).hexdigest()
        record = key.record
        if not self.redis.set(record, _encode(request, None), px=in_ms(IN_PROGRESS_TTL), nx=True):
            return self._first_result(key, request)
        try:
            operations = submit()
        except BaseException:
            self.redis.delete(record)
            raise
        self.redis.set(record, _encode(request, operations), px=in_ms(keys.IDEMPOTENCY_TTL))
        return operations

    def _first_result(self, key: OwnedKey, request: str) -> list[Operation]:
        first = _decode(self.redis.get(key.record))
        if first is None:
            self.redis.delete(key.record)  # another writer's: a retry succeeds
            raise RequestInProgress(key=key.key)
        if first.get("request", request) != request:
            remedy = "Use a new key for each request, such as a random UUID."
            raise InvalidRequest(detail=f"The Idempotency-Key {key.key} was used for another request.", remedy=remedy)
        if first.get("operations") is None:
            raise RequestInProgress(key=key.key)
        return [self.operations.get(id) for id in first["operations"]]


def _decode(text: str | None) -> dict[str, Any] | None:
    """The record, empty if it has expired since; None if it is unreadable."""
    try:
        record = from_json(text or "{}")
        ids = record.get("operations")
        return {**record, "operations": ids and [OperationId(id) for id in ids]}
    except UNREADABLE:
        return None


def _encode(request: str, operations: list[Operation] | None) -> str:
    ids = None if operations is None else [operation.id for operation in operations]
    return json.dumps({"request": request, "operations": ids})
