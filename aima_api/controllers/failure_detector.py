"""The failure detector: a host is lost once its heartbeat has been missing for longer than the configured time.

If many hosts vanish together, a partition on this side or a reset of Redis is likelier than their loss: then none is
lost. A worker that shut down in order leaves its engines running, so its host is not lost either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import NamedTuple

from aima_core.domain.hosts import Host
from aima_core.scheduling.pending import MOST_NAMED, join_with_and

TOGETHER_WITHIN = timedelta(minutes=1)
"""Hosts whose last heartbeats are no further apart have vanished together."""
MAX_SHARE_LOST = 0.2
"""If a larger share of the hosts vanishes together, a partition is suspected; a single host never raises suspicion."""


class Loss(NamedTuple):
    lost: tuple[Host, ...]
    partition_suspected: str | None
    """The hosts that are not taken for lost, in a sentence; None without suspicion."""


def detect_lost_hosts(hosts: Sequence[Host], *, after: timedelta, watched_for: timedelta = timedelta.max) -> Loss:
    """No host is lost before this node has watched heartbeats for `after` without interruption."""
    silent = [host for host in hosts if not host.live and not host.left]
    lost, doubted = [], []
    for host in silent:
        together = [
            other for other in silent if abs(other.silent_for - host.silent_for) <= TOGETHER_WITHIN.total_seconds()
        ]
        before = sum(other.live for other in hosts) + sum(other.silent_for <= host.silent_for for other in silent)
        if len(together) > max(1.0, MAX_SHARE_LOST * max(before, len(together))):
            doubted.append(host)
        elif min(host.silent_for, watched_for.total_seconds()) > after.total_seconds():
            lost.append(host)
    return Loss(tuple(lost), _suspicion(doubted))


def _suspicion(doubted: Sequence[Host]) -> str | None:
    if not doubted:
        return None
    more = ["others"] if len(doubted) > MOST_NAMED else []
    names = join_with_and([*(host.name for host in doubted[:MOST_NAMED]), *more])
    return f"{names} fell silent together: this side may be the one cut off, so nothing of theirs is moved."


class VisibilityWindow:
    """For how long this node has observed heartbeats without interruption."""

    def __init__(self, *, interval: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        """Observations further apart than twice the interval restart the window."""
        self._longest_gap = 2 * interval.total_seconds()
        self._clock = clock
        self._began: float | None = None
        self._observed_at = 0.0

    def observe(self) -> timedelta:
        """Records that Redis answered. Returns the length of the window."""
        now = self._clock()
        if self._began is None or now - self._observed_at > self._longest_gap:
            self._began = now
        self._observed_at = now
        return timedelta(seconds=now - self._began)

    def reset(self) -> None:
        """Redis did not answer."""
        self._began = None
