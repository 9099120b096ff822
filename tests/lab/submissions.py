"""Enqueues operations in Redis directly, and waits for them while Redis may be unavailable."""

from __future__ import annotations

from datetime import timedelta

from lab.commands import a_pull, a_start_of, enqueue_signed
from lab.fleet import ARCH, IMAGE
from lab.parts import eventually

from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Operation
from aima_core.errors import BrokerUnavailable
from aima_core.redis.connection import command_link
from aima_core.store.operations import OperationStore


class Submissions:
    """The operations of one host of a fleet."""

    def __init__(self, redis_url: str, *, host: str) -> None:
        self._link = command_link(redis_url)
        self._host = host
        self.store = OperationStore(self._link)

    def starts(self, count: int, *, named: str = "m") -> list[OperationId]:
        """Enqueues starts of that many services."""
        return [self.start(f"svc-tiny-{named}{number}") for number in range(count)]

    def start(self, service: str) -> OperationId:
        requires = {"platforms": [f"linux/{ARCH}"], "memory": "1MB"}
        return enqueue_signed(self.store, a_start_of(service, image=IMAGE, requires=requires), host=self._host).id

    def pull(self) -> OperationId:
        return enqueue_signed(self.store, a_pull(IMAGE), host=self._host).id

    def record(self, id: OperationId) -> Operation | None:
        """None while Redis does not answer."""
        try:
            return self.store.get(id)
        except BrokerUnavailable:
            return None

    def has_begun(self, id: OperationId) -> bool:
        """Whether a worker has claimed it. It may have ended by now: a fake engine loads for a moment only."""
        record = self.record(id)
        return record is not None and record.attempt > 0

    def have_ended(self, ids: list[OperationId], *, within: timedelta) -> bool:
        return eventually(lambda: all((it := self.record(id)) and it.state.ended for id in ids), within=within)

    def close(self) -> None:
        self._link.close()
