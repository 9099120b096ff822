"""Which hosts are lost: silent for so long that what is not bound to them is better begun elsewhere.

When many fall silent at once it is rather this side that is cut off, or Redis that has forgotten: then none is lost.
A worker that ended in good order leaves its engines running, and its host is not lost either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import NamedTuple

from aima_core.domain.hosts import Host
from aima_core.scheduling.pending import MOST_NAMED, join_with_and

WINDOW = timedelta(minutes=1)
"""Hosts that were last heard of within this of each other have vanished together."""
MOST_AT_ONCE = 0.2
"""A larger share of the hosts that vanishes together is not believed; one alone always is."""


class Loss(NamedTuple):
    lost: tuple[Host, ...]
    partition_suspected: str | None
    """Why no more are taken for lost; None where there is no doubt."""


def detect_lost_hosts(hosts: Sequence[Host], *, after: timedelta, watched_for: timedelta = timedelta.max) -> Loss:
    """None is lost before it was watched for as long as it may be silent."""
    silent = [host for host in hosts if not host.live and not host.left]
    lost, doubted = [], []
    for host in silent:
        batcher = [other for other in silent if abs(other.silent_for - host.silent_for) <= WINDOW.total_seconds()]
        there = sum(other.live for other in hosts) + sum(other.silent_for <= host.silent_for for other in silent)
        if len(batcher) > max(1.0, MOST_AT_ONCE * max(there, len(batcher))):
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
    def __init__(self, *, looks_every: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        """Two looks further apart than twice `looks_every` leave a break between them."""
        self._longest_gap = 2 * looks_every.total_seconds()
        self._clock = clock
        self._began: float | None = None
        self._looked = 0.0

    def observe(self) -> timedelta:
        """To be called when Redis has answered. Gives for how long there was no break."""
        now = self._clock()
        if self._began is None or now - self._looked > self._longest_gap:
            self._began = now
        self._looked = now
        return timedelta(seconds=now - self._began)

    def lose_sight(self) -> None:
        """Redis does not answer."""
        self._began = None
