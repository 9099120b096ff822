"""Announces this host: its facts as it joins and each minute, and heartbeats between, while the worker lives."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event as Flag
from threading import Thread

import structlog

from aima_core.failures import BrokerUnavailable
from aima_core.host_store import HostStore
from aima_core.services import HostFacts

BEAT_SECONDS = 5.0
BEATS_BETWEEN_FACTS = 12

_log = structlog.get_logger()


class Beat:
    def __init__(self, hosts: HostStore, facts: Callable[[], HostFacts]) -> None:
        self._hosts = hosts
        self._facts = facts
        self._ended = Flag()

    def begin(self) -> None:
        Thread(target=self._beat, name="beat", daemon=True).start()

    def end(self) -> None:
        """Tell that the host leaves."""
        self._ended.set()
        try:
            self._hosts.leave(self._facts().name)
        except BrokerUnavailable as away:
            _log.warning("left without saying so", reason=str(away))

    def _beat(self) -> None:
        count = 0
        while not self._ended.is_set():
            try:
                if count % BEATS_BETWEEN_FACTS == 0:
                    self._hosts.announce(self._facts())
                else:
                    self._hosts.beat(self._facts().name)
                count += 1
            except BrokerUnavailable as away:
                count = 0  # Redis may have lost the facts: announce them anew
                _log.warning("no heartbeat", reason=str(away))
            self._ended.wait(BEAT_SECONDS)
