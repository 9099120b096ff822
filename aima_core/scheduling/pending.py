"""Pending operations: redelivers the message of those that no worker has claimed, and records why others wait.

Any worker or API node may run it; the script returns each operation to exactly one caller.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby

import structlog

from aima_core.domain.hosts import Host
from aima_core.domain.ids import HostName
from aima_core.domain.operations import Event, Operation, Phase
from aima_core.domain.resources import ResourceRequest
from aima_core.errors import CorruptData, UnknownOperation
from aima_core.queue.notifier import Notifier
from aima_core.scheduling.feasibility import NEEDS, Obstacle, PlacementRequirements, find_obstacles, joined, permanent
from aima_core.store.allocations import AllocationStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore, now

MOST_NAMED = 5
"""Hosts that are named; the others are counted by their first obstacle."""
Against = Mapping[HostName, Sequence[Obstacle]]
_log = structlog.get_logger()


class PendingReasons:
    """The obstacles on each host are the reason. Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, operations: OperationStore, *, hosts: HostStore, allocations: AllocationStore) -> None:
        self._operations = operations
        self._hosts = hosts
        self._allocations = allocations

    def obstacles(self, operation: Operation) -> list[tuple[Host, list[Obstacle]]]:
        """Each host that consumes one of its routes, with its obstacles; none for a host that is feasible now."""
        routes = {operation.route, *operation.routes}
        hosts = [host for host in self._hosts.all() if routes & set(host.routes)]
        names = [host.name for host in hosts]
        held, busy = self._allocations.held_on(names), self._allocations.busy_on(names)
        wanted = PlacementRequirements(
            routes=(), resources=operation.needs or ResourceRequest(), service=operation.service
        )
        return [(host, find_obstacles(host, wanted, held[host.name], busy=busy[host.name])) for host in hosts]

    def record_reason(self, operation: Operation, reason: str) -> None:
        """Appends an event, unless this is the reason already."""
        if reason != operation.reason:
            self._operations.append_event(Event(operation=operation.id, at=now(), phase=Phase.QUEUED, message=reason))

    def record_no_capacity(self, operation: Operation, why: str) -> None:
        self.record_reason(operation, f"No host has capacity now. {why}. It starts when one has.")

    def explain(self, operation: Operation) -> None:
        """Records the reason if no host is feasible now; otherwise a host is about to claim the operation."""
        against = by_name(self.obstacles(operation))
        if against and all(against.values()):
            self.record_no_capacity(operation, explain(against))


def by_name(found: Iterable[tuple[Host, Sequence[Obstacle]]]) -> Against:
    return {host.name: obstacles for host, obstacles in found}


def redeliver(operations: OperationStore, notifier: Notifier, pending_reasons: PendingReasons) -> int:
    """Redelivers stalled operations, and records why others are pending; returns how many wait for capacity.

    Raises BrokerUnavailable.
    """
    stalled = operations.find_stalled()
    for id, queue in stalled.undelivered:
        try:
            notifier.notify(operations.get(id), on=queue)
        except UnknownOperation:
            continue  # its record has expired since
        except CorruptData as unreadable:
            operations.end_unreadable(id, str(unreadable))
            _log.error("operation unreadable", operation=id, reason=str(unreadable))
        else:
            _log.info("operation redelivered", operation=id, queue=queue)
    for id in stalled.without_reason:
        with suppress(UnknownOperation, CorruptData):
            pending_reasons.explain(operations.get(id))
    return stalled.waiting


def explain(against: Against) -> str:
    """`spark-01: needs 92 GB memory (host: 20 GB free); spark-02 and spark-03: drained; and 195 more (drained: 195)`.

    The hosts nearest to feasible come first.
    """
    refused = sorted((host for host in against if against[host]), key=lambda host: _distance(against[host]))
    most = len(refused) if len(refused) == MOST_NAMED + 1 else MOST_NAMED
    named, others = refused[:most], refused[most:]
    groups = groupby(named, key=lambda host: [obstacle.sentence for obstacle in against[host]])
    clauses = [f"{join_with_and(list(hosts))}: {joined(sentences)}" for sentences, hosts in groups]
    if others:
        clauses.append(_count_by_kind([against[host] for host in others]))
    return "; ".join(clauses)


def join_with_and(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _distance(obstacles: Sequence[Obstacle]) -> tuple[int, int, list[tuple[bool, str]]]:
    """Of hosts with as many obstacles, those without free capacity come before drained and offline ones."""
    sentences = [(not obstacle.sentence.startswith(NEEDS), obstacle.sentence) for obstacle in obstacles]
    return len(permanent(obstacles)), len(obstacles), sentences


def _count_by_kind(others: Sequence[Sequence[Obstacle]]) -> str:
    counts = Counter(obstacles[0].kind.value.replace("_", " ") for obstacles in others)
    return f"and {len(others)} more ({', '.join(f'{kind}: {count}' for kind, count in counts.most_common())})"
