"""A POST that carries an Idempotency-Key is carried out once a day: sent again, it gives the operations of the first.

While the first is under way the key holds for a short time only, so that one whose API node died can be sent again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256

from pydantic import BaseModel

from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Operation
from aima_core.errors import InvalidRequest, RequestInProgress
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.store.operations import OperationStore

UNDER_WAY: timedelta = timedelta(seconds=30)
_KEY = re.compile(r"[!-~]{1,200}")


class Idempotency:
    def __init__(self, redis: TextRedis, operations: OperationStore) -> None:
        self._redis = redis
        self._operations = operations

    def once(
        self, key: str | None, what: str, body: BaseModel, submit: Callable[[], list[Operation]]
    ) -> list[Operation]:
        """What `submit` gives, or gave when the same was asked under this key.

        Raises InvalidRequest when the key was used for something else, RequestInProgress while the first is under way.
        """
        if key is None:
            return submit()
        _check(key)
        request = sha256(f"{what}\n{body.model_dump_json()}".encode()).hexdigest()
        place = keys.idempotency(key)
        if not self._redis.set(place, _answer(request, None), px=_ms(UNDER_WAY), nx=True):
            return self._again(key, request)
        try:
            operations = submit()
        except BaseException:
            self._redis.delete(place)
            raise
        self._redis.set(place, _answer(request, operations), px=_ms(keys.IDEMPOTENCY_TTL))
        return operations

    def _again(self, key: str, request: str) -> list[Operation]:
        first = json.loads(self._redis.get(keys.idempotency(key)) or "{}")
        if first.get("request", request) != request:
            remedy = "Use a new key for each request, such as a random UUID."
            raise InvalidRequest(detail=f"The Idempotency-Key {key} was used for another request.", remedy=remedy)
        if first.get("operations") is None:
            raise RequestInProgress(key=key)
        return [self._operations.get(OperationId(id)) for id in first["operations"]]


def _check(key: str) -> None:
    if not _KEY.fullmatch(key):
        remedy = "Use up to 200 plain characters without blanks, such as a random UUID."
        raise InvalidRequest(detail="The Idempotency-Key is not a usable one.", remedy=remedy)


def _answer(request: str, operations: list[Operation] | None) -> str:
    ids = None if operations is None else [operation.id for operation in operations]
    return json.dumps({"request": request, "operations": ids})


def _ms(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)
