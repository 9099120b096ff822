"""Why an operation waits, told by whoever finds it waiting: what speaks against each host that it could go to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

from aima_core.domain.ids import HostName
from aima_core.domain.operations import Event, Operation, Phase
from aima_core.domain.resources import ResourceRequest
from aima_core.scheduling.feasibility import Obstacle, PlacementRequirements, find_obstacles, permanent
from aima_core.store.allocations import AllocationStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore, now


class PendingReasons:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, operations: OperationStore, *, hosts: HostStore, allocations: AllocationStore) -> None:
        self._operations = operations
        self._hosts = hosts
        self._allocations = allocations

    def obstacles(self, operation: Operation) -> dict[HostName, list[Obstacle]]:
        """What speaks against each host that listens to one of its routes; nothing against one that would do now."""
        routes = {operation.route, *operation.routes}
        listening = [host for host in self._hosts.all() if routes & set(host.routes)]
        names = [host.name for host in listening]
        held, busy = self._allocations.held_on(names), self._allocations.busy_on(names)
        wanted = PlacementRequirements(
            routes=(), resources=operation.needs or ResourceRequest(), service=operation.service
        )
        return {host.name: find_obstacles(host, wanted, held[host.name], busy=busy[host.name]) for host in listening}

    def record_reason(self, operation: Operation, reason: str) -> None:
        """Unless it was told so before."""
        if reason != operation.reason:
            self._operations.append_event(Event(operation=operation.id, at=now(), phase=Phase.QUEUED, message=reason))

    def record_no_capacity(self, operation: Operation, why: str) -> None:
        self.record_reason(operation, f"No host has room now: {why}. It starts when one has.")

    def explain(self, operation: Operation) -> None:
        """Tell it where no host would do now; else somebody is about to take it on."""
        against = self.obstacles(operation)
        if against and all(against.values()):
            self.record_no_capacity(operation, explain(against))


MOST_NAMED = 5
"""Hosts told by name; of the others, how many there are of each obstacle."""

Against = Mapping[HostName, Sequence[Obstacle]]
_OF_SEVERAL = {"is": "are", "has": "have", "does": "do", "runs": "run"}


def explain(against: Against) -> str:
    """`spark-01 has 20 GB of 92 GB memory to spare; spark-02 and spark-03 are drained; and 195 more (drained: 195)`.

    Those that are nearest to doing come first.
    """
    refused = sorted((host for host in against if against[host]), key=lambda host: _distance(against[host]))
    named, others = refused[:MOST_NAMED], refused[MOST_NAMED:]
    if len(refused) == MOST_NAMED + 1:
        named, others = refused, []
    groups = groupby(named, key=lambda host: [reason.sentence for reason in against[host]])
    told = [_told(list(hosts), sentences) for sentences, hosts in groups]
    if others:
        told.append(_counted([against[host] for host in others]))
    return "; ".join(told)


def join_with_and(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _distance(reasons: Sequence[Obstacle]) -> tuple[int, int, list[str]]:
    return len(permanent(reasons)), len(reasons), [reason.sentence for reason in reasons]


def _told(names: Sequence[str], sentences: Sequence[str]) -> str:
    said = sentences if len(names) == 1 else [_of_several(sentence) for sentence in sentences]
    return f"{join_with_and(names)} {join_with_and(said)}"


def _of_several(sentence: str) -> str:
    verb, _, rest = sentence.partition(" ")
    return f"{_OF_SEVERAL.get(verb, verb)} {rest}"


def _counted(others: Sequence[Sequence[Obstacle]]) -> str:
    counts = Counter(reasons[0].kind.value.replace("_", " ") for reasons in others)
    return f"and {len(others)} more ({', '.join(f'{what}: {count}' for what, count in counts.most_common())})"
