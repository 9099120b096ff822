"""Announces this host: its facts as it joins and each minute, and heartbeats between, while the worker lives."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event as Flag
from threading import Thread

import structlog

from aima_core.failures import BrokerUnavailable
from aima_core.host_store import HostStore
from aima_core.ids import HostName
from aima_core.services import HostFacts

BEAT_SECONDS = 5.0
BEATS_BETWEEN_FACTS = 12

_log = structlog.get_logger()


class Beat:
    def __init__(self, hosts: HostStore, host: HostName, facts: Callable[[], HostFacts]) -> None:
        self._hosts = hosts
        self._host = host
        self._facts = facts
        self._ended = False
        self._woken = Flag()
        self._beats_to_facts = 0

    def begin(self) -> None:
        Thread(target=self._beat, name="beat", daemon=True).start()

    def announce_now(self) -> None:
        """Something has changed about the host: tell it with the next beat, which is now."""
        self._beats_to_facts = 0
        self._woken.set()

    def end(self) -> None:
        """Tell that the host leaves."""
        self._ended = True
        self._woken.set()
        try:
            self._hosts.leave(self._host)
        except BrokerUnavailable as away:
            _log.warning("left without saying so", reason=str(away))

    def _beat(self) -> None:
        while not self._ended:
            self._woken.clear()
            try:
                self._tell()
            except BrokerUnavailable as away:
                self._beats_to_facts = 0  # Redis may have lost the facts: announce them anew
                _log.warning("no heartbeat", reason=str(away))
            self._woken.wait(BEAT_SECONDS)

    def _tell(self) -> None:
        if self._beats_to_facts == 0:
            self._hosts.announce(self._facts())
            self._beats_to_facts = BEATS_BETWEEN_FACTS
        else:
            self._hosts.beat(self._host)
        self._beats_to_facts -= 1
