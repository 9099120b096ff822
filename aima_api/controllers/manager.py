"""What an API node does by itself: rings again for what nobody carries out, has the work of lost hosts moved, and
gives up what no host listens for.

Any number of nodes may do so; of those that look at the hosts, one does at a time.
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from threading import Event as Flag
from threading import Thread

import structlog

from aima_api.controllers.failover import Moving
from aima_api.controllers.failure_detector import loss_among
from aima_api.controllers.unroutable import Unheard
from aima_api.controllers.watching import Watch
from aima_core.errors import BrokerUnavailable
from aima_core.queue.notifier import Doorbell
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.scheduling.pending import WhyItWaits
from aima_core.scheduling.redelivery import ring_again
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore

LOOK_SECONDS = 5.0

_log = structlog.get_logger()


class Upkeep:
    def __init__(
        self,
        redis: TextRedis,
        moving: Moving,
        *,
        operations: OperationStore,
        hosts: HostStore,
        doorbell: Doorbell,
        why_it_waits: WhyItWaits,
        unheard: Unheard,
        lost_after: timedelta,
    ) -> None:
        self._redis = redis
        self._moving = moving
        self._operations = operations
        self._hosts = hosts
        self._doorbell = doorbell
        self._why_it_waits = why_it_waits
        self._unheard = unheard
        self._lost_after = lost_after
        self.watch = Watch(looks_every=timedelta(seconds=LOOK_SECONDS))
        self._suspicion: str | None = None
        self._ended = Flag()
        self._node = uuid.uuid4().hex

    def begin(self) -> None:
        Thread(target=self._keep_looking, name="upkeep", daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def look(self) -> None:
        """Raises BrokerUnavailable."""
        ring_again(self._operations, self._doorbell, self._why_it_waits)
        watched_for = self.watch.look()
        if self._redis.set(keys.UPKEEP, self._node, px=int(LOOK_SECONDS * 900), nx=True):
            self._look_at_hosts(watched_for)

    def _look_at_hosts(self, watched_for: timedelta) -> None:
        hosts = self._hosts.all()
        loss = loss_among(hosts, after=self._lost_after, watched_for=watched_for)
        if loss.suspicion != self._suspicion:
            self._suspicion = loss.suspicion
            _log.warning(loss.suspicion or "the hosts are heard of again")
        for host in loss.lost:
            self._moving.move_from(host.name)
        self._unheard.look(hosts, watched_for=watched_for)

    def _keep_looking(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                self.look()
            except BrokerUnavailable as away:
                self.watch.lose_sight()
                _log.warning("no upkeep", reason=str(away))
            except Exception:  # noqa: BLE001 the boundary of the thread: a look that fails must not be the last
                _log.exception("upkeep failed")
