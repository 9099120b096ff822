"""Announces this host: its facts as it joins and each minute, and heartbeats between, while the worker lives.

What a heartbeat is answered is passed on: that Redis has lost its data, or that another worker has the name now.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import NamedTuple

import structlog

from aima_core.domain.hosts import HostFacts
from aima_core.domain.ids import HostName
from aima_core.errors import BrokerUnavailable, HostNameTaken, IdentityTaken
from aima_core.queue.transport import DroppedMessages
from aima_core.redis.interface import TextRedis
from aima_core.store.hosts import HeartbeatReply, HostStore, Membership
from aima_core.system.state_dir import write_atomically

BEAT_SECONDS = 5.0
BEATS_BETWEEN_FACTS = 12
LAST_BEAT_SECONDS = 1.0

_log = structlog.get_logger()


class Heartbeat:
    def __init__(
        self,
        hosts: HostStore,
        host: HostName,
        facts: Callable[[], HostFacts],
        *,
        identity: str,
        session: str,
        memory: PersistedRedisState,
        dropped: DroppedMessages,
        redis_is_new: Callable[[], None],
        displaced: Callable[[HostNameTaken | IdentityTaken], None],
    ) -> None:
        """`redis_is_new` is called when Redis has lost its data; `displaced` when another worker has the name."""
        self._hosts = hosts
        self._host = host
        self._facts = facts
        self._identity = identity
        self._session = session
        self._dropped = dropped
        self._redis_is_new = redis_is_new
        self._displaced = displaced
        self._memory = memory
        self._known = memory.load()
        self._drained = False
        self._ended = False
        self._woken = Flag()
        self._heartbeats_to_facts = 0
        self._thread = Thread(target=self._run, name="beat", daemon=True)

    def start(self) -> None:
        """Raises HostNameTaken, IdentityTaken where another worker that lives goes by it; BrokerUnavailable."""
        facts = self._facts()  # asked before: it takes a while, and a host that lives has no old facts
        self._join()
        self._hosts.announce(facts)
        self._thread.start()

    def announce_now(self) -> None:
        """Something has changed about the host: tell it with the next beat, which is now."""
        self._heartbeats_to_facts = 0
        self._woken.set()

    def stop(self) -> None:
        """Tell that the host leaves, if it has joined and not left."""
        if self._ended or self._thread.ident is None:
            return
        self._ended = True
        self._woken.set()
        self._thread.join(LAST_BEAT_SECONDS)  # a beat under way would have the host live again
        try:
            self._report_dropped()
            self._hosts.leave(self._host)
        except BrokerUnavailable as away:
            _log.warning("left without saying so", reason=str(away))

    def _join(self) -> None:
        self._hosts.join(self._host, identity=self._identity, session=self._session)
        self._heartbeats_to_facts = 0

    def _run(self) -> None:
        while not self._ended:
            self._woken.clear()
            try:
                self._send()
            except BrokerUnavailable as away:
                _log.warning("no heartbeat", reason=str(away))
            except (HostNameTaken, IdentityTaken) as taken:
                self._ended = True
                self._displaced(taken)
            self._woken.wait(BEAT_SECONDS)

    def _send(self) -> None:
        pulse = self._hosts.heartbeat(self._host, identity=self._identity, session=self._session)
        if pulse.membership is not Membership.OK:
            self._join()
        if self._heartbeats_to_facts == 0:
            self._hosts.announce(self._facts())
            self._heartbeats_to_facts = BEATS_BETWEEN_FACTS
        self._heartbeats_to_facts -= 1
        self._apply(pulse)
        self._report_dropped()

    def _report_dropped(self) -> None:
        self._dropped.flush(lambda number: self._hosts.count_dropped(self._host, number))

    def _apply(self, pulse: HeartbeatReply) -> None:
        known = self._known
        is_new = known.epoch not in (None, pulse.epoch)
        now = RedisState(pulse.epoch, pulse.drained or (is_new and known.drained))
        if is_new:
            _log.warning("Redis has lost its data", what="this host puts back what it knows")
            if now.drained and not pulse.drained:
                self._hosts.drain(self._host)
            self._redis_is_new()
        if now.drained is not self._drained:
            self._drained = now.drained
            _log.info("drained" if now.drained else "resumed")
        if now != known:
            self._memory.save(now)
            self._known = now


class RedisState(NamedTuple):
    epoch: str | None = None
    drained: bool = False


class PersistedRedisState:
    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / "redis.epoch"

    def load(self) -> RedisState:
        """Nothing where nothing was kept, or nothing that can be read."""
        words = self._file.read_text().split() if self._file.exists() else []
        return RedisState(words[0], "drained" in words[1:]) if words else RedisState()

    def save(self, remembered: RedisState) -> None:
        write_atomically(self._file, f"{remembered.epoch}{' drained' if remembered.drained else ''}\n")


def clock_offset(redis: TextRedis, *, now: Callable[[], float] = time.time) -> float:
    """Seconds by which this clock is ahead. Wrong by half the round trip at most. Raises BrokerUnavailable."""
    asked = now()
    seconds, microseconds = redis.time()
    return (asked + now()) / 2 - (seconds + microseconds / 1e6)
