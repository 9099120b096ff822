"""Heartbeat: announces this host's facts as it joins and each minute, and renews its membership every 5 seconds.

The reply reports a Redis that has lost its data, a drained host, or another worker that has taken the name. A pass that
fails is retried; only another worker of that name ends the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from threading import Event, Lock
from typing import NamedTuple

import structlog

from aima_core.domain.hosts import HostFacts
from aima_core.errors import BrokerUnavailable, CorruptData, HostNameTaken, IdentityTaken
from aima_core.queue.transport import DroppedMessages
from aima_core.store.hosts import HeartbeatReply, Membership
from aima_core.system.background import BackgroundLoop
from aima_core.system.state_dir import write_atomically
from aima_worker.context import HostContext

HEARTBEAT_INTERVAL = timedelta(seconds=5)
HEARTBEATS_PER_ANNOUNCEMENT = 12
STOP_TIMEOUT = timedelta(seconds=1)

_log = structlog.get_logger()


class Heartbeat:
    def __init__(
        self,
        host: HostContext,
        facts: Callable[[], HostFacts],
        *,
        identity: str,
        session: str,
        dropped: DroppedMessages,
        redis_is_new: Callable[[], None],
        displaced: Callable[[HostNameTaken | IdentityTaken], None],
        interval: timedelta = HEARTBEAT_INTERVAL,
    ) -> None:
        """`redis_is_new`: Redis has lost its data. `displaced`: another worker has the name."""
        self._hosts = host.hosts
        self._host = host.name
        self._capacity_changed = host.capacity_freed.set
        self._facts = facts
        self._identity = identity
        self._session = session
        self._dropped = dropped
        self._redis_is_new = redis_is_new
        self._displaced = displaced
        self._file = RedisState.file_of(host)
        self._known = RedisState.load(self._file)
        self._joined = host.settings.state_dir.expanduser() / "joined"
        self._own_mark = f"{host.name} {identity} {session.partition(':')[2]}\n"
        self._drained = False
        self._heartbeats_to_announcement = 0
        self._facts_changed = Event()
        self._leaving = Lock()
        self._loop = BackgroundLoop("heartbeat", self._run_pass, interval=interval)

    def start(self) -> None:
        """Raises HostNameTaken, IdentityTaken if another live worker has the name or identity; BrokerUnavailable."""
        facts = self._facts()  # before joining, since it takes a while: a live host has no stale facts
        self._join()
        self._hosts.announce(facts)
        self._loop.start()

    @property
    def has_joined_before(self) -> bool:
        """Whether this very host, not a copy of its disk, has had the name: then another's session may be forged."""
        return self._joined.exists() and self._joined.read_text() == self._own_mark

    def announce_now(self) -> None:
        """The facts have changed: announces them with a heartbeat at once."""
        self._facts_changed.set()
        self._loop.wake()

    def stop(self) -> None:
        """Leaves, if the host has joined and not left. Waits for a concurrent call, after which the process may end."""
        with self._leaving:
            if self._loop.stopped or not self._loop.started:
                return
            self._loop.stop(within=STOP_TIMEOUT)  # race: a heartbeat after `leave` would make the host live again
            try:
                self._report_dropped()
                self._hosts.leave(self._host)
            except (BrokerUnavailable, CorruptData) as unavailable:
                _log.warning("leave not recorded", reason=str(unavailable))

    def send(self) -> None:
        """One heartbeat. Raises HostNameTaken, IdentityTaken, BrokerUnavailable."""
        reply = self._hosts.heartbeat(self._host, identity=self._identity, session=self._session)
        if reply.membership is not Membership.OK:
            self._join()
        if self._heartbeats_to_announcement == 0 or self._facts_changed.is_set():
            self._announce()
            self._capacity_changed()
        self._heartbeats_to_announcement -= 1
        self._apply(reply)
        self._report_dropped()

    def _join(self) -> None:
        self._hosts.join(self._host, identity=self._identity, session=self._session)
        self._heartbeats_to_announcement = 0
        if not self.has_joined_before:
            write_atomically(self._joined, self._own_mark)

    def _announce(self) -> None:
        self._facts_changed.clear()  # before they are read: a concurrent change is announced by the next heartbeat
        self._heartbeats_to_announcement = 0  # until it has succeeded
        self._hosts.announce(self._facts())
        self._heartbeats_to_announcement = HEARTBEATS_PER_ANNOUNCEMENT

    def _run_pass(self) -> None:
        try:
            self.send()
        except (HostNameTaken, IdentityTaken) as taken:
            self._loop.stop()
            self._displaced(taken)

    def _report_dropped(self) -> None:
        self._dropped.flush(lambda number: self._hosts.count_dropped(self._host, number))

    def _apply(self, reply: HeartbeatReply) -> None:
        known = self._known
        is_new = known.epoch not in (None, reply.epoch)
        state = RedisState(reply.epoch, reply.drained or (is_new and known.drained))
        if is_new:
            _log.warning("Redis data lost, records restored")
            if state.drained and not reply.drained:
                self._hosts.drain(self._host)
            self._redis_is_new()
        if state.drained is not self._drained:
            self._drained = state.drained
            _log.info("host drained" if state.drained else "host resumed")
            self._capacity_changed()
        if state != known:
            state.save(self._file)
            self._known = state


class RedisState(NamedTuple):
    """What Redis may lose while the worker is down, in the state directory."""

    epoch: str | None = None
    """Minted by Redis' first worker: another epoch means that Redis has lost its data."""
    drained: bool = False

    @classmethod
    def of(cls, host: HostContext) -> RedisState:
        """Of the data set to which the host has restored what it knows."""
        return cls.load(cls.file_of(host))

    @staticmethod
    def file_of(host: HostContext) -> Path:
        return host.settings.state_dir.expanduser() / "redis.epoch"

    @classmethod
    def load(cls, file: Path) -> RedisState:
        """Empty if nothing readable was saved."""
        words = file.read_text().split() if file.exists() else []
        return cls(words[0], "drained" in words[1:]) if words else cls()

    def save(self, file: Path) -> None:
        write_atomically(file, f"{self.epoch}{' drained' if self.drained else ''}\n")
